"""Replaced token detection: its loss, its scored tokens and its measures, for every objective that uses it.

Shapes: B sequences, S positions, M masked positions.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fast_electra.corruption.masking import masked_tokens
from fast_electra.corruption.replacement import Corrupted
from fast_electra.data.batches import Batch
from fast_electra.objectives.base import Prepared


def scored_tokens(batch: Batch, include_special: bool) -> Tensor:
    """Bool (B, S): True for tokens in the RTD loss, never padding, special tokens only with `include_special`."""
    return ~batch.padding if include_special else batch.eligible


def token_weights(prepared: Prepared, include_special: bool, masked_weight: float) -> Tensor:
    """Weights (B, S) of the tokens in the RTD loss: `masked_weight` if masked, otherwise 1; 0 if not scored."""
    scored_BS = scored_tokens(prepared.batch, include_special)
    return torch.where(masked_tokens(prepared.batch, prepared.masked), masked_weight, 1.0) * scored_BS


def detection_measures(
    batches: list[Prepared],
    detect: Callable[[Prepared], tuple[Corrupted, Tensor]],
    include_special: bool,
    masked_weight: float = 1.0,
) -> dict[str, float]:
    """Measures of replaced token detection: `loss` (nats), `replaced_fraction`, `rtd_auc`, `rtd_auc_masked`.

    Args:
        batches: validation rows with fixed masks.
        detect: returns a corrupted batch and the main model's logits (B, S) for it, in evaluation mode.
        include_special: whether special tokens count in the loss; they never count in the AUCs.
        masked_weight: weight of masked positions in the loss; the AUCs count every token once.

    Returns:
        the measures, and `replaced_fraction_expected`; an AUC is missing if all tokens are of one class, and NaN if a
            logit is not finite.
    """
    from sklearn.metrics import roc_auc_score  # here, since the first update need not wait a second for it

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
        masked.append(masked_tokens(prepared.batch, prepared.masked)[eligible_BS].cpu().numpy())
    logits_all, replaced_all, masked_all = map(np.concatenate, (logits, replaced, masked))
    found = {
        "loss": loss / count,
        "replaced_fraction": float(replaced_all.sum() / masked_count),
        "replaced_fraction_expected": expected / masked_count,
    }
    for name, chosen in (("rtd_auc", slice(None)), ("rtd_auc_masked", masked_all)):
        labels = replaced_all[chosen]
        if labels.any() and not labels.all():
            scores = logits_all[chosen]
            found[name] = float(roc_auc_score(labels, scores)) if np.isfinite(scores).all() else float("nan")
    return found


def corruption_metrics(corrupted: Corrupted, losses_BS: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Metrics of a corrupted batch for the log: sums and counts over its masked positions.

    `rtd_loss_replaced` and `rtd_loss_kept` are the RTD loss at masked positions whose sample differs from the original,
    or equals it. The mean of both is the difficulty that an adaptive curriculum follows.
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
    """The RTD loss: binary cross-entropy (B, S) of each token, in nats, float32."""
    return nn.functional.binary_cross_entropy_with_logits(logits_BS.float(), replaced_BS.float(), reduction="none")
