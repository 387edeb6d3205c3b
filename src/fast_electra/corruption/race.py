"""Temperature paths: the exact sample of `softmax(l / T)` for every temperature of an interval at once.

With Gumbel noise g the sample at inverse temperature b = 1 / T is the v that maximises b · l_v + g_v (the Gumbel-max
trick). As b runs over an interval, the winner is the upper envelope of straight lines: a few segments. Storing winners
and crossing points stores the sample for every temperature, so one pass of the auxiliary serves every schedule.

Noise for the whole vocabulary would cost more than the auxiliary. Here only entries that can win get any:
  1. the vocabulary is cut into blocks, and the likeliest entry of each, its head, gets noise;
  2. L(b), the envelope of the heads' lines, is a lower bound of the winner's value;
  3. another entry v, in a block whose second entry is s, can win only if g_v > L(b) - b · l_v for some b, and hence
     only if it exceeds τ := min over b of L(b) - b · l_s. Entries exceed τ independently, with
     p = 1 - exp(-exp(-τ)): geometric gaps give how many do and which, and their noise is a Gumbel variable above τ.
     This is the dense race's distribution, with the losers left out;
  4. the envelope of heads and survivors is the path.
About 2 · sqrt(V) noise variables a position instead of V.

Notable: every variable is counter-based (seed, epoch, row, position, block, ordinal), so the same logits and key give
the same path, whatever batch they stand in.

Shapes: N positions, V vocabulary, K blocks of W entries, C candidates, G segments (padded), P breakpoints.
"""

from dataclasses import dataclass
from itertools import chain, repeat
from math import log2

import torch
from torch import Tensor, nn

from fast_electra.data.random import Stream, uniform_pairs

# In place of minus infinity, whose product with 0 is not a number.
_LEAST = -1e30
# Candidates drawn at a time for the blocks that still have some: few first, since most have one or none.
_DRAWS = (2, 8, 32)


@dataclass(frozen=True)
class RaceKey:
    """What the noise of N positions is drawn from: the run's seed, and each position's own counters."""

    seed: int
    epochs_N: Tensor
    indices_N: Tensor
    positions_N: Tensor


