"""Fast-ELECTRA: replaced token detection against a frozen auxiliary, easy to hard by a falling temperature.

The algorithm (Dong et al., 2024, section 3), for each update at progress u:
    M      ← 15 % of the non-special tokens                    prepare
    T      ← 1 + (T0 - 1) exp(-u / tau)                        curriculum
    x'_t   ~ softmax(l_t / T), t in M, l from the auxiliary    source
    y_t    ← [x'_t ≠ x_t]
    loss   ← mean over scored tokens of BCE(main(x')_t, y_t)   terms

Notable:
- the source of corrupted sequences is given (on the fly, or from a cache), and so is the curriculum;
- masked positions may weigh more than others in that mean;
- beside it the main model may predict x_t at all t in M from x' (corrective language modelling, after Meng et al.,
  2021, section 3.2, without their copy mechanism): one pass of the encoder, two heads.

Shapes: B sequences, S positions, M masked positions, N = B · M.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from fast_electra.config.tree import OptimizerConfig
from fast_electra.corruption.masking import Masker
from fast_electra.corruption.schedules import Curriculum, Difficulty
from fast_electra.corruption.sources import Corrupted, CorruptionSource
from fast_electra.data.batches import Batch
from fast_electra.models.corrective import CorrectiveHead
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.objectives.base import ParameterGroup, Prepared, Terms
from fast_electra.objectives.mlm import masked_terms


@dataclass
class FastElectra:
    """Mean binary cross-entropy of the main model over all scored tokens, and its corrections where it has a head."""

    main: ReplacedTokenDetector
    source: CorruptionSource
    curriculum: Curriculum
    masker: Masker
    optimizer: OptimizerConfig
    include_special: bool = False
    masked_weight: float = 1.0
    """weight of a masked position's RTD loss; other scored tokens weigh 1"""
    head: CorrectiveHead | None = None
    """predicts the originals at masked positions; then `weights` has one for its term, `corrective`"""
    weights: Mapping[str, float] = field(default_factory=lambda: {"rtd": 1.0})

    @property
    def observes(self) -> bool:
        """Whether the curriculum follows the run."""
        return self.curriculum.observes

    def models(self) -> dict[str, nn.Module]:
        """The main model, and its encoder with the vocabulary head; the auxiliary is frozen and not among them."""
        found: dict[str, nn.Module] = {"main": self.main.model}
        return found | ({"masked_lm": self.head.model} if self.head else {})

    def parameter_groups(self) -> list[ParameterGroup]:
        """All the main model's parameters and the vocabulary head's own, in one group."""
        main = ParameterGroup.of("main", self.main.model, self.optimizer)
        if not self.head:
            return [main]
        head = ParameterGroup.of("masked_lm", self.head.model, self.optimizer).only("masked_lm", self.head.parameters())
        named = {f"masked_lm.{name}": p for name, p in head.parameters.items()}
        maps = {f"masked_lm.{name}": found for name, found in head.linear_maps.items()}
        return [replace(main, parameters={**main.parameters, **named}, linear_maps={**main.linear_maps, **maps})]

    def prepare(self, batch: Batch, seed: int) -> Prepared:
        """Mask."""
        return Prepared(batch, self.masker(batch, seed))

    def counts(self, prepared: Prepared) -> dict[str, Tensor]:
        """The weights of scored tokens, and masked positions."""
        found = {"rtd": token_weights(prepared, self.include_special, self.masked_weight).sum()}
        return found | ({"corrective": prepared.masked.valid_BM.sum()} if self.head else {})

    def terms(self, prepared: Prepared, progress: float, seed: int) -> Terms:
        """Losses (sums, nats) over scored tokens and, with a vocabulary head, masked positions; what was replaced."""
        corrupted, logits_BS, corrections = self._forward(prepared, self.curriculum.difficulty(progress), seed)
        losses_BS = rtd_losses(logits_BS, corrupted.replaced_BS)
        weights_BS = token_weights(prepared, self.include_special, self.masked_weight)
        return Terms(
            losses={"rtd": ((losses_BS * weights_BS).sum(), weights_BS.sum())} | corrections.losses,
            metrics=corruption_metrics(corrupted, losses_BS.detach()) | corrections.metrics,
        )

    def settings(self, progress: float) -> dict[str, float]:
        """The temperature, and the strengths of dropout and attention dropping where there are any."""
        return self.curriculum.difficulty(progress).logged()

    @torch.no_grad()
    def validate(self, batches: list[Prepared], seed: int) -> dict[str, float]:
        """Loss, `rtd_auc`, `rtd_auc_masked` and `replaced_fraction` at T = 1.

        With a vocabulary head `loss` is the weighted sum of `rtd` and `corrective_loss`, and `corrective_accuracy` is
        the share of masked positions whose original it finds.
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
        """Let the curriculum follow."""
        self.curriculum.observe(metrics)

    def state_dict(self) -> dict[str, float]:
        """The curriculum's state."""
        return self.curriculum.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue the curriculum."""
        self.curriculum.load_state_dict(state)

    def _forward(self, prepared: Prepared, difficulty: Difficulty, seed: int) -> tuple[Corrupted, Tensor, Terms]:
        """A corrupted batch, the main model's RTD logits (B, S) on it, and the terms of its corrections, if any."""
        corrupted = self.source.corrupt(prepared.batch, prepared.masked, difficulty, seed)
        logits_BS, hidden_states = self.main.logits_and_hidden_states(prepared.batch, corrupted.ids_BS)
        if not self.head:
            return corrupted, logits_BS, Terms({})
        assert hidden_states is not None
        terms = masked_terms(self.head.logits(hidden_states[-1], prepared.masked.positions_BM), prepared)
        losses, accuracy = {"corrective": terms.losses["mlm"]}, terms.metrics["masked_accuracy"]
        return corrupted, logits_BS, Terms(losses, {"corrective_accuracy": accuracy})


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
