"""The settings of text, tokenizer and rows: the section `data` of a configuration."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from fast_electra.parts import Section


def _kind(kind: Any) -> Any:
    return "text" if kind == "bpe" else kind


class TokenizerConfig(Section):
    """The tokenizer: an existing one by `path`, or one trained on the corpus."""

    path: str | None = None
    """folder or hub name of an existing tokenizer, or a spiece.model; empty: train one on the corpus"""
    kind: Annotated[Literal["text", "code", "unigram", "wordpiece"], BeforeValidator(_kind)] = "text"
    """of a trained tokenizer: text and code are byte-level BPE (code: indentation is tokens); unigram; wordpiece"""
    vocabulary_size: int = Field(default=30522, ge=64)
    """number of tokens of a trained tokenizer, including special tokens"""


@dataclass(frozen=True)
class Source:
    """An entry of `data.sources`."""

    path: str
    """a file, a folder, or hf://NAME/CONFIG:SPLIT"""
    weight: float | None = None
    """share of the tokens that are trained on, relative to the other sources' weights; None: of its size"""
    name: str = ""
    """of the source in reports; empty: from the path"""
    streaming: bool = False
    """read a data set of the hub over the network each time, and store nothing"""

    @classmethod
    def of(cls, given: "str | PurePath | Mapping[str, Any]") -> "Source":
        """The entry that a path, or a mapping with a path, stands for; ValueError with a sentence if it is neither."""
        if not isinstance(given, Mapping):
            return cls(str(given))
        names = [field.name for field in fields(cls)]
        if unknown := next((name for name in given if name not in names), None):
            raise ValueError(f"an entry has no {unknown}; its keys are {', '.join(names)}")
        if not isinstance(given.get("path"), str):
            raise ValueError("an entry needs a path; write {path: FOLDER}")
        if not isinstance(given.get("streaming", False), bool):
            raise ValueError("streaming must be true or false")
        weight = given.get("weight")
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float) or weight <= 0):
            raise ValueError(f"weight must be a number greater than 0, not {weight}")
        name = given.get("name", "")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]*", name):
            raise ValueError(f"name must be of letters, digits, - and _, not {name}")
        return cls(**given)


def mixture(sources: "Iterable[str | PurePath | Mapping[str, Any]]") -> dict[str, float]:
    """The weights of `data.sources` by name, in their order; empty if they have none.

    Raises:
        ValueError: some sources have a weight and others none, or two have one name.
    """
    found = [Source.of(entry) for entry in sources]
    weighted = [source for source in found if source.weight is not None]
    if weighted and len(weighted) < len(found):
        without = next(source.path for source in found if source.weight is None)
        raise ValueError(f"{without} has no weight and others have one; give each source a weight, or none")
    weights: dict[str, float] = {}
    for source in weighted:
        name = source.name or re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source.path).stem).strip("-") or "source"
        if name in weights:
            raise ValueError(f"two sources have the name {name}; give each a name of its own")
        weights[name] = float(source.weight or 0.0)
    return weights


def _checked(entry: Any) -> Any:
    if not isinstance(entry, str | PurePath | Mapping):
        raise PydanticCustomError("string_type", "text")
    Source.of(entry)
    return str(entry) if isinstance(entry, PurePath) else entry


class DataConfig(Section):
    """Text, tokens and rows."""

    sources: list[Annotated[str | dict[str, Any], BeforeValidator(_checked)]] = Field(default=[])
    """files, folders and hf://NAME/CONFIG:SPLIT, read by `data build`; also {path: …, weight: 2.0, name: web}"""
    format: Literal["auto", "text", "code", "jsonl", "parquet"] = "auto"
    """auto: by name and content; text: blank lines end a document; code: one a file; jsonl and parquet: one a row"""
    text_field: str = "text"
    """key of the text in JSON lines, or column of the text in Parquet and Arrow"""
    invalid_utf8: Literal["replace", "refuse"] = "replace"
    """what to do with bytes that are not UTF-8"""
    tokenizer: TokenizerConfig = TokenizerConfig()
    validation_fraction: float = Field(default=0.01, gt=0, lt=0.5)
    """share of the documents that is kept for validation, chosen by a digest of each text"""
    shards: Path | None = None
    """folder of token shards, written by `data build` and read by `pretrain`"""
    length: int = Field(default=128, ge=8)
    """tokens of a row, including special tokens"""
    attention: Literal["packed", "document"] = "packed"
    """packed: tokens attend to the whole row; document: only to their own document"""
    workers: int | None = Field(default=None, ge=1)
    """number of processes that tokenise; empty: one for each core"""

    @field_validator("sources")
    @classmethod
    def _mixture(cls, sources: list[Any]) -> list[Any]:
        mixture(sources)
        return sources
