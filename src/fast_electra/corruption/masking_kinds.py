"""The settings of masking, one class for each `corruption.masking.kind`; `masking.py` has the functions they use."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from fast_electra.parts import Part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fast_electra.corruption.masking import Masker


class Masking(Part):
    """Which positions are masked. A kind defines `masker`."""

    default_kind: ClassVar[str] = "random"
    rate: float = Field(default=0.15, gt=0, lt=1)
    """share of a row's non-special tokens that are masked"""
    span_mean: float = Field(default=3.0, ge=1)
    """mean length of a span in tokens; lengths are geometric (SpanBERT: 3.8)"""
    span_longest: int = Field(default=10, ge=1)
    """longest span in tokens; a longer word is masked in parts of at most this length"""

    def masker(self, tokenizer: "PreTrainedTokenizerBase") -> "Masker":
        """A function of batch and seed that draws the masked positions.

        Its random numbers must depend only on the seed and on each row's epoch and index (`data.random.uniforms`). It
        masks at most `max(1, round(rate · eligible tokens))` positions of a row; `masking.stored` packs them.
        """
        raise NotImplementedError


class RandomMasking(Masking):
    """Random tokens are masked."""

    kind: Literal["random"] = "random"

    def masker(self, tokenizer: "PreTrainedTokenizerBase") -> "Masker":
        from fast_electra.corruption.masking import mask_random_tokens

        return lambda batch, seed: mask_random_tokens(batch, self.rate, seed)


class WholeWordMasking(Masking):
    """All tokens of random words are masked."""

    kind: Literal["whole_word"] = "whole_word"

    def masker(self, tokenizer: "PreTrainedTokenizerBase") -> "Masker":
        from fast_electra.corruption.masking import mask_whole_words, word_pieces

        pieces = word_pieces(tokenizer)
        return lambda batch, seed: mask_whole_words(batch, self.rate, seed, pieces, self.span_longest)


class SpanMasking(Masking):
    """Spans of tokens of random length are masked."""

    kind: Literal["span"] = "span"

    @model_validator(mode="after")
    def _mean_below_longest(self) -> Self:
        most = (self.span_longest + 1) / 2
        if self.span_mean > most:
            raise ValueError(
                f"spans of at most {self.span_longest} tokens have a mean of {most:g} or less, not {self.span_mean:g}; "
                "raise span_longest"
            )
        return self

    def masker(self, tokenizer: "PreTrainedTokenizerBase") -> "Masker":
        from fast_electra.corruption.masking import mask_spans, span_lengths

        lengths_L = span_lengths(self.span_mean, self.span_longest)
        return lambda batch, seed: mask_spans(batch, self.rate, seed, lengths_L)
