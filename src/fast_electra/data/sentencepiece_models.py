"""A SentencePiece model without the other files of its tokenizer (`spiece.model`), converted by Transformers.

Notable:
- ids are those of SentencePiece, for Unigram and for BPE models;
- the model's own pieces are the special tokens where it has them ([CLS], <s>, <pad>, …). Missing ones follow behind its
  vocabulary.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_electra.errors import DataError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPECIAL = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}


def lone_model(path: Path) -> Path | None:
    """The SentencePiece model at a path: a file in .model, or the only one in a folder without files of settings."""
    if path.is_file():
        return path if path.suffix == ".model" else None
    found = sorted(path.glob("*.model")) if path.is_dir() and not any(path.glob("*.json")) else []
    return found[0] if len(found) == 1 else None


def load_sentencepiece(file: Path) -> "PreTrainedTokenizerFast":
    """Convert a SentencePiece model to a fast tokenizer.

    Raises:
        DataError: the packages that read it are missing, or it is damaged or of a kind that cannot be converted.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        for package in ("sentencepiece", "google.protobuf"):
            import_module(package)
    except ImportError as error:
        raise DataError(
            f"{file} is a SentencePiece model, and reading it needs sentencepiece and protobuf: pip install "
            "sentencepiece protobuf, or name a folder with the model's tokenizer.json."
        ) from error
    convert: Any = import_module("transformers.convert_slow_tokenizer")
    try:
        read = convert.SentencePieceExtractor(str(file))
        backend = convert.SpmConverter.build_tokenizer_from_spm_proto(read.proto, read.extract(None)["vocab"])
        kinds = read.proto.trainer_spec
    except Exception as error:  # of protobuf, of Transformers, or a plain Exception from Rust
        raise DataError(
            f"{file} can't be converted ({first_line(error)}): name a folder with the tokenizer.json of its model."
        ) from error
    there = backend.get_vocab()
    names = {name: next((one for one in given if one in there), given[0]) for name, given in _SPECIAL.items()}
    tokens = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=kinds.unk_piece, **tokens)
