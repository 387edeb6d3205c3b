"""Which positions are masked: `max(1, round(rate · eligible tokens))` of each row, without replacement.

Three kinds, each with the same count and the same chance for every position, wherever it stands in its row:
  random       positions drawn one by one
  whole_word   all tokens of random words
  span         runs of geometric length (SpanBERT, arXiv 1907.10529, section 3.1)

Notable:
- counter-based: a row's mask depends on seed, epoch, sample index and position alone, not on the batch around it;
- the count is never exceeded, and reached exactly but for whole words in rows with too few words of one token;
- special and padding tokens are never masked, and end words and spans;
- storage is padded to a fixed count, so shapes never change and nothing recompiles.

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

# Counters of a row's further random numbers, beyond any position.
_ROW, _LENGTHS = 1 << 20, 1 << 21
# What the Unicode names of letters begin with where words are not set apart.
_WITHOUT_SPACES = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


@dataclass(frozen=True)
class Masked:
    """The masked positions of a batch."""

    positions_BM: Tensor
    """int64, no position twice in a row, the valid ones first and ascending; of no meaning where `valid_BM` is False"""
    valid_BM: Tensor
    """bool: which of the M slots hold a masked position"""

    def split(self, size: int) -> list["Masked"]:
        """Slices of `size` sequences, in step with `Batch.split`."""
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


def mask_random_tokens(batch: Batch, rate: float, seed: int) -> Masked:
    """Mask the eligible positions with the smallest of independent uniform numbers.

    Args:
        batch: B rows of S tokens.
        rate: share of a row's eligible tokens, in (0, 1).
        seed: the run's seed.
    """
    length, device = batch.ids.shape[1], batch.ids.device
    noise_BS = row_uniforms(batch, seed, torch.arange(length, device=device)).masked_fill(~batch.eligible, 2.0)
    smallest_BM = noise_BS.topk(_slots(length, rate), dim=1, largest=False, sorted=True).indices
    chosen_BM = torch.arange(smallest_BM.shape[1], device=device) < counts(batch.eligible, rate)
    return stored(batch.eligible, torch.zeros_like(batch.eligible).scatter(1, smallest_BM, chosen_BM), rate)


@dataclass(frozen=True)
class WordPieces:
    """Which tokens of a vocabulary belong to one word when they stand side by side."""

    continues_V: Tensor
    """bool: goes on with the word of the token before, if that one is open"""
    open_V: Tensor
    """bool: the word may go on after it"""


def word_pieces(tokenizer: PreTrainedTokenizerBase) -> WordPieces:
    """What the spelling of a tokenizer's tokens says about words.

    WordPiece marks what continues a word (`##`). With byte-level BPE (`Ġ`) and SentencePiece (`▁`), a word is a run of
    letters, digits and underscores: a token goes on with it that begins with such a character, behind a token that ends
    with one; white space and punctuation stand for themselves. In scripts without spaces every token is a word. A token
    of broken UTF-8 counts as letters.
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

    Every word of several tokens is masked with the chance m / e of the row (m to mask, e eligible), by systematic
    sampling, which keeps their total near its mean; random words of one token make up the rest. As that rest is
    m - (m / e) · (tokens in longer words) on average, their chance is m / e too, and the count is m. Where a row has
    too few of them, other words fill up as long as they fit: such a row is short by fewer tokens than `longest`, and
    its chances are equal only nearly.

    (Drawing words in random order until m is reached would mask the words at a row's ends, which are cut and so
    shorter, more often than others.)

    Args:
        batch: B rows of S tokens.
        rate: share of a row's eligible tokens, in (0, 1).
        seed: the run's seed.
        pieces: of the tokenizer.
        longest: a word of more tokens, or of more than m, is masked in parts of at most this length.
    """
    eligible_BS, device = batch.eligible, batch.ids.device
    positions_S = torch.arange(batch.ids.shape[1], device=device)
    count_B1 = counts(eligible_BS, rate)
    chance_B1 = count_B1.double() / eligible_BS.sum(1, keepdim=True).clamp(min=1)
    # Where words begin, and which word each position belongs to
    goes_on_BS = eligible_BS & pieces.continues_V.to(device)[batch.ids]
    goes_on_BS[:, 1:] &= (eligible_BS & pieces.open_V.to(device)[batch.ids])[:, :-1]
    goes_on_BS[:, 0] = False
    start_BS = torch.where(goes_on_BS, 0, positions_S).cummax(1).values
    part_B1 = count_B1.clamp(min=1, max=longest)
    begins_BS = eligible_BS & ((positions_S - start_BS) % part_B1 == 0)
    word_BS = (begins_BS.cumsum(1) - 1).clamp(min=0)
    length_BU = torch.zeros_like(word_BS).scatter_add(1, word_BS, eligible_BS.long())
    # Words of several tokens: every (1 / chance)-th of them, longest first, from a random start
    noise_BU = row_uniforms(batch, seed, positions_S)
    by_length_BU = (length_BU - noise_BU).argsort(dim=1, descending=True)
    length_BU, noise_BU = length_BU.gather(1, by_length_BU), noise_BU.gather(1, by_length_BU)
    place_BU = positions_S * chance_B1 + row_uniforms(batch, seed, torch.tensor([_ROW], device=device))
    drawn_BU = (length_BU > 1) & ((place_BU + chance_B1).floor() > place_BU.floor())
    drawn_BU &= (length_BU * drawn_BU).cumsum(1) <= count_B1
    # Those, then words of one token, then the others, each in random order, until the row is full
    turn_BU = torch.where(drawn_BU, 0, torch.where(length_BU == 1, 1, torch.where(length_BU > 1, 2, 3)))
    in_turn_BU = (turn_BU + noise_BU).argsort(dim=1)
    taken_BU = length_BU.gather(1, in_turn_BU).cumsum(1) <= count_B1
    taken_BU = torch.zeros_like(taken_BU).scatter(1, by_length_BU.gather(1, in_turn_BU), taken_BU)
    return stored(eligible_BS, eligible_BS & taken_BU.gather(1, word_BS), rate)


def span_lengths(mean: float, longest: int) -> Tensor:
    """Distribution function (L,) of span lengths: geometric, cut behind `longest`, with this mean after the cut.

    Args:
        mean: 1 to (longest + 1) / 2, where all lengths are alike.
        longest: L.
    """
    numbers_L = torch.arange(1, longest + 1, dtype=torch.float64)

    def density(decay: float) -> Tensor:
        weights_L = decay ** (numbers_L - 1)
        return weights_L / weights_L.sum()

    decay = float(brentq(lambda decay: float(density(decay) @ numbers_L) - mean, 0.0, 1.0))  # type: ignore[arg-type]
    return density(decay).cumsum(0)


def mask_spans(batch: Batch, rate: float, seed: int, lengths_L: Tensor) -> Masked:
    """Mask runs of random lengths at random places.

    The eligible tokens are laid on a circle, the spans and the free tokens between them in random order, and the circle
    is turned by a random angle: every position has the chance m / e of the row (m to mask, e eligible), those at its
    ends as well. So a span that reaches a separator or the row's end is cut there, and what is left of it is a span
    behind the separator or at the row's beginning. One span of the row is cut so that the count is m. Spans don't
    touch, unless the rate leaves too few free tokens to hold them apart.

    (Spans placed on a line would seldom reach the ends; cutting them there without going on would leave the first
    tokens behind a separator masked less often.)

    Args:
        batch: B rows of S tokens.
        rate: share of a row's eligible tokens, in (0, 1).
        seed: the run's seed.
        lengths_L: distribution function of the lengths, from `span_lengths`.
    """
    eligible_BS, device = batch.eligible, batch.ids.device
    positions_S = torch.arange(batch.ids.shape[1], device=device)
    count_B1, eligible_B1 = counts(eligible_BS, rate), eligible_BS.sum(1, keepdim=True)
    # Lengths of spans that add up to the count; 0 behind the last
    slots_M = torch.arange(_slots(batch.ids.shape[1], rate), device=device)
    length_BM = torch.searchsorted(lengths_L.to(device), row_uniforms(batch, seed, slots_M + _LENGTHS)) + 1
    length_BM = (
        length_BM.clamp(max=len(lengths_L)).cumsum(1).minimum(count_B1).diff(dim=1, prepend=torch.zeros_like(count_B1))
    )
    spans_B1 = (length_BM > 0).sum(1, keepdim=True)
    # Spans, each with a free token behind it where there are enough, and the other free tokens, in random order
    apart_B1 = (spans_B1 <= eligible_B1 - count_B1).long()
    items_B1 = eligible_B1 - count_B1 + spans_B1 * (1 - apart_B1)
    length_BS = torch.nn.functional.pad(length_BM, (0, len(positions_S) - len(slots_M)))
    width_BS = torch.where(positions_S < spans_B1, length_BS + apart_B1, 1)
    noise_BS = row_uniforms(batch, seed, positions_S).masked_fill(positions_S >= items_B1, 2.0)
    order_BS = noise_BS.argsort(dim=1, stable=True)
    length_BS, width_BS = length_BS.gather(1, order_BS), width_BS.gather(1, order_BS)
    # The circle: 1 where a span begins and -1 behind its end, summed
    begin_BS = (width_BS.cumsum(1) - width_BS).clamp(max=len(positions_S) - 1)
    is_span_BS = (length_BS > 0).long()
    edges_BS = torch.zeros(len(is_span_BS), len(positions_S) + 1, dtype=torch.int64, device=device)
    edges_BS = edges_BS.scatter_add(1, begin_BS, is_span_BS).scatter_add(1, begin_BS + length_BS, -is_span_BS)
    circle_BS = edges_BS.cumsum(1) > 0
    angle_B1 = (row_uniforms(batch, seed, torch.tensor([_ROW], device=device)) * eligible_B1).long()
    rank_BS = (eligible_BS.cumsum(1) - 1 + angle_B1) % eligible_B1.clamp(min=1)
    return stored(eligible_BS, eligible_BS & circle_BS.gather(1, rank_BS), rate)


def counts(eligible_BS: Tensor, rate: float) -> Tensor:
    """Positions to mask in each row (B, 1): `max(1, round(rate · eligible))`, and none where none is eligible."""
    eligible_B1 = eligible_BS.sum(1, keepdim=True)
    return (rate * eligible_B1.double()).round().long().clamp(min=1).minimum(eligible_B1)


def _slots(length: int, rate: float) -> int:
    return max(1, round(rate * length))


def stored(eligible_BS: Tensor, selected_BS: Tensor, rate: float) -> Masked:
    """The selected positions in the fixed number of slots, filled up by eligible ones, and by others behind them.

    No position comes twice, so that writing to the slots never meets a place twice.
    """
    length = selected_BS.shape[1]
    positions_S = torch.arange(length, device=selected_BS.device)
    order_BS = positions_S + length * (2 - eligible_BS.long() - selected_BS.long())
    positions_BM = order_BS.topk(_slots(length, rate), dim=1, largest=False, sorted=True).indices
    return Masked(positions_BM, selected_BS.gather(1, positions_BM))


def row_uniforms(batch: Batch, seed: int, counters: Tensor) -> Tensor:
    """Uniform numbers (B, n), of row and counter."""
    return uniforms(seed, Stream.MASKING, batch.epochs[:, None], batch.indices[:, None], counters[None, :])


def _in_word(character: str) -> bool:
    if not character or unicodedata.name(character, "").startswith(_WITHOUT_SPACES):
        return False
    return unicodedata.category(character)[0] in "LMN" or character in "_\N{REPLACEMENT CHARACTER}"
