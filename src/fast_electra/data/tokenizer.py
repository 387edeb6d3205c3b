"""Tokenizers: loading an existing one, a fingerprint that identifies it, and what it does not know.

Notable:
- a plain Transformers tokenizer is saved: AutoTokenizer loads it without this package;
- `[MASK]` in the corpus is six characters of text, not the special token;
- Transformers is imported only where it is needed, since it costs seconds and 200 MB in each process that tokenises.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tokenizers import Tokenizer

from fast_electra.data.files import canonical_digest
from fast_electra.data.seals import refuse_broken_seal
from fast_electra.data.sentencepiece_models import load_sentencepiece, lone_model
from fast_electra.data.text_files import open_text
from fast_electra.errors import DataError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Training and encoding need memory for whole texts: 20 MB in long documents took 2 GB, in pieces 250 MB.
TRAINING_PIECE = 4_096
"""number of characters that a tokenizer is trained on at a time"""
ENCODING_PIECE = 16_384
"""number of characters that are tokenised at a time"""
NOTED_UNKNOWN = 0.01
"""share of unknown tokens above which `unknown_note` warns"""
_FILES = ("tokenizer.json", "vocab.*", "*.model")


def load_any_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer of any class from a folder, a SentencePiece model or a hub name; code with it is not run.

    Raises:
        DataError: there is none, or it cannot be loaded.
        ModelError: it belongs to a model whose seal is broken.
    """
    refuse_broken_seal(path, weights=False)
    from transformers import AutoTokenizer

    absent = DataError(
        f"{path} holds no tokenizer: save the one that belongs to its model there (tokenizer.json), or name a folder "
        "or hub name that holds one."
    )
    folder = Path(path)
    if model := lone_model(folder):
        return load_sentencepiece(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except Exception as error:  # OSError, ValueError, or a plain Exception from Rust
        if folder.is_dir() and not any(file for name in _FILES for file in folder.glob(name)):
            raise absent from error
        if (folder / "tokenizer.json").is_file():
            with open_text(folder / "tokenizer.json"):  # the error says what the file is
                pass
        raise DataError(
            f"the tokenizer {path} can't be loaded ({first_line(error)}); name a folder or hub name that holds one."
        ) from error
    # Without files, most classes return a tokenizer that has only special tokens.
    made_up = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), "▁"}
    if made_up.issuperset(tokenizer.get_vocab()):
        raise absent
    return tokenizer


def load_tokenizer(path: str | Path) -> "PreTrainedTokenizerFast":
    """Load a fast tokenizer for encoders from a folder or by its hub name; code that comes with it is not run.

    Raises:
        DataError: there is none, it cannot be loaded, is not fast, or has no pad, cls, sep or mask token.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = load_any_tokenizer(path)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(f"the tokenizer {path} has no tokenizer.json; convert it to a fast one.")
    missing = [name for name in ("pad", "cls", "sep", "mask") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise DataError(f"the tokenizer {path} has no {' and no '.join(missing)} token; take one for encoders.")
    tokenizer.split_special_tokens = True  # "[MASK]" in a text is text, as in the shards; this is not saved
    return tokenizer


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 (hex) over everything that decides which ids a text gets and what they mean.

    This is the vocabulary in its order, special tokens, merges, normalisation and pre-tokenisation, without padding,
    truncation and the row's length. Saving and loading does not change it.
    """
    content = json.loads(_backend(tokenizer).to_str())
    vocabulary = sorted(_backend(tokenizer).get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    # A list has scores too (Unigram); a mapping has no order, and `vocabulary` contains it already.
    model = {key: value for key, value in content["model"].items() if key != "vocab" or isinstance(value, list)}
    added = [
        {key: token[key] for key in ("id", "content", "special")}
        for token in sorted(content["added_tokens"], key=lambda token: token["id"])
    ]
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "cls", "sep", "mask")}
    return canonical_digest([vocabulary, special, added, model, content["normalizer"], content["pre_tokenizer"]])


def unknown_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The id for text that a fast tokenizer does not know, or None; its model may have one that its settings lack."""
    if tokenizer.unk_token_id is not None:
        return cast(int, tokenizer.unk_token_id)
    backend = _backend(tokenizer)
    model = json.loads(backend.to_str())["model"]
    token = model.get("unk_token")
    return model.get("unk_id") if token is None else backend.token_to_id(token)


def unknown_note(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], of: str) -> str | None:
    """A warning if more than 1 % of the tokens of some texts are unknown, else None; `of` names the texts."""
    unknown = unknown_id(tokenizer)
    if unknown is None or not texts:
        return None
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids = list(chain.from_iterable(cast("list[list[int]]", encoded["input_ids"])))
    share = ids.count(unknown) / max(1, len(ids))
    if share <= NOTED_UNKNOWN:
        return None
    return (
        f"warning: {share:.0%} of the tokens of {of} are [UNK], since the model's tokenizer does not "
        "know this text: the results say little."
    )


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Largest id + 1, the rows that a model's embedding needs; larger than the number of tokens if ids have gaps."""
    return max(_backend(tokenizer).get_vocab(with_added_tokens=True).values()) + 1


def pieces(text: str, size: int) -> Iterator[str]:
    """Cut a text into pieces of about `size` characters; joined, they are the text.

    A piece ends before a line break, if there is one within twice the size, otherwise before a space or anywhere.
    """
    start = 0
    while len(text) - start > size:
        stop = start + size
        cut = text.find("\n", stop, stop + size)
        if cut < 0:
            cut = text.find(" ", stop, stop + size)
        if cut < 0:
            cut = stop
        # Several line breaks are one token of code: cut before the first.
        before = cut
        while before > start + 1 and text[before - 1] in " \t\n" and cut - before < 256:
            before -= 1
        yield text[start:before]
        start = before
    yield text[start:]


def _backend(tokenizer: "PreTrainedTokenizerBase") -> Tokenizer:
    return tokenizer.backend_tokenizer  # type: ignore[attr-defined]
