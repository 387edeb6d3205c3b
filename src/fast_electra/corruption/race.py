"""Temperature paths: the exact sample of `softmax(l / T)` for every temperature of an interval. Not in the paper.

With Gumbel noise g the sample at inverse temperature b = 1 / T is the v that maximises b · l_v + g_v (the Gumbel-max
trick). Over an interval of b, the winner is the upper envelope of straight lines: a few segments. The winners and the
crossing points therefore give the sample for every temperature, and one pass of the auxiliary serves every schedule.

Noise for the whole vocabulary would cost more than the auxiliary. Here only entries that can win get noise:
  1. the vocabulary is cut into blocks, and the likeliest entry of each block, its head, gets noise;
  2. L(b), the envelope of the heads' lines, is a lower bound of the winner's value;
  3. another entry v, in a block whose second entry is s, can win only if g_v > L(b) - b · l_v for some b, and hence
     only if its noise g_v exceeds τ := min over b of L(b) - b · l_s. Entries exceed τ independently, with
     p = 1 - exp(-exp(-τ)): geometric gaps say how many do and which, and their noise is a Gumbel variable above τ.
     The distribution is that of a race with noise for all entries; only entries that lose are left out;
  4. the envelope of heads and such entries is the path.
This takes about 2 · sqrt(V) noise variables for a position instead of V.

Notable: every variable is counter-based (seed, epoch, row, position, block, ordinal), so the same logits and key give
the same path in any batch.

Shapes: N positions, V vocabulary, K blocks of W entries, A blocks of any rows, C candidates, G segments (padded),
P breakpoints.
"""

from dataclasses import dataclass
from itertools import chain, repeat
from math import log2

import torch
from torch import Tensor, nn

from fast_electra.data.random import Stream, uniform_pairs

# Used instead of minus infinity, whose product with 0 is not a number.
_LEAST = -1e30
# Number of candidates drawn at a time for the blocks that may have more: few first, since most have one or none.
_DRAWS = (2, 8, 32)
# Number of rows at a time by type of device, so that intermediate results stay in a CPU's cache.
_ROWS = {"cpu": 128, "cuda": 8192}


@dataclass(frozen=True)
class RaceKey:
    """The key and counters of the noise of N positions: the run's seed; epoch, row and position of each (int64)."""

    seed: int
    epochs_N: Tensor
    indices_N: Tensor
    positions_N: Tensor


@dataclass(frozen=True)
class TemperaturePath:
    """Winners of the race over inverse temperatures from `1 / high` to `1 / low`."""

    tokens_NG: Tensor
    """int64: the token of each segment, from the highest temperature to the lowest, then padding"""
    starts_NG: Tensor
    """float32: the inverse temperature where each segment begins; infinity for padding"""
    low: float
    """lowest temperature"""
    high: float
    """highest temperature"""

    def at(self, temperature: float) -> Tensor:
        """The samples (N,) of `softmax(l / temperature)`, int64.

        Raises:
            ValueError: the temperature lies outside the interval.
        """
        if not self.low <= temperature <= self.high:
            raise ValueError(f"temperature {temperature:g} lies outside the path's {self.low:g} to {self.high:g}")
        # The first segment always counts, however 1 / high was rounded.
        segment_N = (self.starts_NG[:, 1:] <= 1.0 / temperature).sum(1)
        return self.tokens_NG.gather(1, segment_N[:, None])[:, 0]


@torch.no_grad()
def gumbel_race(logits_NV: Tensor, key: RaceKey, low: float, high: float) -> TemperaturePath:
    """Run the race of every position over temperatures from `low` to `high`.

    Args:
        logits_NV: any float type; minus infinity never wins.
        key: of the noise; the same logits and key give the same path.
        low: lowest temperature, > 0.
        high: highest temperature, >= low.

    Returns:
        the paths of the N positions.
    """
    rows = _ROWS.get(logits_NV.device.type, len(logits_NV))
    parts = [
        _race(part_NV, RaceKey(key.seed, *numbers), (1.0 / high, 1.0 / low))
        for part_NV, *numbers in zip(
            *(tensor.split(rows) for tensor in (logits_NV, key.epochs_N, key.indices_N, key.positions_N)), strict=True
        )
    ]
    longest = max(starts_NG.shape[1] for _, starts_NG in parts)
    tokens_NG, starts_NG = (
        torch.cat([nn.functional.pad(part[i], (0, longest - part[i].shape[1]), value=value) for part in parts])
        for i, value in enumerate((0, float("inf")))
    )
    return TemperaturePath(tokens_NG, starts_NG.float(), low, high)


