"""Token shards: the format of a tokenised corpus on disk, and its reader. Everything is checked before it is read.

A folder holds manifest.json, tokenizer/, and for each split NAME-00000.bin, NAME-00000.ends.bin, NAME-00001.bin, …
docs/data.md describes the format. `shard_building.py` writes such a folder.

Notable:
- the shards are memory-mapped;
- a split is one stream: the tokens of each document, then a separator. `.ends.bin` says where documents end;
- the manifest, with a digest of every file, is written last.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fast_electra.data.files import MANIFEST, canonical_digest, verify_manifest
from fast_electra.errors import DataError
from fast_electra.terminal import command

FORMAT = "fast-electra token shards"
VERSION = 1

_REBUILD = "delete the folder and run `fast-electra data build` again"

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


class TokenStream:
    """A split as one stream of tokens: the tokens of each document, then a separator."""

    def __init__(self, folder: Path, shards: list[dict[str, Any]], dtype: np.dtype) -> None:
        self._tokens = [np.memmap(folder / s["file"], dtype=dtype, mode="r", shape=(s["tokens"],)) for s in shards]
        self._ends = [np.memmap(folder / s["ends"], dtype="<u8", mode="r", shape=(s["documents"],)) for s in shards]
        self._starts = np.cumsum([0, *(s["tokens"] for s in shards)])
        self.tokens = int(self._starts[-1])
        """number of tokens, including separators"""
        self.documents = sum(s["documents"] for s in shards)
        self.name = canonical_digest([str(folder.resolve()), shards])
        """the same for the same files"""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens `start` to `stop` (exclusive) as int64, from as many shards as needed."""
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"tokens {start} to {stop} of a stream of {self.tokens}")
        found = np.empty(stop - start, dtype=np.int64)
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        done = start
        while done < stop:
            until = min(stop, int(self._starts[shard + 1]))
            base = int(self._starts[shard])
            found[done - start : until - start] = self._tokens[shard][done - base : until - base]
            done, shard = until, shard + 1
        return found

    def ends(self) -> Iterator[np.ndarray]:
        """Places where documents end (after their separators), int64, one array for each shard."""
        for ends, start in zip(self._ends, self._starts[:-1], strict=True):
            yield ends.astype(np.int64) + start


class TokenShards:
    """A finished folder of shards; use `open_shards`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tokenizer_fingerprint: str = manifest["tokenizer_fingerprint"]
        self.vocabulary_size: int = manifest["vocabulary_size"]
        """largest id + 1"""
        self.special_tokens: dict[str, int] = {k: v for k, v in manifest["special_tokens"].items() if v is not None}
        """ids by name: pad, unk, cls, sep, mask"""
        self.mixture: dict[str, float] = manifest.get("mixture", {})
        """weights of the sources by name; empty if the text is one source"""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all tokens, their order and their tokenizer, however and whenever they were made."""
        names = [shard[key] for split in SPLITS for shard in self.manifest["splits"][split] for key in ("file", "ends")]
        tokens = [[name, self.manifest["files"][name]["sha256"]] for name in names]
        weights = [list(self.mixture.items())] if self.mixture else []
        return canonical_digest([self.tokenizer_fingerprint, self.manifest["dtype"], tokens, *weights])

    def split(self, name: Split) -> TokenStream:
        """The token stream of a split, all sources in their order."""
        return self._stream(self.manifest["splits"][name])

    def sources(self, name: Split) -> list[TokenStream]:
        """The token streams of a split, one for each source of the mixture; without a mixture, one."""
        return [self._stream(shards) for shards in self._by_source(name)]

    def identities(self, name: Split, number: int) -> np.ndarray:
        """What each document of a part's split and source is known by, and its bytes: uint64 (documents, 2)."""
        names = [shard["identities"] for shard in self._by_source(name)[number]]
        return np.concatenate([np.fromfile(self.folder / file, dtype="<u8").reshape(-1, 2) for file in names])

    def _by_source(self, name: Split) -> list[list[dict[str, Any]]]:
        """The shards of a split, a list for each source of the mixture; without a mixture, one list."""
        shards = self.manifest["splits"][name]
        return [[shard for shard in shards if shard["source"] == source] for source in self.mixture] or [shards]

    def _stream(self, shards: list[dict[str, Any]]) -> TokenStream:
        return TokenStream(self.folder, shards, np.dtype(self.manifest["dtype"]).newbyteorder("<"))

    def most_frequent_token(self) -> int:
        """The id of the training split's most frequent token that is not special: the best guess without context."""
        return self.manifest["most_frequent_token"]


def open_shards(
    folder: str | Path, verify: bool = True, share: tuple[int, int] = (0, 1), part: bool = False
) -> TokenShards:
    """Open a folder that `build_shards` wrote.

    Args:
        folder: holds manifest.json.
        verify: read every byte and compare digests (about 1 s per GB); otherwise only the manifest and sizes.
        share: see `verify_manifest`.
        part: the folder is a part that `data build --shard` wrote; otherwise parts are refused.

    Raises:
        DataError: names the file that is missing, cut short or changed, and what to do.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise DataError(_no_shards(folder))
    manifest = verify_manifest(folder, verify, _REBUILD, share)
    _refuse_other_format(folder, manifest)
    _refuse_inconsistent(folder, manifest)
    number = manifest["settings"].get("part")
    if number and not part:
        raise DataError(
            f"{folder} is part {number[0]} of {number[1]}: join the parts by "
            f"`{command('data', 'merge', folder.parent, '--out')} SHARDS`, and name the folder of shards."
        )
    if part and not number:
        raise DataError(f"{folder} is no part of token shards: delete it, and build the part again.")
    return TokenShards(folder, manifest)


def refuse_other_content(folder: Path) -> None:
    """Raise DataError if token shards cannot be written to a folder, which must be new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} holds something that is not token shards; choose a new or empty folder.")


def row_count(tokens: int, length: int) -> int:
    """Number of rows of `length` tokens in a stream of `tokens`; its last separator takes no room in a row."""
    return max(0, -(-(tokens - 1) // (length - 2)))


def _no_shards(folder: Path) -> str:
    here = "" if folder.is_absolute() else f" in {Path.cwd()}"
    why = "" if folder.is_dir() else f": it is not a folder{here}"
    write = command("data", "build", "CONFIG", "data.sources=[TEXTS]", "--out", folder)
    name = f"name a folder of token shards as data.shards, or write one with `{write}`"
    return f"{folder} holds no token shards{why}; {name}."


def _refuse_other_format(folder: Path, manifest: dict[str, Any]) -> None:
    if manifest.get("format") != FORMAT:
        raise DataError(_no_shards(folder))
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{folder} has version {manifest.get('version')} of the shard format, "
            f"and this program reads {VERSION}: {_REBUILD}."
        )


def _refuse_inconsistent(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse a manifest whose shards are not among its files, or have another length than it says."""
    files, width = manifest["files"], np.dtype(manifest["dtype"]).itemsize
    for shard in chain.from_iterable(manifest["splits"][name] for name in SPLITS):
        for name, expected in ((shard["file"], shard["tokens"] * width), (shard["ends"], shard["documents"] * 8)):
            if name not in files or files[name]["bytes"] != expected:
                raise DataError(f"{folder / MANIFEST} contradicts itself about {name!r}: {_REBUILD}.")
