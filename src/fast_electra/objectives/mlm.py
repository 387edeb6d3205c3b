"""Masked language modelling: predict the tokens behind `[MASK]`. Trains auxiliaries.

Notable:
- only masked positions pass through the output layer, in training as in use;
- BERT's rule is an option: some of the masked positions show a random token or the original instead of `[MASK]`. It
  makes the encoder judge tokens that it sees, which a main model that starts from it needs.

Shapes: B sequences, S positions, M masked positions (padded), N = B · M, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fast_electra.config.tree import OptimizerConfig
from fast_electra.corruption.masking import Masker, masked_ids, originals
from fast_electra.data.batches import Batch
from fast_electra.data.random import Stream, uniforms
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.objectives.base import ParameterGroup, Prepared, Terms


@dataclass
class MLM:
    """Mean cross-entropy over masked positions."""

    model: MaskedLM
    mask_id: int
    masker: Masker
    optimizer: OptimizerConfig
    most_frequent: int
    """the corpus's most frequent token: what the unigram baseline predicts everywhere"""
    random: float = 0.0
    """share of the masked positions that show a random token of the same batch"""
    kept: float = 0.0
    """share of the masked positions that show the original"""
    observes: bool = False
    weights: Mapping[str, float] = field(default_factory=lambda: {"mlm": 1.0})

    def models(self) -> dict[str, nn.Module]:
        """The masked language model."""
        return {"main": self.model.model}

    def parameter_groups(self) -> list[ParameterGroup]:
        """All its parameters, in one group."""
        return [ParameterGroup("main", dict(self.model.model.named_parameters()), self.optimizer)]

    def prepare(self, batch: Batch, seed: int) -> Prepared:
        """Mask."""
        return Prepared(batch, self.masker(batch, seed))

    def counts(self, prepared: Prepared) -> dict[str, Tensor]:
        """Masked positions."""
        return {"mlm": prepared.masked.valid_BM.sum()}

    def terms(self, prepared: Prepared, progress: float, seed: int) -> Terms:
        """Cross-entropy (sum, nats) and correct predictions over masked positions."""
        seen_BS = self._seen(prepared, seed) if self.random or self.kept else None
        losses_N, predictions_N, originals_N, valid_N = self._predict(prepared, seen_BS)
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

    def _seen(self, prepared: Prepared, seed: int) -> Tensor:
        """Ids (B, S) under BERT's rule. A random token is the one at another position of the row, so that special
        tokens never appear and frequent ones appear as often as they are.
        """
        batch, masked = prepared.batch, prepared.masked
        epochs_B1, indices_B1 = batch.epochs[:, None], batch.indices[:, None]
        choice_BM = uniforms(seed, Stream.REPLACEMENT_RULE, epochs_B1, indices_B1, masked.positions_BM)
        draw_BM = uniforms(seed, Stream.REPLACEMENT_RULE, epochs_B1, indices_B1, masked.positions_BM + (1 << 20))
        eligible_BS = batch.eligible
        rank_BM = (draw_BM * eligible_BS.sum(1, keepdim=True)).long()
        # The eligible position with that rank: positions sorted by (not eligible, position).
        order_BS = (~eligible_BS).long().argsort(dim=1, stable=True)
        random_BM = batch.ids.gather(1, order_BS.gather(1, rank_BM))
        ids_BS = masked_ids(batch, masked, self.mask_id)
        shown_BM = ids_BS.gather(1, masked.positions_BM)
        shown_BM = torch.where(choice_BM < self.random + self.kept, originals(batch, masked), shown_BM)
        shown_BM = torch.where(choice_BM < self.random, random_BM, shown_BM)
        shown_BM = torch.where(masked.valid_BM, shown_BM, originals(batch, masked))
        return ids_BS.scatter(1, masked.positions_BM, shown_BM)

    def _predict(self, prepared: Prepared, seen_BS: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Losses, predictions, originals and validity (N,); of the ids `seen_BS`, or of `[MASK]` everywhere."""
        batch, masked = prepared.batch, prepared.masked
        if seen_BS is None:
            seen_BS = masked_ids(batch, masked, self.mask_id)
        logits_NV = self.model.masked_logits(batch, seen_BS, masked.positions_BM)
        originals_N = originals(batch, masked).flatten()
        losses_N = nn.functional.cross_entropy(logits_NV.float(), originals_N, reduction="none")
        return losses_N, logits_NV.argmax(-1), originals_N, masked.valid_BM.flatten()
