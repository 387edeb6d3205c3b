"""Masking: draw `max(1, round(rate · eligible tokens))` positions M of each row, without replacement.

This is the first step of the method (the paper's section 3, with a rate of 15 %). `masking_kinds.py` has the settings.
Three kinds, each with the same number of positions, and the same probability for every position of a row:
  random       single positions
  whole_word   all tokens of random words
  span         spans of geometric length (SpanBERT, arXiv 1907.10529, section 3.1)

Notable:
- counter-based: the mask of a row depends only on seed, epoch and row number, not on the rest of the batch;
- a row has exactly the count of masked positions. Only masking of whole words can give fewer, if too few words have one
  token;
- special and padding tokens are never masked, and they end words and spans;
- storage is padded to a fixed number of slots, so shapes never change and nothing is recompiled.

Shapes: B sequences, S positions, M masked positions (padded), U words, V vocabulary, L span lengths.
"""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from tokenizers import Tokenizer, decoders
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fast_electra.data.batches import Batch
from fast_electra.data.random import Stream, uniforms
from fast_electra.data.tokenizer import vocabulary_size

# Counters of further random numbers of a row, larger than any position.
_ROW, _LENGTHS = 1 << 20, 1 << 21
# The beginnings of the Unicode names of letters of scripts without spaces between words.
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True)
class Masked:
    """The masked positions of a batch."""

    positions_BM: Tensor
    """int64; each at most once in a row, valid ones first and ascending; no meaning where `valid_BM` is False"""
    valid_BM: Tensor
    """bool: True for slots that hold a masked position"""

    def to(self, device: torch.device) -> "Masked":
        """A copy on a device."""
        return Masked(*(tensor.to(device, non_blocking=True) for tensor in (self.positions_BM, self.valid_BM)))

    def pinned(self) -> "Masked":
        """A copy in page-locked memory."""
        return Masked(self.positions_BM.pin_memory(), self.valid_BM.pin_memory())

    def split(self, size: int) -> list["Masked"]:
        """The masked positions of each `size` sequences, as `Batch.split` splits them."""
        return [Masked(p, v) for p, v in zip(self.positions_BM.split(size), self.valid_BM.split(size), strict=True)]


Masker = Callable[[Batch, int], Masked]
"""(batch, seed) → masked positions: a pure function."""


def masked_ids(batch: Batch, masked: Masked, mask_id: int) -> Tensor:
    """The batch's ids (B, S) with `[MASK]` at the masked positions."""
    written_BM = torch.where(masked.valid_BM, mask_id, originals(batch, masked))
    return batch.ids.scatter(1, masked.positions_BM, written_BM)


def originals(batch: Batch, masked: Masked) -> Tensor:
    """The original tokens (B, M) at the masked positions."""
    return batch.ids.gather(1, masked.positions_BM)


def masked_tokens(batch: Batch, masked: Masked) -> Tensor:
    """Bool (B, S): True at masked positions."""
    return torch.zeros_like(batch.padding).scatter(1, masked.positions_BM, masked.valid_BM)


def mask_random_tokens(batch: Batch, rate: float, seed: int) -> Masked:
    """Mask the eligible positions with the smallest of independent uniform numbers.

    Args:
        batch: B rows of S tokens.
        rate: share of a row's eligible tokens, in (0, 1).
        seed: seed of the run.

    Returns:
        the masked positions, in `round(rate · S)` slots.
    """
    length, device = batch.ids.shape[1], batch.ids.device
    noise_BS = row_uniforms(batch, seed, torch.arange(length, device=device)).masked_fill(~batch.eligible, 2.0)
    smallest_BM = noise_BS.topk(_slots(length, rate), dim=1, largest=False, sorted=True).indices
    chosen_BM = torch.arange(smallest_BM.shape[1], device=device) < counts(batch.eligible, rate)
    return stored(batch.eligible, torch.zeros_like(batch.eligible).scatter(1, smallest_BM, chosen_BM), rate)


@dataclass(frozen=True)
class WordPieces:
    """Which tokens of a vocabulary belong to one word when they are neighbours."""

    continues_V: Tensor
    """bool: True for tokens that continue the word of the token before, if that token is open"""
    open_V: Tensor
    """bool: True for tokens after which the word may continue"""


