"""The initial temperature by the auxiliary's entropy: `corruption.schedule.initial=auto`. Not in the paper.

The curriculum starts at a high temperature, so that replacements are easy to detect; but they should still depend on
their context. The entropy H(T) measures this: the mean over masked positions of the entropy of softmax(l / T). It rises
with T, up to log V for V tokens that can be drawn, where all are equally likely. So

    T0 = the T in [1, 2] with H(T) = 0.7 log V;  1 if H(1) > 0.7 log V, and 2 if H(2) < 0.7 log V.

Notable:
- a strong auxiliary (H(1) of 1.5 to 2 nats, V = 30,000) gets 2 or slightly less, as in the paper. The samples of a weak
  one differ from the original anyway; it starts slightly above 1, since at 2 it would draw noise;
- H is measured at 11 temperatures and interpolated. T0 is rounded to two decimals, so that rounding errors in the model
  rarely change it. A run writes the number into its configuration.

Shapes: N masked positions, V vocabulary.
"""

from collections.abc import Iterable
from math import log

import numpy as np
import torch
from torch import Tensor

from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.auxiliary import Auxiliary
from fast_electra.corruption.masking import Masked
from fast_electra.data.batches import Batch

TEMPERATURES = np.linspace(1.0, 2.0, 11)
LARGEST_SHARE = 0.7
"""share of the largest entropy, log V, at the start"""
# Number of rows at a time, to bound the memory.
_ROWS = 256


def initial_temperature(auxiliary: Auxiliary, batches: Iterable[tuple[Batch, Masked]], tokens: int) -> float:
    """Choose T0 for an auxiliary.

    Args:
        auxiliary: of any kind.
        batches: validation rows and their masked positions, on the auxiliary's device.
        tokens: number of tokens that can be drawn.

    Returns:
        T0 from 1 to 2, with two decimals.
    """
    totals, count = np.zeros(len(TEMPERATURES)), 0
    for batch, masked in batches:
        valid_N = masked.valid_BM.flatten()
        totals += entropies(auxiliary.logits(batch, masked, Difficulty(1.0))[valid_N])
        count += int(valid_N.sum())
    return where_entropy_is(LARGEST_SHARE * log(tokens), totals / count)


@torch.no_grad()
def entropies(logits_NV: Tensor) -> np.ndarray:
    """Sums (11,) over positions of the entropy of softmax(l / T) in nats, at each of `TEMPERATURES`."""
    totals = np.zeros(len(TEMPERATURES))
    for logits_nV in logits_NV.split(_ROWS):
        for number, temperature in enumerate(TEMPERATURES):
            totals[number] += float(torch.special.entr((logits_nV.float() / temperature).softmax(1)).sum())
    return totals


def where_entropy_is(wanted: float, means: np.ndarray) -> float:
    """The temperature at which the mean entropy is `wanted`, or the nearer end of `TEMPERATURES`.

    Args:
        wanted: nats.
        means: mean entropies at `TEMPERATURES`, in nats; they rise.
    """
    return round(float(np.interp(wanted, means, TEMPERATURES)), 2)