def _race(logits_NV: Tensor, key: RaceKey, range_: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Winners (N, G) and where each begins, over the inverse temperatures of `range_`."""
    rows, vocabulary = logits_NV.shape
    # A power of two near the square root of V: then about as many heads as other entries get noise.
    width = 1 << max(1, round(log2(vocabulary) / 2))
    heads_NK = _heads(logits_NV, width)
    blocks = heads_NK.shape[1]
    # Logits are relative to the likeliest entry, so that b · l loses no digits.
    top_N1 = heads_NK.amax(1, keepdim=True)
    slopes_NK = (heads_NK - top_N1).double()
    block_1K = torch.arange(blocks, device=logits_NV.device)[None]
    noise_NK, gap_NK = _draw(key, torch.arange(rows, device=logits_NV.device)[:, None], block_1K)
    noise_NK = _gumbel(noise_NK)
    winners_NG, starts_NG = _envelope(slopes_NK, noise_NK, *range_)
    # L(b) at its breakpoints and both ends; it is linear between them.
    breaks_NP = torch.cat((starts_NG, torch.full_like(starts_NG[:, :1], range_[1])), 1).clamp(max=range_[1])
    last_NP = torch.cat((winners_NG, winners_NG[:, -1:]), 1)
    bound_NP = breaks_NP * slopes_NK.gather(1, last_NP) + noise_NK.gather(1, last_NP)

    sizes = (blocks, width)
    row_A, block_A = _contested(slopes_NK, gap_NK, breaks_NP, bound_NP, width)
    values_AW, first_A = _blocks(logits_NV, row_A, block_A, width)
    places_A1 = values_AW.argmax(1, keepdim=True)
    others_AW = values_AW.scatter_(1, places_A1, float("-inf"))
    seconds_A1 = (others_AW.amax(1, keepdim=True) - top_N1[row_A]).double().clamp(min=_LEAST)
    threshold_A = (bound_NP[row_A] - breaks_NP[row_A] * seconds_A1).amin(1)
    exceed_A = -torch.expm1(-torch.exp(-threshold_A))
    of_C, place_C, noise_C = _exceeding(key, (row_A, block_A), gap_NK[row_A, block_A], exceed_A, places_A1[:, 0], sizes)
    row_C, token_C = row_A[of_C], first_A[of_C] + place_C
    slope_C = (others_AW[of_C, place_C] - top_N1[row_C, 0]).double()
    # A line minus L is concave and piecewise linear, so its maximum is at a breakpoint of L or at an end.
    value_CP = breaks_NP[row_C] * slope_C[:, None].clamp(min=_LEAST) + noise_C[:, None]
    wins_C = (value_CP > bound_NP[row_C]).any(1)
    row_C, token_C, noise_C, slope_C = row_C[wins_C], token_C[wins_C], noise_C[wins_C], slope_C[wins_C]

    numbers_NG = torch.arange(rows, device=row_C.device)[:, None].expand_as(winners_NG)
    values, first = _blocks(logits_NV, numbers_NG.flatten(), winners_NG.flatten(), width)
    heads_NG = (first + values.argmax(1)).view_as(winners_NG)
    tokens_NC, slopes_NC, noises_NC = _append(
        (heads_NG, slopes_NK.gather(1, winners_NG), noise_NK.gather(1, winners_NG)),
        row_C,
        (token_C, slope_C, noise_C),
    )
    winners_NG, starts_NG = _envelope(slopes_NC, noises_NC, *range_)
    return tokens_NC.gather(1, winners_NG), starts_NG


def _heads(logits_NV: Tensor, width: int) -> Tensor:
    """The largest of each block (N, K), float32; the last block may be shorter than the others."""
    whole = logits_NV.shape[1] // width * width
    heads_NK = logits_NV[:, :whole].unflatten(1, (-1, width)).amax(2)
    if whole < logits_NV.shape[1]:
        heads_NK = torch.cat((heads_NK, logits_NV[:, whole:].amax(1, keepdim=True)), 1)
    return heads_NK.float()


def _blocks(logits_NV: Tensor, row_A: Tensor, block_A: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The logits (A, W) of A blocks of any rows, float32, and the first token (A,) of each.

    The last block consists of the last W entries of the vocabulary; those of the block before are minus infinity.
    """
    vocabulary = logits_NV.shape[1]
    wanted_A = block_A * width
    first_A = wanted_A.clamp(max=vocabulary - width)
    # Windows over the flat logits, so that whole blocks are copied, not single entries.
    values_AW = logits_NV.flatten().unfold(0, width, 1)[row_A * vocabulary + first_A].float()
    if vocabulary % width:
        last_L = (wanted_A > first_A).nonzero()[:, 0]
        values_AW[last_L, : width - vocabulary % width] = float("-inf")
    return values_AW, first_A


def _contested(
    slopes_NK: Tensor, gap_NK: Tensor, breaks_NP: Tensor, bound_NP: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """Row and number (A,) of the blocks that may have an exceeding entry besides the head.

    This is decided as if all entries were as likely as the head: then some entry exceeds if `gap > (1 - p)^(W - 1)`. As
    p is lower for less likely entries, the other blocks have none, and their second entries need not be searched.
    """
    threshold_NK = bound_NP[:, :1] - breaks_NP[:, :1] * slopes_NK
    for number in range(1, breaks_NP.shape[1]):
        column = slice(number, number + 1)
        threshold_NK = torch.minimum(threshold_NK, bound_NP[:, column] - breaks_NP[:, column] * slopes_NK)
    # log(1 - p) = -exp(-τ); W instead of W - 1 leaves room for rounding
    rows, blocks = (torch.log(gap_NK) > -width * torch.exp(-threshold_NK)).nonzero(as_tuple=True)
    return rows, blocks


def _draw(key: RaceKey, rows: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    return uniform_pairs(key.seed, Stream.RACE, key.epochs_N[rows], key.indices_N[rows], key.positions_N[rows], entries)


def _gumbel(uniform: Tensor) -> Tensor:
    return -torch.log(-torch.log(uniform))


def _exceeding(
    key: RaceKey,
    row_and_block: tuple[Tensor, Tensor],
    gap_A: Tensor,
    exceed_A: Tensor,
    places_A: Tensor,
    sizes: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """The entries, other than heads, whose noise exceeds the threshold of their block.

    Args:
        key: of the noise.
        row_and_block: row and number of each of the A blocks.
        gap_A: uniform variable of the first gap in each block.
        exceed_A: probability that an entry exceeds.
        places_A: place of the head in each block; the head is left out.
        sizes: K and W.

    Returns:
        for each entry, (C,): which of the A blocks it is in, its place in the block, and its noise.
    """
    blocks, width = sizes
    log_below_A = torch.log1p(-exceed_A.clamp(max=1.0 - 2.0**-53))
    ordinal = torch.floor(torch.log(gap_A) / log_below_A)
    active = (ordinal < width - 1).nonzero()[:, 0]
    ordinal = ordinal[active].long()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    drawn = 0
    for draws in chain(_DRAWS, repeat(_DRAWS[-1])):
        if not len(active):
            break
        row, block = (tensor[active][:, None] for tensor in row_and_block)
        number = torch.arange(drawn + 1, drawn + draws + 1, device=active.device)
        noise, gap = _draw(key, row, block + blocks * number)
        jump = 1 + torch.floor(torch.log(gap) / log_below_A[active][:, None]).clamp(max=width).long()
        # The first place is known; each gap leads to the next.
        after = ordinal[:, None] + jump.cumsum(1)
        here = torch.cat((ordinal[:, None], after[:, :-1]), 1)
        inside = here < width - 1
        # A Gumbel variable above the threshold has a uniform variable above 1 - p.
        noise = -torch.log(-torch.log1p(-exceed_A[active][:, None] * (1.0 - noise)))
        place = here + (here >= places_A[active][:, None])
        found.append((active[:, None].expand_as(inside)[inside], place[inside], noise[inside]))
        still = after[:, -1] < width - 1
        active, ordinal = active[still], after[still, -1]
        drawn += draws
    if not found:
        nothing = gap_A.new_zeros(0)
        return nothing.long(), nothing.long(), nothing
    of, place, noise = (torch.cat(parts) for parts in zip(*found, strict=True))
    return of, place, noise


def _append(
    first: tuple[Tensor, Tensor, Tensor], row_C: Tensor, more: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Append a ragged list of candidates to a rectangular one; missing candidates are lines that never win."""
    rows, width = first[0].shape
    order = row_C.argsort(stable=True)
    row = row_C[order]
    counts_N = torch.bincount(row, minlength=rows)
    slot = torch.arange(len(row), device=row.device) - (counts_N.cumsum(0) - counts_N)[row]
    longest = int(counts_N.max()) if len(row) else 0
    joined = []
    for tensor, addition, empty in zip(first, more, (0, 0.0, float("-inf")), strict=True):
        wide = torch.full((rows, width + longest), empty, dtype=tensor.dtype, device=tensor.device)
        wide[:, :width] = tensor
        wide[row, width + slot] = addition[order]
        joined.append(wide)
    tokens, slopes, noises = joined
    return tokens, slopes, noises


def _envelope(slopes_NC: Tensor, noises_NC: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
    """Upper envelope of the lines `b · slope + noise` for b from `start` to `end`.

    Returns:
        the line (N, G) of each segment from `start` on, the last one repeated as padding; and the b (N, G) at which
        each segment begins, infinity for padding.
    """
    finite_NC = slopes_NC > float("-inf")
    slopes_NC = slopes_NC.clamp(min=_LEAST)
    values_NC = torch.where(finite_NC, start * slopes_NC + noises_NC, float("-inf"))
    winner_N = values_NC.argmax(1)
    winners, starts = [winner_N], [torch.full_like(slopes_NC[:, 0], start)]
    while True:
        slope_N1, noise_N1 = (tensor.gather(1, winner_N[:, None]) for tensor in (slopes_NC, noises_NC))
        steeper_NC = slopes_NC > slope_N1
        crossing_NC = torch.where(steeper_NC, (noise_N1 - noises_NC) / (slopes_NC - slope_N1), float("inf"))
        crossing_N, next_N = crossing_NC.min(1)
        goes_on_N = crossing_N < end
        if not goes_on_N.any():
            return torch.stack(winners, 1), torch.stack(starts, 1)
        winner_N = torch.where(goes_on_N, next_N, winner_N)
        winners.append(winner_N)
        starts.append(torch.where(goes_on_N, crossing_N, float("inf")))
