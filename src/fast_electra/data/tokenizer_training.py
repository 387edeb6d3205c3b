"""Trains tokenizers: byte-level BPE for text and code, Unigram, and WordPiece.

Notable:
- every byte is in the vocabulary, except of WordPiece, so no text is unknown, and decoding restores the text;
- `code` splits as a parser does: a line break with the next line's indentation is one token; words (with the space
  before them), brackets and operators are separate. Without this space, every fifth token was a space;
- `text` splits as GPT-2 does. If 1 % of the letters are not ASCII, it splits by script and character class too, with
  marks in their words, and BPE merges whole characters: a token cuts no character that the vocabulary has room for.
  Text in ASCII, such as English, gets the same tokenizer with and without this;
- sequences of white space or punctuation are cut after 32 characters, so that 185 spaces never become one token. In
  scripts without spaces a token has at most 16 characters, so that no sentence becomes one.
"""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from fast_electra.data.tokenizer import TRAINING_PIECE, pieces
from fast_electra.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

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

# Scripts that do not put spaces between words, as classes of characters; 々, 〆, 〇 and ー belong to several scripts.
_SPACELESS = (
    *(r"\p{Han}々〆〇", r"\p{Hiragana}ゝゞ", r"\p{Katakana}ーヽヾ"),
    *(r"\p{Thai}", r"\p{Lao}", r"\p{Khmer}", r"\p{Myanmar}", r"\p{Tibetan}"),
)
_JOINERS = "\u200c\u200d"  # inside words of Persian and of scripts of India
_SCRIPTS = "|".join(
    (
        r"'(?:[sdmt]|ll|ve|re)(?![\p{L}\p{M}])",
        *(rf" ?[{script}][{script}\p{{M}}]*" for script in _SPACELESS),
        rf" ?[\p{{L}}&&[^{''.join(_SPACELESS)}]][\p{{L}}\p{{M}}{_JOINERS}&&[^{''.join(_SPACELESS)}]]*",
        r" ?\p{N}+",
        r" ?[^\s\p{L}\p{N}]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
LONGEST_SPACELESS = 16
"""characters of a token in text without spaces"""
LEAST_OTHER = 0.01
"""share of letters that are not ASCII, or not spaced, from which a corpus counts as such"""
_LETTER, _OTHER = re.compile(r"[^\W\d_]"), re.compile(r"[^\W\d_\x00-\x7f]")
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_LOOKED_AT = 256  # characters of each piece of text that decide


def train_tokenizer(
    texts: Iterable[str], config: "TokenizerConfig", length: int, whole: bool = True
) -> "PreTrainedTokenizerFast":
    """Train a tokenizer on a stream of texts; the same texts give the same tokenizer.

    Args:
        texts: read once, and held in memory.
        config: the tokenizer's kind and vocabulary size.
        length: tokens of a row, including special tokens; stored as `model_max_length`.
        whole: the vocabulary must have its size; otherwise it may be smaller, if there is too little text.

    Returns:
        a Transformers tokenizer that adds [CLS] before and [SEP] after a text.

    Raises:
        ConfigError: the vocabulary has no room for the special tokens and all bytes.
        DataError: there is no text, or too little for a vocabulary of this size.
    """
    smallest = len(SPECIAL_TOKENS) + 256
    if config.vocabulary_size < smallest:
        raise ConfigError(
            f"data.tokenizer.vocabulary_size is {config.vocabulary_size}, fewer than the {smallest} of special tokens "
            f"and single bytes; set it to at least {smallest}."
        )
    parts = [piece for text in texts for piece in pieces(text, TRAINING_PIECE)]
    if not any(parts):
        raise DataError("there is no text to train a tokenizer on: name other files in data.sources.")
    letters, other, unspaced = _letters(parts)
    longest = LONGEST_SPACELESS if unspaced >= LEAST_OTHER * letters and unspaced else LONGEST_RUN
    size, has_other_scripts = config.vocabulary_size, other and other >= LEAST_OTHER * letters
    train = {
        "text": lambda: _bpe_of_characters(parts, size, longest) if has_other_scripts else _bpe(parts, size, "text"),
        "code": lambda: _bpe(parts, size, "code"),
        "unigram": lambda: _unigram(parts, size, longest),
        "wordpiece": lambda: _wordpiece(parts, size),
    }
    tokenizer = train[config.kind]()
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


def _letters(parts: list[str]) -> tuple[int, int, int]:
    """Letters in the beginnings of all pieces, those that are not ASCII, and those of scripts without spaces."""
    letters = other = unspaced = 0
    for part in parts:
        head = part[:_LOOKED_AT]
        letters += len(_LETTER.findall(head))
        if not head.isascii():
            other += len(_OTHER.findall(head))
            unspaced += len(_UNSPACED.findall(head))
    return letters, other, unspaced


def _isolated(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def _bpe(parts: list[str], size: int, kind: str) -> Tokenizer:
    """Byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    runs = _isolated(_RUNS)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "text")
    if kind == "code":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_isolated(_CODE), runs, byte_level])
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([runs, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(parts, trainer)
    return tokenizer


def _bpe_of_characters(parts: list[str], size: int, longest: int) -> Tokenizer:
    """Byte-level BPE that merges the bytes of each frequent character first, and then characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    splits = [_isolated(_SCRIPTS), _isolated(_RUNS)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    trainer = trainers.BpeTrainer(
        vocab_size=size, limit_alphabet=size // 2, max_token_length=longest, show_progress=False
    )
    tokenizer.train_from_iterator(parts, trainer)
    tokenizer.model = _in_bytes(json.loads(tokenizer.to_str())["model"], size)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return tokenizer


def _in_bytes(model: dict[str, Any], size: int) -> models.BPE:
    """A BPE of characters as one of bytes: its merges, after those that build its characters.

    A merge never joins the end of one character and the beginning of the next, since characters are complete before.
    """
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens = [*SPECIAL_TOKENS.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges: dict[tuple[str, str], None] = {}

    def spelled(text: str) -> str:
        return spell.pre_tokenize_str(text)[0][0]

    def add(left: str, right: str) -> None:
        if left in vocabulary and right in vocabulary and (left + right in vocabulary or len(vocabulary) < size):
            vocabulary.setdefault(left + right, len(vocabulary))
            merges[left, right] = None

    for token in sorted(model["vocab"], key=model["vocab"].get):
        if len(token) == 1:
            character = spelled(token)
            for end in range(1, len(character)):
                add(character[:end], character[end])
    for left, right in model["merges"]:
        add(spelled(left), spelled(right))
    return models.BPE(vocab=vocabulary, merges=list(merges))


def _unigram(parts: list[str], size: int, longest: int) -> Tokenizer:
    """Unigram, in which a character outside the vocabulary becomes its bytes; a space is written as ▁."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    spaces = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_isolated(_SCRIPTS), _isolated(_RUNS), spaces])
    trainer = trainers.UnigramTrainer(
        vocab_size=size - 256,
        special_tokens=list(SPECIAL_TOKENS.values()),
        unk_token=SPECIAL_TOKENS["unk"],
        max_piece_length=longest,
        show_progress=False,
    )
    tokenizer.train_from_iterator(parts, trainer)
    content = json.loads(tokenizer.to_str())
    entries, first = content["model"]["vocab"], len(SPECIAL_TOKENS)
    lowest = min(score for _, score in entries)
    entries[first:first] = [[f"<0x{byte:02X}>", lowest - 10] for byte in range(256)]
    content["model"]["byte_fallback"] = True
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _wordpiece(parts: list[str], size: int) -> Tokenizer:
    """WordPiece as BERT's, with case; it keeps no white space, and a word with a rare character is unknown."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk"]))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_isolated(_SCRIPTS), pre_tokenizers.BertPreTokenizer()])
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        limit_alphabet=size // 2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(parts, trainer)
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer
