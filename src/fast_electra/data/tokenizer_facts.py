"""Figures from which a person sees whether a tokenizer fits a text."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST = 128  # pieces of a sample
_LONGEST = 10


class Sample:
    """At most some megabytes of a stream of texts, spread evenly over it."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._seen, self._step = 0, 1

    def add(self, text: str) -> None:
        """Look at the next text of the stream."""
        if self._seen % self._step == 0:
            self.texts.append(text)
            if len(self.texts) > _MOST:
                self.texts, self._step = self.texts[::2], 2 * self._step
        self._seen += 1


def tokenizer_facts(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> dict[str, Any]:
    """How a tokenizer splits some texts.

    Args:
        tokenizer: a fast one.
        texts: a sample.

    Returns:
        `tokens_per_word`, where a word is what stands between white space; `tokens_per_character`, without white space;
        `words_in_one_token`, a share; `longest_tokens`, the texts of the ten tokens with the most characters.
    """
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
    backend.no_padding()  # published tokenizers of sentence encoders pad every text to one length
    backend.no_truncation()
    words = Counter(word for text in texts for word in text.split())
    encoded = backend.encode_batch([f" {word}" for word in words], add_special_tokens=False)
    tokens = [len(one.ids) for one in encoded]
    whole = sum(words.values())
    spent = sum(count * times for count, times in zip(tokens, words.values(), strict=True))
    characters = sum(len(word) * times for word, times in words.items())
    in_one = sum(times for count, times in zip(tokens, words.values(), strict=True) if count == 1)
    special = set(tokenizer.all_special_ids)
    ids = sorted(set(backend.get_vocab(with_added_tokens=True).values()) - special)
    spelled = backend.decode_batch([[number] for number in ids])
    return {
        "tokens_per_word": spent / max(1, whole),
        "tokens_per_character": spent / max(1, characters),
        "words_in_one_token": in_one / max(1, whole),
        "longest_tokens": sorted(spelled, key=len, reverse=True)[:_LONGEST],
    }
