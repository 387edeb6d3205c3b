"""Masked language modelling: predict the original tokens at `[MASK]`. It trains auxiliaries.

Notable:
- only masked positions pass through the output layer, in training as in use;
- BERT's rule is an option: some of the masked positions show a random token or the original instead of `[MASK]`. So the
  encoder learns to judge visible tokens, which helps a main model that starts from it.

Shapes: B sequences, S positions, M masked positions (padded), N = B · M, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fast_electra.corruption.masking import Masker, masked_ids, originals
from fast_electra.data.random import Stream, uniforms
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.optimizers import Optimizer
from fast_electra.objectives.base import Objective, ParameterGroup, Prepared, Terms


@dataclass
class MLM(Objective):
    """Mean cross-entropy over masked positions."""

    model: MaskedLM
    mask_id: int
    masker: Masker
    optimizer: Optimizer
    most_frequent: int
    """the most frequent token of the corpus, which the unigram baseline predicts everywhere"""
    random: float = 0.0
    """share of the masked positions that show a random token of the same row"""
    kept: float = 0.0
    """share of the masked positions that show the original"""
    weights: Mapping[str, float] = field(default_factory=lambda: {"mlm": 1.0})

    def models(self) -> dict[str, nn.Module]:
        """The masked language model."""
        return {"main": self.model.model}

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group with all parameters of the model."""
        return [ParameterGroup.of("main", self.model.model, self.optimizer)]

    def counts(self, prepared: Prepared) -> dict[str, Tensor]:
        """The number of masked positions."""
        return {"mlm": prepared.masked.valid_BM.sum()}

    def terms(self, prepared: Prepared, progress: float, seed: int) -> Terms:
        """Cross-entropy (sum, nats) and correct predictions over masked positions."""
        shown_BS = shown_ids(prepared, self.mask_id, seed, self.random, self.kept)
        return masked_terms(self.model.masked_logits(prepared.batch, shown_BS, prepared.masked.positions_BM), prepared)

    def validate(self, batches: list[Prepared], seed: int) -> dict[str, float]:
        """`loss` (nats), `masked_accuracy` and `unigram_accuracy`; every masked position shows `[MASK]`."""
        return masked_measures(self.model, batches, self.mask_id, self.most_frequent)

    def behind_masks(self) -> Objective:
        """The objective without random and kept tokens."""
        return replace(self, random=0.0, kept=0.0)


def shown_ids(prepared: Prepared, mask_id: int, seed: int, random: float, kept: float) -> Tensor:
    """The input ids of a masked language model: `[MASK]` at the masked positions, or BERT's rule.

    Args:
        prepared: a batch and its masked positions.
        mask_id: id of `[MASK]`.
        seed: seed of the run.
        random: share of the masked positions that show the token of a random position of the row. So special tokens
            never appear, and other tokens appear with their frequency.
        kept: share of the masked positions that show the original.

    Returns:
        (B, S) int64.
    """
    batch, masked = prepared.batch, prepared.masked
    ids_BS = masked_ids(batch, masked, mask_id)
    if not random and not kept:
        return ids_BS
    epochs_B1, indices_B1 = batch.epochs[:, None], batch.indices[:, None]
    choice_BM = uniforms(seed, Stream.REPLACEMENT_RULE, epochs_B1, indices_B1, masked.positions_BM)
    draw_BM = uniforms(seed, Stream.REPLACEMENT_RULE, epochs_B1, indices_B1, masked.positions_BM + (1 << 20))
    eligible_BS = batch.eligible
    rank_BM = (draw_BM * eligible_BS.sum(1, keepdim=True)).long()
    # The eligible position with this rank: positions sorted by (not eligible, position).
    order_BS = (~eligible_BS).long().argsort(dim=1, stable=True)
    random_BM = batch.ids.gather(1, order_BS.gather(1, rank_BM))
    shown_BM = ids_BS.gather(1, masked.positions_BM)
    shown_BM = torch.where(choice_BM < random + kept, originals(batch, masked), shown_BM)
    shown_BM = torch.where(choice_BM < random, random_BM, shown_BM)
    shown_BM = torch.where(masked.valid_BM, shown_BM, originals(batch, masked))
    return ids_BS.scatter(1, masked.positions_BM, shown_BM)


def masked_terms(logits_NV: Tensor, prepared: Prepared) -> Terms:
    """The loss `mlm`, cross-entropy (sum, nats), and the metric `masked_accuracy`, over masked positions."""
    originals_N = originals(prepared.batch, prepared.masked).flatten()
    valid_N = prepared.masked.valid_BM.flatten()
    logits_NV = logits_NV.float()  # once: on a CPU argmax of bfloat16 takes 3 times as long as of float32
    losses_N = nn.functional.cross_entropy(logits_NV, originals_N, reduction="none")
    count = valid_N.sum()
    correct = ((logits_NV.argmax(-1) == originals_N) & valid_N).sum()
    return Terms(losses={"mlm": ((losses_N * valid_N).sum(), count)}, metrics={"masked_accuracy": (correct, count)})


@torch.no_grad()
def masked_measures(model: MaskedLM, batches: list[Prepared], mask_id: int, most_frequent: int) -> dict[str, float]:
    """Measures of a masked language model.

    Args:
        model: in evaluation mode.
        batches: validation rows; every masked position shows `[MASK]`.
        mask_id: id of `[MASK]`.
        most_frequent: the token that the unigram baseline predicts everywhere.

    Returns:
        `loss` (mean, nats), `masked_accuracy` and `unigram_accuracy` (shares), over masked positions.
    """
    loss = correct = unigram = count = 0.0
    for prepared in batches:
        ids_BS = masked_ids(prepared.batch, prepared.masked, mask_id)
        terms = masked_terms(model.masked_logits(prepared.batch, ids_BS, prepared.masked.positions_BM), prepared)
        loss += float(terms.losses["mlm"][0])
        correct += int(terms.metrics["masked_accuracy"][0])
        is_frequent_BM = originals(prepared.batch, prepared.masked) == most_frequent
        unigram += int((is_frequent_BM & prepared.masked.valid_BM).sum())
        count += int(prepared.masked.valid_BM.sum())
    return {"loss": loss / count, "masked_accuracy": correct / count, "unigram_accuracy": unigram / count}
