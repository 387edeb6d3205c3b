"""The settings of text, tokenizer and rows."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from fast_electra.parts import Section


class TokenizerConfig(Section):
    """The tokenizer: an existing one by `path`, or one trained on the corpus."""

    path: str | None = None
    """folder or hub name of an existing tokenizer; empty: train one on the corpus"""
    kind: Literal["text", "code"] = "text"
    """pre-tokenisation of a trained one: text, or code (indentation and runs of punctuation are tokens)"""
    vocabulary_size: int = Field(default=30522, ge=64)
    """number of tokens of a trained one, special tokens included"""


class DataConfig(Section):
    """Text, tokens and rows."""

    sources: list[Path] = Field(default=[])
    """files and folders of text, read by `data build`"""
    format: Literal["auto", "text", "code", "jsonl"] = "auto"
    """auto: by file name; text: a blank line or a file ends a document; code: a file is one; jsonl: a line is one"""
    text_field: str = "text"
    """the key of the text in JSON lines"""
    invalid_utf8: Literal["replace", "refuse"] = "replace"
    """what to do with bytes that are not UTF-8"""
    tokenizer: TokenizerConfig = TokenizerConfig()
    validation_fraction: float = Field(default=0.01, gt=0, lt=0.5)
    """share of the documents kept for validation, chosen by a digest of each document's text"""
    shards: Path | None = None
    """folder of token shards, written by `data build` and read by `pretrain`"""
    length: int = Field(default=128, ge=8)
    """tokens of a row, special tokens included"""
    attention: Literal["packed", "document"] = "packed"
    """packed: tokens see the whole row; document: only their own document"""
    workers: int | None = Field(default=None, ge=1)
    """processes that tokenise; empty: one a core"""
