"""Replaced token detection: its loss, the tokens that it scores, and its measures, for every objective that detects.

Shapes: B sequences, S positions, M masked positions.
"""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fast_electra.corruption.replacement import Corrupted
from fast_electra.data.batches import Batch
from fast_electra.objectives.base import Prepared


def scored_tokens(batch: Batch, include_special: bool) -> Tensor:
    """Mask (B, S) of the tokens that the RTD loss is over: never padding, special ones only when asked."""
    return ~batch.padding if include_special else batch.eligible


def token_weights(prepared: Prepared, include_special: bool, masked_weight: float) -> Tensor:
    """Weights (B, S) of the tokens in the RTD loss: `masked_weight` where masked, else 1; 0 where not scored."""
    scored_BS = scored_tokens(prepared.batch, include_special)
    return torch.where(masked_tokens(prepared), masked_weight, 1.0) * scored_BS


def masked_tokens(prepared: Prepared) -> Tensor:
    """Mask (B, S) of the masked positions."""
    masked = prepared.masked
    nowhere_BS = torch.zeros_like(prepared.batch.padding)
    return nowhere_BS.scatter(1, masked.positions_BM, masked.valid_BM)


def detection_measures(
    batches: list[Prepared],
    detect: Callable[[Prepared], tuple[Corrupted, Tensor]],
    include_special: bool,
    masked_weight: float = 1.0,
) -> dict[str, float]:
    """Measures of replaced token detection: `loss` (nats), `replaced_fraction`, `rtd_auc`, `rtd_auc_masked`.

    Args:
        batches: validation rows with fixed masks.
        detect: gives a corrupted batch and the main model's logits (B, S) on it; in evaluation mode.
        include_special: the loss is over special tokens too; the AUCs never are.
        masked_weight: of masked positions in the loss; the AUCs count every token once.

    Returns:
        the measures; an AUC is missing where all tokens are of one class.
    """
    logits, replaced, masked, loss, count, expected, masked_count = [], [], [], 0.0, 0.0, 0.0, 0
    for prepared in batches:
        corrupted, logits_BS = detect(prepared)
        weights_BS, eligible_BS = token_weights(prepared, include_special, masked_weight), prepared.batch.eligible
        loss += float((rtd_losses(logits_BS, corrupted.replaced_BS) * weights_BS).sum())
        count += float(weights_BS.sum())
        expected += float(corrupted.expected_replaced)
        masked_count += int(prepared.masked.valid_BM.sum())
        logits.append(logits_BS[eligible_BS].float().cpu().numpy())
        replaced.append(corrupted.replaced_BS[eligible_BS].cpu().numpy())
        masked.append(masked_tokens(prepared)[eligible_BS].cpu().numpy())
    logits_all, replaced_all, masked_all = map(np.concatenate, (logits, replaced, masked))
    found = {
        "loss": loss / count,
        "replaced_fraction": float(replaced_all.sum() / masked_count),
        "replaced_fraction_expected": expected / masked_count,
    }
    for name, chosen in (("rtd_auc", slice(None)), ("rtd_auc_masked", masked_all)):
        labels = replaced_all[chosen]
        if labels.any() and not labels.all():
            found[name] = float(roc_auc_score(labels, logits_all[chosen]))
    return found


def corruption_metrics(corrupted: Corrupted, losses_BS: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What is logged of a corrupted batch: sums and counts over its masked positions.

    `rtd_loss_replaced` and `rtd_loss_kept` are the RTD loss at masked positions whose sample differs from the original
    or equals it; their mean is the difficulty that an adaptive curriculum follows.
    """
    masked = corrupted.masked
    count = masked.valid_BM.sum()
    losses_BM = losses_BS.gather(1, masked.positions_BM)
    replaced_BM = corrupted.replaced_BS.gather(1, masked.positions_BM) & masked.valid_BM
    kept_BM = ~replaced_BM & masked.valid_BM
    entropy = {} if corrupted.entropy is None else {"auxiliary_entropy": (corrupted.entropy, count)}
    return {
        "replaced_fraction": (replaced_BM.sum(), count),
        "replaced_fraction_expected": (corrupted.expected_replaced, count),
        **entropy,
        "rtd_loss_replaced": ((losses_BM * replaced_BM).sum(), replaced_BM.sum()),
        "rtd_loss_kept": ((losses_BM * kept_BM).sum(), kept_BM.sum()),
    }


def rtd_losses(logits_BS: Tensor, replaced_BS: Tensor) -> Tensor:
    """Binary cross-entropy (B, S) of each token, in float32 nats."""
    return nn.functional.binary_cross_entropy_with_logits(logits_BS.float(), replaced_BS.float(), reduction="none")
