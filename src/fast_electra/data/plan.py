"""What a build of token shards will need: bytes, tokens and time, estimated from a few megabytes of the text.

Notable:
- the sample comes from files spread evenly over the corpus, so it may still differ from the whole;
- a compressed file is taken to hold four times its size.
"""

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fast_electra.data.encoding import Chunk, Encoder, available_cores
from fast_electra.data.reading import Reading
from fast_electra.data.sources import Sources
from fast_electra.data.tokenizer import ENCODING_PIECE, load_tokenizer, pieces, unknown_id
from fast_electra.data.tokenizer_training import train_tokenizer
from fast_electra.errors import DataError

if TYPE_CHECKING:
    from fast_electra.data.settings import DataConfig

_SAMPLE = 4_000_000  # characters
_FILES = 32


@dataclass
class BuildPlan:
    """What a build will need; all but the first two are estimates."""

    files: int
    bytes: int
    """of the files on disk"""
    text_bytes: int
    tokens: int
    shard_bytes: int
    """of the token shards"""
    rows: int
    """of `data.length` tokens each"""
    seconds: float
    """of this machine, with `workers` processes"""
    workers: int

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON; what depends on the machine is under `timing`."""
        content = asdict(self)
        return content | {"timing": {name: content.pop(name) for name in ("seconds", "workers")}}


def plan_build(config: "DataConfig", tokenizer_sample: int) -> BuildPlan:
    """Estimate a build of `config.sources`; nothing is written.

    Args:
        config: how to read and tokenise.
        tokenizer_sample: number of bytes that a tokenizer is trained on.

    Raises:
        DataError: there is nothing to read.
    """
    sources = Sources(config.sources, config.format, config.text_field, config.invalid_utf8)
    on_disk, text_bytes = sources.sizes()
    began = time.perf_counter()
    texts, files = _sample(sources)
    size = sum(len(text.encode()) for text in texts)
    if not size:
        raise DataError(f"{', '.join(map(str, sources.places))} (data.sources): the first documents hold no text.")
    reading = (time.perf_counter() - began) / size
    began, training = time.perf_counter(), 0.0
    if config.tokenizer.path is not None:
        tokenizer = load_tokenizer(config.tokenizer.path)
    else:
        tokenizer = train_tokenizer(texts, config.tokenizer, config.length, whole=False)
        training = (time.perf_counter() - began) / size
    encoder = Encoder(tokenizer.backend_tokenizer.to_str(), tokenizer.sep_token_id, unknown_id(tokenizer))  # type: ignore[arg-type]
    began = time.perf_counter()
    cut = [(piece, False) for text in texts for piece in pieces(text, ENCODING_PIECE)]
    tokens = len(encoder(Chunk("train", cut)).ids) + len(texts)
    encoding = (time.perf_counter() - began) / size
    whole = round(tokens * text_bytes / size)
    workers = config.workers or available_cores()
    seconds = text_bytes * (reading + encoding / workers)
    if training:
        seconds += text_bytes * reading + training * min(text_bytes, tokenizer_sample)
    width = 2 if config.tokenizer.vocabulary_size <= 2**16 else 4
    return BuildPlan(files, on_disk, text_bytes, whole, whole * width, whole // (config.length - 2), seconds, workers)


def _sample(sources: Sources) -> tuple[list[str], int]:
    """Texts from files that are spread over the corpus, and the number of all files."""
    files = [(path, kind) for _, path, kind in sources.files(Reading())]
    chosen = files[:: -(-len(files) // _FILES)] if files else []
    found: list[str] = []
    for path, kind in chosen:
        size = 0
        for document in sources.documents(path, kind, Reading()):
            found.append(document.text[:_SAMPLE])
            size += len(document.text)
            if size >= _SAMPLE // len(chosen):
                break
    return found, len(files)
