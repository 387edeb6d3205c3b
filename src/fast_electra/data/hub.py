"""Data sets of the Hugging Face hub, `hf://NAME/CONFIG:SPLIT`, and folders that `datasets` saved.

Notable:
- a data set is pinned: `hf://NAME@REVISION/CONFIG:SPLIT` reads the same text again, and `pinned` finds the revision;
- no code of a data set is run: the library reads files of data only, and refuses those with a script;
- NAME may also be a local folder of data files;
- a saved folder is Arrow files, which need no `datasets`.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from fast_electra.data.columns import table_cells
from fast_electra.errors import DataError, first_line

PREFIX = "hf://"
_ADDRESS = re.compile(r"hf://(?P<name>.+?)(?:@(?P<revision>[^@/:]+))?/(?P<config>[^/:@]+):(?P<split>[^/]+)")
_ROWS = 256


@dataclass(frozen=True)
class HubDataset:
    """One split of a data set."""

    name: str
    config: str
    split: str
    revision: str | None = None
    streaming: bool = False
    """read over the network each time; otherwise the data set is downloaded once"""

    @classmethod
    def at(cls, address: str, streaming: bool = False) -> "HubDataset":
        """The data set of an address; DataError if it is not one."""
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise DataError(
                f"{address} (data.sources) is no address of a data set: write hf://NAME/CONFIG:SPLIT, for example "
                "hf://Salesforce/wikitext/wikitext-2-raw-v1:train; a data set with one configuration calls it default."
            )
        return cls(**found.groupdict(), streaming=streaming)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.name}{revision}/{self.config}:{self.split}"

    def pinned(self) -> "HubDataset":
        """The same data set with the revision that its address leads to now; a local folder has none."""
        if self.revision and re.fullmatch("[0-9a-f]{40}", self.revision):
            return self
        with self._loading() as datasets:
            builder = datasets.load_dataset_builder(self.name, self.config, revision=self.revision)
        revision = builder.hash if re.fullmatch("[0-9a-f]{40}", builder.hash or "") else None
        return replace(self, revision=revision)

    def size(self, column: str) -> int | None:
        """Bytes of the column's text; None if it is streamed and its description does not say."""
        if self.streaming:
            split = (self._opened.info.splits or {}).get(self.split)
            return split.num_bytes if split and split.num_bytes else None
        outer = next((name for name in self._opened.column_names if f"{column}.".startswith(f"{name}.")), None)
        return self._opened.select_columns([outer]).data.nbytes if outer else 0

    def cells(self, column: str) -> Iterator[bytes | None]:
        """The texts of a column as bytes; None for a cell without text.

        Raises:
            DataError: there is no such column of text, or the data set cannot be read.
        """
        with self._loading():
            for table in self._opened.with_format("arrow").iter(_ROWS):
                yield from table_cells(table, self, column)

    @cached_property
    def _opened(self) -> Any:
        with self._loading() as datasets:
            return datasets.load_dataset(
                self.name, self.config, split=self.split, revision=self.revision, streaming=self.streaming
            )

    @contextmanager
    def _loading(self) -> Iterator[Any]:
        try:
            import datasets  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise DataError(f"{self}: reading a data set of the hub needs datasets: pip install datasets.") from None
        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        try:
            yield datasets
        except (DataError, GeneratorExit):
            raise
        except Exception as error:  # of many kinds: no network, no such data set, split or file
            raise DataError(
                f"{self} can't be read ({first_line(error)}); correct data.sources, or try again."
            ) from error


def pinned_sources(sources: Sequence[Any], places: Sequence[str]) -> list[Any]:
    """The entries of `data.sources` with the revisions at which data sets of the hub were read.

    Args:
        sources: paths, addresses, or mappings with a `path`.
        places: those that token shards were made from; an entry that is at another place among them is not changed.
    """

    def pin(entry: Any, place: str) -> Any:
        path = entry["path"] if isinstance(entry, Mapping) else entry
        if not (str(path).startswith(PREFIX) and place.startswith(PREFIX)):
            return entry
        given, read = HubDataset.at(path), HubDataset.at(place)
        if given != replace(read, revision=given.revision):
            return entry
        return {**entry, "path": place} if isinstance(entry, Mapping) else place

    return [pin(entry, place) for entry, place in zip_longest(sources, places[: len(sources)], fillvalue="")]


def saved_dataset(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `save_to_disk` of `datasets` wrote; none if it is another folder.

    Raises:
        DataError: it holds several splits, or the rows of other files, or its description is damaged.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        raise DataError(
            f"{folder} (data.sources) is a data set with splits: name the one to read ({', '.join(splits) or 'none'}), "
            f"such as {folder / (splits or ['train'])[0]}."
        )
    if not ((folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()):
        return []
    try:
        state = json.loads((folder / "state.json").read_bytes())
        names = [Path(entry["filename"]).name for entry in state["_data_files"]]
        chosen = bool(state.get("_indices_data_files"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{folder / 'state.json'} is damaged: save the data set again by save_to_disk.") from error
    missing = next((name for name in names if not (folder / name).is_file()), None)
    if missing or chosen or not names:
        what = f"has no {missing}" if missing else "is a choice of rows" if chosen else "holds no rows"
        raise DataError(f"{folder} (data.sources) {what}: save the data set again by save_to_disk.")
    return [folder / name for name in names]
