"""Where the temperature starts, by the auxiliary's entropy: `corruption.schedule.initial=auto`. Ours, not the paper's.

The curriculum starts hot so that replacements are easy to see through, but they should still tell of their context.
How far they do is a matter of their entropy H(T), the mean over masked positions of the entropy of softmax(l / T): it
rises with T up to the log of the number V of tokens that can be drawn, where replacements are drawn evenly. So

    T0 = the T in [1, 2] with H(T) = 0.7 log V;  1 where H(1) is above that, 2 where H(2) is below.

Notable:
- a strong auxiliary (H(1) of 1.5 to 2 nats, V = 30,000) gets 2 or nearly so, as in the paper; a weak one, whose samples
  differ from the original anyway, starts just above 1, where at 2 it would draw noise;
- H is measured at 11 temperatures and interpolated; two decimals are kept, so that a rounding elsewhere in the model
  rarely gives another number. A run writes the number into its configuration.

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
"""of the entropy of even draws, at the start"""
# Rows at a time, so that a vocabulary's numbers stay few.
_ROWS = 256


def initial_temperature(auxiliary: Auxiliary, batches: Iterable[tuple[Batch, Masked]], tokens: int) -> float:
    """T0 for an auxiliary, 1 to 2.

    Args:
        auxiliary: of any kind.
        batches: validation rows and their masked positions, on the auxiliary's device.
        tokens: how many can be drawn.
    """
    totals, count = np.zeros(len(TEMPERATURES)), 0
    for batch, masked in batches:
        valid_N = masked.valid_BM.flatten()
        totals += entropies(auxiliary.logits(batch, masked, Difficulty(1.0))[valid_N])
        count += int(valid_N.sum())
    return where_entropy_is(LARGEST_SHARE * log(tokens), totals / count)


@torch.no_grad()
def entropies(logits_NV: Tensor) -> np.ndarray:
    """Sum over positions of the entropy of softmax(l / T), nats, at each of `TEMPERATURES`."""
    totals = np.zeros(len(TEMPERATURES))
    for logits_nV in logits_NV.split(_ROWS):
        for number, temperature in enumerate(TEMPERATURES):
            totals[number] += float(torch.special.entr((logits_nV.float() / temperature).softmax(1)).sum())
    return totals


def where_entropy_is(wanted: float, means: np.ndarray) -> float:
    """The temperature at which the mean entropy, which rises with it, is `wanted`; the nearer end where it never is.

    Args:
        wanted: nats.
        means: at `TEMPERATURES`.
    """
    return round(float(np.interp(wanted, means, TEMPERATURES)), 2)
