"""Masked language modelling: predict the tokens behind `[MASK]`. Trains auxiliaries.

Notable: only masked positions pass through the output layer, in training as in use.

Shapes: B sequences, S positions, M masked positions (padded), N = B · M, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fast_electra.config.tree import OptimizerConfig
from fast_electra.corruption.masking import Masked, mask_random_tokens
from fast_electra.corruption.sources import masked_ids
from fast_electra.data.batches import Batch
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.objectives.base import ParameterGroup, Prepared, Terms


@dataclass
class MLM:
    """Mean cross-entropy over masked positions."""

    model: MaskedLM
    mask_id: int
    rate: float
    optimizer: OptimizerConfig
    most_frequent: int
    """the corpus's most frequent token: what the unigram baseline predicts everywhere"""
    weights: Mapping[str, float] = field(default_factory=lambda: {"mlm": 1.0})

    def models(self) -> dict[str, nn.Module]:
        """The masked language model."""
        return {"main": self.model.model}

    def parameter_groups(self) -> list[ParameterGroup]:
        """All its parameters, in one group."""
        return [ParameterGroup("main", dict(self.model.model.named_parameters()), self.optimizer)]

    def prepare(self, batch: Batch, seed: int) -> Prepared:
        """Mask random tokens."""
        return Prepared(batch, mask_random_tokens(batch, self.rate, seed))

    def counts(self, prepared: Prepared) -> dict[str, Tensor]:
        """Masked positions."""
        return {"mlm": prepared.masked.valid_BM.sum()}

    def terms(self, prepared: Prepared, progress: float, seed: int) -> Terms:
        """Cross-entropy (sum, nats) and correct predictions over masked positions."""
        losses_N, predictions_N, originals_N, valid_N = self._predict(prepared)
        count = valid_N.sum()
        correct = ((predictions_N == originals_N) & valid_N).sum()
        return Terms(
            losses={"mlm": ((losses_N * valid_N).sum(), count)},
            metrics={"masked_accuracy": (correct, count)},
        )

    def settings(self, progress: float) -> dict[str, float]:
        """Nothing: there is no curriculum."""
        return {}

    @torch.no_grad()
    def validate(self, batches: list[Prepared], seed: int) -> dict[str, float]:
        """Loss, `masked_accuracy`, `unigram_accuracy`."""
        loss = correct = unigram = count = 0.0
        for prepared in batches:
            losses_N, predictions_N, originals_N, valid_N = self._predict(prepared)
            loss += float((losses_N * valid_N).sum())
            correct += int(((predictions_N == originals_N) & valid_N).sum())
            unigram += int(((originals_N == self.most_frequent) & valid_N).sum())
            count += int(valid_N.sum())
        return {"loss": loss / count, "masked_accuracy": correct / count, "unigram_accuracy": unigram / count}

    def observe(self, metrics: dict[str, float]) -> None:
        """Nothing to follow."""

    def state_dict(self) -> dict[str, float]:
        """No state besides the parameters."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """No state besides the parameters."""

    def _predict(self, prepared: Prepared) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, masked = prepared.batch, prepared.masked
        logits_NV = self.model.masked_logits(batch, masked_ids(batch, masked, self.mask_id), masked.positions_BM)
        originals_N = originals(batch, masked).flatten()
        losses_N = nn.functional.cross_entropy(logits_NV.float(), originals_N, reduction="none")
        return losses_N, logits_NV.argmax(-1), originals_N, masked.valid_BM.flatten()


def originals(batch: Batch, masked: Masked) -> Tensor:
    """The original tokens (B, M) at the masked positions."""
    return batch.ids.gather(1, masked.positions_BM)
