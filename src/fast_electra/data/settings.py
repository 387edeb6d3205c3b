"""The settings of text, tokenizer and rows: the section `data` of a configuration."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from fast_electra.parts import Section


class TokenizerConfig(Section):
    """The tokenizer: an existing one by `path`, or one trained on the corpus."""

    path: str | None = None
    """folder or hub name of an existing tokenizer; empty: train one on the corpus"""
    kind: Literal["text", "code"] = "text"
    """pre-tokenisation of a trained tokenizer: text, or code (indentation and repeated punctuation are tokens)"""
    vocabulary_size: int = Field(default=30522, ge=64)
    """number of tokens of a trained tokenizer, including special tokens"""


class DataConfig(Section):
    """Text, tokens and rows."""

    sources: list[Path] = Field(default=[])
    """files and folders of text, read by `data build`"""
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