def word_pieces(tokenizer: PreTrainedTokenizerBase) -> WordPieces:
    """Find the parts of words by the spelling of a tokenizer's tokens.

    WordPiece marks tokens that continue a word (`##`). With byte-level BPE (`Ġ`) and SentencePiece (`▁`), a word is a
    sequence of letters, digits and underscores: a token continues it if it begins with such a character and the token
    before ends with one. White space and punctuation are words of their own. In scripts without spaces every token is a
    word. A token of broken UTF-8 counts as letters.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    content = json.loads(backend.to_str())
    size = vocabulary_size(tokenizer)
    continues_V, open_V = torch.zeros(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool)
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    if content["model"]["type"] == "WordPiece":
        prefix = content["model"]["continuing_subword_prefix"]
        continues_V[[number for token, number in vocabulary.items() if token.startswith(prefix)]] = True
        return WordPieces(continues_V, open_V)
    by_bytes = '"ByteLevel"' in json.dumps(content["decoder"])
    byte_level, suffix = decoders.ByteLevel(), content["model"].get("end_of_word_suffix")
    for token, number in vocabulary.items():
        text = byte_level.decode([token]) if by_bytes else token.replace("▁", " ")
        ended = bool(suffix) and text.endswith(suffix)
        text = text.removesuffix(suffix) if ended else text
        continues_V[number] = _in_word(text[:1])
        open_V[number] = _in_word(text[-1:]) and not ended
    return WordPieces(continues_V, open_V)


def mask_whole_words(batch: Batch, rate: float, seed: int, pieces: WordPieces, longest: int) -> Masked:
    """Mask all tokens of random words.

    Let m of a row's e eligible tokens be masked. Every word of several tokens is masked with probability m / e, by
    systematic sampling, which keeps their total near its mean; random words of one token make up the rest. This rest is
    m - (m / e) · (tokens in longer words) on average, so their probability is m / e too, and the count is m. If a row
    has too few words of one token, other words are added as long as they fit: such a row lacks fewer tokens than
    `longest`, and its probabilities are only approximately equal.

    (Words drawn in random order until m is reached would be masked more often at the ends of a row, where they are cut
    and so shorter.)

    Args:
        batch: B rows of S tokens.
        rate: share of a row's eligible tokens, in (0, 1).
        seed: seed of the run.
        pieces: from `word_pieces`.
        longest: a word of more tokens, or of more than m, is masked in parts of at most this length.

    Returns:
        the masked positions, in `round(rate · S)` slots.
    """
    eligible_BS, device = batch.eligible, batch.ids.device
    positions_S = torch.arange(batch.ids.shape[1], device=device)
    count_B1 = counts(eligible_BS, rate)
    chance_B1 = count_B1.double() / eligible_BS.sum(1, keepdim=True).clamp(min=1)
    # Find where words begin, and to which word each position belongs
    goes_on_BS = eligible_BS & pieces.continues_V.to(device)[batch.ids]
    goes_on_BS[:, 1:] &= (eligible_BS & pieces.open_V.to(device)[batch.ids])[:, :-1]
    goes_on_BS[:, 0] = False
    start_BS = torch.where(goes_on_BS, 0, positions_S).cummax(1).values
    part_B1 = count_B1.clamp(min=1, max=longest)
    begins_BS = eligible_BS & ((positions_S - start_BS) % part_B1 == 0)
    word_BS = (begins_BS.cumsum(1) - 1).clamp(min=0)
    length_BU = torch.zeros_like(word_BS).scatter_add(1, word_BS, eligible_BS.long())
    # Draw words of several tokens: every (1 / chance)-th, longest first, from a random start
    noise_BU = row_uniforms(batch, seed, positions_S)
    by_length_BU = (length_BU - noise_BU).argsort(dim=1, descending=True)
    length_BU, noise_BU = length_BU.gather(1, by_length_BU), noise_BU.gather(1, by_length_BU)
    place_BU = positions_S * chance_B1 + row_uniforms(batch, seed, torch.tensor([_ROW], device=device))
    drawn_BU = (length_BU > 1) & ((place_BU + chance_B1).floor() > place_BU.floor())
    drawn_BU &= (length_BU * drawn_BU).cumsum(1) <= count_B1
    # Take these, then words of one token, then the others, each in random order, until the count is reached
    turn_BU = torch.where(drawn_BU, 0, torch.where(length_BU == 1, 1, torch.where(length_BU > 1, 2, 3)))
    in_turn_BU = (turn_BU + noise_BU).argsort(dim=1)
    taken_BU = length_BU.gather(1, in_turn_BU).cumsum(1) <= count_B1
    taken_BU = torch.zeros_like(taken_BU).scatter(1, by_length_BU.gather(1, in_turn_BU), taken_BU)
    return stored(eligible_BS, eligible_BS & taken_BU.gather(1, word_BS), rate)


def span_lengths(mean: float, longest: int) -> Tensor:
    """The distribution of span lengths: geometric, cut after `longest`, with the given mean after the cut.

    Args:
        mean: 1 to (longest + 1) / 2, where all lengths have the same probability.
        longest: L.

    Returns:
        (L,) float64: the probability of a length of at most 1, 2, …, L.
    """
    numbers_L = torch.arange(1, longest + 1, dtype=torch.float64)

    def density(decay: float) -> Tensor:
        weights_L = decay ** (numbers_L - 1)
        return weights_L / weights_L.sum()

    decay = float(brentq(lambda decay: float(density(decay) @ numbers_L) - mean, 0.0, 1.0))  # type: ignore[arg-type]
    return density(decay).cumsum(0)


def mask_spans(batch: Batch, rate: float, seed: int, lengths_L: Tensor) -> Masked:
    """Mask spans of random lengths at random places.

    Spans and the free tokens between them are put on a circle in random order, and the circle is turned by a random
    angle. So every position of a row has the same probability m / e (m masked of e eligible tokens), also at its ends.
    A span that reaches a separator or the row's end is cut there, and continues after the separator or at the row's
    beginning. One span of the row is shortened so that the count is m. Spans do not touch, unless the rate leaves too
    few free tokens to separate them.

    (Spans placed on a line would rarely reach the ends. If they were cut there without being continued, the first
    tokens after a separator would be masked less often.)

    Args:
        batch: B rows of S tokens.
        rate: share of a row's eligible tokens, in (0, 1).
        seed: seed of the run.
        lengths_L: from `span_lengths`.

    Returns:
        the masked positions, in `round(rate · S)` slots.
    """
    eligible_BS, device = batch.eligible, batch.ids.device
    positions_S = torch.arange(batch.ids.shape[1], device=device)
    count_B1, eligible_B1 = counts(eligible_BS, rate), eligible_BS.sum(1, keepdim=True)
    # Draw lengths of spans until their sum is the count; 0 after the last
    slots_M = torch.arange(_slots(batch.ids.shape[1], rate), device=device)
    length_BM = torch.searchsorted(lengths_L.to(device), row_uniforms(batch, seed, slots_M + _LENGTHS)) + 1
    length_BM = (
        length_BM.clamp(max=len(lengths_L)).cumsum(1).minimum(count_B1).diff(dim=1, prepend=torch.zeros_like(count_B1))
    )
    spans_B1 = (length_BM > 0).sum(1, keepdim=True)
    # Put spans, each followed by a free token if there are enough, and other free tokens in random order
    apart_B1 = (spans_B1 <= eligible_B1 - count_B1).long()
    items_B1 = eligible_B1 - count_B1 + spans_B1 * (1 - apart_B1)
    length_BS = torch.nn.functional.pad(length_BM, (0, len(positions_S) - len(slots_M)))
    width_BS = torch.where(positions_S < spans_B1, length_BS + apart_B1, 1)
    noise_BS = row_uniforms(batch, seed, positions_S).masked_fill(positions_S >= items_B1, 2.0)
    order_BS = noise_BS.argsort(dim=1, stable=True)
    length_BS, width_BS = length_BS.gather(1, order_BS), width_BS.gather(1, order_BS)
    # The circle: the cumulative sum of 1 where a span begins and -1 after its end
    begin_BS = (width_BS.cumsum(1) - width_BS).clamp(max=len(positions_S) - 1)
    is_span_BS = (length_BS > 0).long()
    edges_BS = torch.zeros(len(is_span_BS), len(positions_S) + 1, dtype=torch.int64, device=device)
    edges_BS = edges_BS.scatter_add(1, begin_BS, is_span_BS).scatter_add(1, begin_BS + length_BS, -is_span_BS)
    circle_BS = edges_BS.cumsum(1) > 0
    angle_B1 = (row_uniforms(batch, seed, torch.tensor([_ROW], device=device)) * eligible_B1).long()
    rank_BS = (eligible_BS.cumsum(1) - 1 + angle_B1) % eligible_B1.clamp(min=1)
    return stored(eligible_BS, eligible_BS & circle_BS.gather(1, rank_BS), rate)


def counts(eligible_BS: Tensor, rate: float) -> Tensor:
    """Number of positions to mask in each row (B, 1): `max(1, round(rate · eligible))`, 0 if none is eligible."""
    eligible_B1 = eligible_BS.sum(1, keepdim=True)
    return (rate * eligible_B1.double()).round().long().clamp(min=1).minimum(eligible_B1)


def _slots(length: int, rate: float) -> int:
    return max(1, round(rate * length))


def stored(eligible_BS: Tensor, selected_BS: Tensor, rate: float) -> Masked:
    """Pack the selected positions (B, S) of each row into `round(rate · S)` slots.

    The remaining slots hold other positions, eligible ones first. No position occurs twice in a row, so writing to all
    slots writes to each position at most once.
    """
    length = selected_BS.shape[1]
    positions_S = torch.arange(length, device=selected_BS.device)
    order_BS = positions_S + length * (2 - eligible_BS.long() - selected_BS.long())
    positions_BM = order_BS.topk(_slots(length, rate), dim=1, largest=False, sorted=True).indices
    return Masked(positions_BM, selected_BS.gather(1, positions_BM))


def row_uniforms(batch: Batch, seed: int, counters: Tensor) -> Tensor:
    """Uniform numbers (B, n) in (0, 1), by row and counter (n,)."""
    return uniforms(seed, Stream.MASKING, batch.epochs[:, None], batch.indices[:, None], counters[None, :])


def _in_word(character: str) -> bool:
    if not character or unicodedata.name(character, "").startswith(_WITHOUT_SPACES):
        return False
    return unicodedata.category(character)[0] in "LMN" or character in "_\N{REPLACEMENT CHARACTER}"
