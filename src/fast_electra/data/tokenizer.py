"""Tokenizers: byte-level BPE trained on the corpus, or an existing one, and a fingerprint that identifies them.

Notable:
- every byte is in the vocabulary of a trained tokenizer, so no text is unknown, and decoding restores the text;
- `code` splits as a parser does: a line break with the next line's indentation is one token; words (with the space
  before them), brackets and operators are separate. Without this space, every fifth token was a space;
- a plain Transformers tokenizer is saved: AutoTokenizer loads it without this package;
- sequences of white space or punctuation are cut after 32 characters, so that 185 spaces never become one token;
- `[MASK]` in the corpus is six characters of text, not the special token;
- Transformers is imported only where it is needed, since it costs seconds and 200 MB in each process that tokenises.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from fast_electra.data.files import canonical_digest
from fast_electra.data.seals import refuse_broken_seal
from fast_electra.data.text_files import open_text
from fast_electra.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    from fast_electra.data.settings import TokenizerConfig

SPECIAL_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
"""special tokens of a trained tokenizer; their ids are 0 to 4 in this order"""

# Longer operators come first, since alternatives are tried in order.
_OPERATORS = (
    *("===", "!==", ">>>", "**=", "//=", "<<=", ">>=", "..."),
    *("==", "!=", "<=", ">=", "->", "=>", ":=", "**", "//", "<<", ">>", "&&", "||", "++", "--", "::"),
    *("+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "@="),
    *("+", "-", "*", "/", "%", "&", "|", "^", "~", "<", ">", "=", "!", "@"),
)
_CODE = "|".join(
    (
        r"(?:[ \t]*\n)+[ \t]*",  # line breaks, blank lines between them, and the indentation that follows
        r" ?[\p{L}_][\p{L}\p{M}\p{N}_]*",  # a word, with one space before it
        r"\p{N}{1,3}",  # digits, three at most
        r"([-=*/+~^<>|&%@!#.])\1{3,}",  # rules and other decoration
        "|".join(re.escape(operator) for operator in _OPERATORS),
        r"(?:\"{3}|'{3})",
        r"[^\s\p{L}\p{N}_]",  # one other sign
        r"[ \t]+",  # spaces between words
        r"\s+",
    )
)

# Sequences of white space or punctuation are cut. 32 characters keep a line break and the indentation of deeply nested
# code together. The last space of a sequence stays with the word after it.
LONGEST_RUN = 32
"""characters of white space, or of punctuation, that a token may hold"""
_RUNS = rf"\s{{{LONGEST_RUN}}}(?=\s)|[^\s\p{{L}}\p{{N}}]{{{LONGEST_RUN}}}"

# Training and encoding need memory for whole texts: 20 MB in long documents took 2 GB, in pieces 250 MB.
TRAINING_PIECE = 4_096
"""number of characters that a tokenizer is trained on at a time"""
ENCODING_PIECE = 16_384
"""number of characters that are tokenised at a time"""
NOTED_UNKNOWN = 0.01
"""share of unknown tokens above which `unknown_note` warns"""
_FILES = ("tokenizer.json", "vocab.*", "*.model")


def train_tokenizer(
    texts: Iterable[str], config: "TokenizerConfig", length: int, whole: bool = True
) -> "PreTrainedTokenizerFast":
    """Train byte-level BPE on a stream of texts; the same texts give the same tokenizer.

    Args:
        texts: read once; memory grows with the number of distinct words.
        config: the tokenizer's kind and vocabulary size.
        length: tokens of a row, including special tokens; stored as `model_max_length`.
        whole: the vocabulary must have its size; otherwise it may be smaller, if there is too little text.

    Returns:
        a Transformers tokenizer that adds [CLS] before and [SEP] after a text.

    Raises:
        ConfigError: the vocabulary has no room for the special tokens and all bytes.
        DataError: there is no text, or too little for a vocabulary of this size.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(SPECIAL_TOKENS) + len(alphabet)
    if config.vocabulary_size < smallest:
        raise ConfigError(
            f"data.tokenizer.vocabulary_size is {config.vocabulary_size}, fewer than the {smallest} of special tokens "
            f"and single bytes; set it to at least {smallest}."
        )
    tokenizer = Tokenizer(models.BPE())
    runs = pre_tokenizers.Split(Regex(_RUNS), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=config.kind == "text")
    if config.kind == "code":
        split = pre_tokenizers.Split(Regex(_CODE), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, runs, byte_level])
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([runs, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    characters = 0

    def all_pieces() -> Iterator[str]:
        nonlocal characters
        for text in texts:
            characters += len(text)
            yield from pieces(text, TRAINING_PIECE)

    tokenizer.train_from_iterator(all_pieces(), trainer)
    if not characters:
        raise DataError("there is no text to train a tokenizer on: name other files in data.sources.")
    found = tokenizer.get_vocab_size()
    if whole and found < config.vocabulary_size:
        raise DataError(
            f"data.tokenizer.vocabulary_size is {config.vocabulary_size}, but the corpus supports {found} tokens only; "
            f"set it to {found} or less, or give more text."
        )
    ids = {token: number for number, token in enumerate(SPECIAL_TOKENS.values())}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in SPECIAL_TOKENS.items()},
    )


def load_any_tokenizer(path: str | Path) -> "PreTrainedTokenizerBase":
    """Load a tokenizer of any class from a folder or by its hub name; code that comes with it is not run.

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
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except Exception as error:  # OSError, ValueError, or a plain Exception from Rust
        if folder.is_dir() and not any(file for name in _FILES for file in folder.glob(name)):
            raise absent from error
        if (folder / "tokenizer.json").is_file():
            with open_text(folder / "tokenizer.json"):  # the error says what the file is
                pass
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the tokenizer {path} can't be loaded ({reason}); name a folder or hub name that holds one."
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