@dataclass(frozen=True)
class TemperaturePath:
    """Winners of the race over inverse temperatures from `1 / high` to `1 / low`."""

    tokens_NG: Tensor
    """int64; from the hottest segment to the coldest, then padding"""
    starts_NG: Tensor
    """float32: the inverse temperature where each segment begins; infinity for padding"""
    low: float
    """lowest temperature"""
    high: float
    """highest temperature"""

    def at(self, temperature: float) -> Tensor:
        """The samples (N,) of `softmax(l / temperature)`.

        Raises:
            ValueError: the temperature lies outside the interval.
        """
        if not self.low <= temperature <= self.high:
            raise ValueError(f"temperature {temperature:g} lies outside the path's {self.low:g} to {self.high:g}")
        # The hottest segment begins at or below 1 / high, whatever its rounding.
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
    """
    rows, vocabulary = logits_NV.shape
    # A power of two near the root of V: as many heads as other entries that are drawn.
    width = 1 << max(1, round(log2(vocabulary) / 2))
    blocks = -(-vocabulary // width)
    padding = blocks * width - vocabulary
    logits_NV = nn.functional.pad(logits_NV.float(), (0, padding), value=float("-inf"))
    blocks_NKW = logits_NV.view(rows, blocks, width)
    heads_NK, places_NK = blocks_NKW.max(2)
    seconds_NK = blocks_NKW.scatter(2, places_NK[:, :, None], float("-inf")).amax(2)
    # Lines are kept relative to the likeliest entry: b · l loses no digits.
    top_N1 = heads_NK.amax(1, keepdim=True)
    slopes_NK, seconds_NK = (heads_NK - top_N1).double(), (seconds_NK - top_N1).double().clamp(min=_LEAST)
    block_1K = torch.arange(blocks, device=logits_NV.device)[None]
    noise_NK, gap_NK = _draw(key, torch.arange(rows, device=logits_NV.device)[:, None], block_1K)
    noise_NK = _gumbel(noise_NK)
    range_ = (1.0 / high, 1.0 / low)
    winners_NG, starts_NG = _envelope(slopes_NK, noise_NK, *range_)
    # L(b) at its breakpoints and at both ends; between them it is linear.
    breaks_NP = torch.cat((starts_NG, torch.full_like(starts_NG[:, :1], range_[1])), 1).clamp(max=range_[1])
    last_NP = torch.cat((winners_NG, winners_NG[:, -1:]), 1)
    bound_NP = breaks_NP * slopes_NK.gather(1, last_NP) + noise_NK.gather(1, last_NP)
    threshold_NK = (bound_NP[:, None, :] - breaks_NP[:, None, :] * seconds_NK[:, :, None]).amin(2)
    exceed_NK = -torch.expm1(-torch.exp(-threshold_NK))

    row_C, token_C, noise_C = _exceeding(key, gap_NK, exceed_NK, places_NK, width)
    slope_C = (logits_NV[row_C, token_C] - top_N1[row_C, 0]).double()
    # A line minus L is concave and piecewise linear: its maximum is at a breakpoint of L or at an end.
    value_CP = breaks_NP[row_C] * slope_C[:, None].clamp(min=_LEAST) + noise_C[:, None]
    wins_C = (value_CP > bound_NP[row_C]).any(1)
    row_C, token_C, noise_C, slope_C = row_C[wins_C], token_C[wins_C], noise_C[wins_C], slope_C[wins_C]

    head_tokens_NG = (winners_NG * width) + places_NK.gather(1, winners_NG)
    tokens_NC, slopes_NC, noises_NC = _append(
        (head_tokens_NG, slopes_NK.gather(1, winners_NG), noise_NK.gather(1, winners_NG)),
        row_C,
        (token_C, slope_C, noise_C),
    )
    winners_NG, starts_NG = _envelope(slopes_NC, noises_NC, *range_)
    return TemperaturePath(tokens_NC.gather(1, winners_NG), starts_NG.float(), low, high)


def _draw(key: RaceKey, rows: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    return uniform_pairs(key.seed, Stream.RACE, key.epochs_N[rows], key.indices_N[rows], key.positions_N[rows], entries)


def _gumbel(uniform: Tensor) -> Tensor:
    return -torch.log(-torch.log(uniform))


def _exceeding(
    key: RaceKey, gap_NK: Tensor, exceed_NK: Tensor, places_NK: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The entries beside the heads whose noise exceeds their block's threshold: row, token and noise, (C,) each.

    Args:
        key: of the noise.
        gap_NK: the uniform variable of each block's first gap.
        exceed_NK: the probability of an entry to exceed.
        places_NK: the head's place in each block, which is left out.
        width: W.
    """
    blocks = exceed_NK.shape[1]
    exceed, places = exceed_NK.flatten(), places_NK.flatten()
    log_below = torch.log1p(-exceed.clamp(max=1.0 - 2.0**-53))
    ordinal = torch.floor(torch.log(gap_NK.flatten()) / log_below)
    active = (ordinal < width - 1).nonzero()[:, 0]
    ordinal = ordinal[active].long()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    drawn = 0
    for draws in chain(_DRAWS, repeat(_DRAWS[-1])):
        if not len(active):
            break
        row, block = (active // blocks)[:, None], (active % blocks)[:, None]
        number = torch.arange(drawn + 1, drawn + draws + 1, device=active.device)
        noise, gap = _draw(key, row, block + blocks * number)
        jump = 1 + torch.floor(torch.log(gap) / log_below[active][:, None]).clamp(max=width).long()
        # The first of these is known; each gap leads to the next.
        after = ordinal[:, None] + jump.cumsum(1)
        here = torch.cat((ordinal[:, None], after[:, :-1]), 1)
        inside = here < width - 1
        # A Gumbel variable above the threshold: the uniform variable lies above 1 - p.
        noise = -torch.log(-torch.log1p(-exceed[active][:, None] * (1.0 - noise)))
        place = here + (here >= places[active][:, None])
        found.append((row.expand_as(inside)[inside], (block * width + place)[inside], noise[inside]))
        still = after[:, -1] < width - 1
        active, ordinal = active[still], after[still, -1]
        drawn += draws
    if not found:
        nothing = gap_NK.new_zeros(0)
        return nothing.long(), nothing.long(), nothing
    row, token, noise = (torch.cat(parts) for parts in zip(*found, strict=True))
    return row, token, noise


def _append(
    first: tuple[Tensor, Tensor, Tensor], row_C: Tensor, more: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Put a ragged list of candidates behind a rectangular one; where there is none, a line that never wins."""
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
        indices of the lines (N, G), from `start` on, the last one repeated as padding; and where each begins (N, G),
        infinity for padding.
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
