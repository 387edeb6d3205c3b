"""Fast-ELECTRA: replaced token detection against a frozen auxiliary, easy to hard by a falling temperature.

The algorithm (Dong et al., 2024, section 3), for each update at progress u:
    M      ← 15 % of the non-special tokens                    prepare
    T      ← 1 + (T0 - 1) exp(-u / tau)                        curriculum
    x'_t   ~ softmax(l_t / T), t in M, l from the auxiliary    source
    y_t    ← [x'_t ≠ x_t]
    loss   ← mean over scored tokens of BCE(main(x')_t, y_t)   terms

Notable:
- the caller gives the source of corrupted sequences (on the fly, or from a cache) and the curriculum;
- masked positions may have a larger weight than others in the mean;
- the main model may also predict x_t at all t in M from x' (corrective language modelling, after Meng et al., 2021,
  section 3.2, without their copy mechanism). The encoder runs once, with two heads.

Shapes: B sequences, S positions, M masked positions, N = B · M.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.masking import Masker
from fast_electra.corruption.replacement import Corrupted, CorruptionSource
from fast_electra.corruption.schedules import Curriculum
from fast_electra.data.batches import Batch
from fast_electra.models.corrective import CorrectiveHead
from fast_electra.models.optimizers import Optimizer
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.objectives.base import Objective, ParameterGroup, Prepared, Terms
from fast_electra.objectives.detection import corruption_metrics, detection_measures, rtd_losses, token_weights
from fast_electra.objectives.mlm import masked_terms


@dataclass
class FastElectra(Objective):
    """Mean binary cross-entropy of the main model over scored tokens, and with a vocabulary head its corrections."""

    main: ReplacedTokenDetector
    source: CorruptionSource
    curriculum: Curriculum
    masker: Masker
    optimizer: Optimizer
    include_special: bool = False
    masked_weight: float = 1.0
    """weight of the RTD loss at masked positions; other scored tokens have weight 1"""
    head: CorrectiveHead | None = None
    """predicts the originals at masked positions; `weights` then needs a weight for its term, `corrective`"""
    weights: Mapping[str, float] = field(default_factory=lambda: {"rtd": 1.0})
    _temperature = None  # a scalar on the device in place of the curriculum's; no field, so copies do not have it

    @property
    def observes(self) -> bool:
        """Whether the curriculum follows the run's metrics."""
        return self.curriculum.observes

    def models(self) -> dict[str, nn.Module]:
        """The main model, and with a vocabulary head `masked_lm`, the same encoder with this head."""
        found: dict[str, nn.Module] = {"main": self.main.model}
        return found | ({"masked_lm": self.head.model} if self.head else {})

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group with all parameters of the main model and of the vocabulary head."""
        main = ParameterGroup.of("main", self.main.model, self.optimizer)
        if not self.head:
            return [main]
        head = ParameterGroup.of("masked_lm", self.head.model, self.optimizer).only("masked_lm", self.head.parameters())
        named = {f"masked_lm.{name}": p for name, p in head.parameters.items()}
        maps = {f"masked_lm.{name}": found for name, found in head.linear_maps.items()}
        return [replace(main, parameters={**main.parameters, **named}, linear_maps={**main.linear_maps, **maps})]

    def prepare(self, batch: Batch, seed: int, progress: float | None = None) -> Prepared:
        """The batch with its masked positions; with `progress` and a cache, also its replacements.

        A curriculum that follows the run's metrics does not know its difficulty ahead. Then `terms` reads them.
        """
        prepared = super().prepare(batch, seed)
        if progress is None or self.observes:
            return prepared
        return replace(prepared, replacements=self.source.stored(batch, self.curriculum.difficulty(progress)))

    def counts(self, prepared: Prepared) -> dict[str, Tensor]:
        """The sum of the weights of scored tokens (`rtd`), and the number of masked positions (`corrective`)."""
        found = {"rtd": token_weights(prepared, self.include_special, self.masked_weight).sum()}
        return found | ({"corrective": prepared.masked.valid_BM.sum()} if self.head else {})

    def terms(self, prepared: Prepared, progress: float, seed: int) -> Terms:
        """Losses (sums, nats) over scored tokens and, with a vocabulary head, masked positions; and metrics."""
        difficulty = self.curriculum.difficulty(progress)
        if self._temperature is not None:
            difficulty = replace(difficulty, temperature=cast(float, self._temperature))
        corrupted, logits_BS, corrections = self._forward(prepared, difficulty, seed)
        losses_BS = rtd_losses(logits_BS, corrupted.replaced_BS)
        weights_BS = token_weights(prepared, self.include_special, self.masked_weight)
        return Terms(
            losses={"rtd": ((losses_BS * weights_BS).sum(), weights_BS.sum())} | corrections.losses,
            metrics=corruption_metrics(corrupted, losses_BS.detach()) | corrections.metrics,
        )

    def settings(self, progress: float) -> dict[str, float]:
        """The temperature, and the strengths of dropout and attention dropping if they are not zero."""
        return self.curriculum.difficulty(progress).logged()

    def read_temperature(self, scalar: Tensor | None) -> None:
        """Take the temperature from a scalar on the device; None: from the curriculum."""
        self._temperature = scalar

    @torch.no_grad()
    def validate(self, batches: list[Prepared], seed: int) -> dict[str, float]:
        """Loss, `rtd_auc`, `rtd_auc_masked` and `replaced_fraction` at T = 1.

        With a vocabulary head, `loss` is the weighted sum of `rtd` and `corrective_loss`, and `corrective_accuracy` is
        the share of masked positions where the head predicts the original.
        """
        corrected: list[Terms] = []

        def detect(prepared: Prepared) -> tuple[Corrupted, Tensor]:
            corrupted, logits_BS, corrections = self._forward(prepared, Difficulty(1.0), seed)
            corrected.append(corrections)
            return corrupted, logits_BS

        found = detection_measures(batches, detect, self.include_special, self.masked_weight)
        if not self.head:
            return found
        count = sum(int(terms.losses["corrective"][1]) for terms in corrected)
        loss = sum(float(terms.losses["corrective"][0]) for terms in corrected) / count
        correct = sum(int(terms.metrics["corrective_accuracy"][0]) for terms in corrected)
        total = found["loss"] + self.weights["corrective"] * loss
        measures = {"loss": total, "rtd": found["loss"], "corrective_loss": loss}
        return found | measures | {"corrective_accuracy": correct / count}

    def observe(self, metrics: dict[str, float]) -> None:
        """Pass an update's metrics to the curriculum."""
        self.curriculum.observe(metrics)

    def state_dict(self) -> dict[str, float]:
        """The state of the curriculum."""
        return self.curriculum.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue the curriculum from a `state_dict`."""
        self.curriculum.load_state_dict(state)

    def _forward(self, prepared: Prepared, difficulty: Difficulty, seed: int) -> tuple[Corrupted, Tensor, Terms]:
        """A corrupted batch, the main model's RTD logits (B, S) for it, and the terms of its corrections, if any."""
        batch, masked, read = prepared.batch, prepared.masked, prepared.replacements
        corrupted = read.written(batch, masked) if read else self.source.corrupt(batch, masked, difficulty, seed)
        logits_BS, hidden_states = self.main.logits_and_hidden_states(batch, corrupted.ids_BS)
        if not self.head:
            return corrupted, logits_BS, Terms({})
        assert hidden_states is not None
        terms = masked_terms(self.head.logits(hidden_states[-1], prepared.masked.positions_BM), prepared)
        losses, accuracy = {"corrective": terms.losses["mlm"]}, terms.metrics["masked_accuracy"]
        return corrupted, logits_BS, Terms(losses, {"corrective_accuracy": accuracy})
