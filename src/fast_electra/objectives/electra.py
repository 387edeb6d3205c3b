"""Joint ELECTRA, the baseline: a generator and a main model (discriminator) trained together from scratch.

The algorithm (Clark et al., 2020, section 2), for each update:
    M      ← 15 % of the non-special tokens                            prepare
    l_t    ← generator(x with [MASK] at M), t in M                     terms
    x'_t   ~ softmax(l_t) without special tokens, t in M; no gradient  terms
    y_t    ← [x'_t ≠ x_t]
    loss   ← MLM(l, x) + 50 · mean over scored tokens of BCE(main(x')_t, y_t)

Notable:
- the generator learns only from the MLM loss; the RTD loss reaches it only through tied embeddings;
- Adam cancels the weight 50, except in clipping, epsilon and tied tables (Dong et al., 2023). By default each model is
  clipped separately, on the gradients of its own unweighted loss;
- sampling is always at T = 1: the curriculum comes from the generator's learning.

Shapes: B sequences, S positions, N masked positions of the batch, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fast_electra.corruption.auxiliary import Candidates
from fast_electra.corruption.masking import Masker, masked_ids
from fast_electra.corruption.replacement import Corrupted, corrupt_by
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.optimizers import Optimizer
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.objectives.base import Objective, ParameterGroup, Prepared, Terms
from fast_electra.objectives.detection import corruption_metrics, detection_measures, rtd_losses, scored_tokens
from fast_electra.objectives.mlm import masked_measures, masked_terms, shown_ids
from fast_electra.objectives.settings import ElectraObjective


@dataclass
class Electra(Objective):
    """The generator's MLM loss plus the main model's weighted RTD loss."""

    main: ReplacedTokenDetector
    generator: MaskedLM
    config: ElectraObjective
    mask_id: int
    masker: Masker
    optimizer: Optimizer
    most_frequent: int
    """the most frequent token of the corpus, which the unigram baseline predicts everywhere"""
    candidates: Candidates
    """the tokens that replacements are drawn from; the generator's loss is over the whole vocabulary"""
    weights: Mapping[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.weights = {"mlm": 1.0, "rtd": self.config.rtd_weight}

    def models(self) -> dict[str, nn.Module]:
        """Main model and generator; tied embeddings are parameters of both."""
        return {"main": self.main.model, "generator": self.generator.model}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Every parameter of both models, once.

        With `clip: joint` there is one group, clipped on the gradients of the weighted sum, as published. With
        `per_model` there is one group for each model, clipped on the gradients of its own unweighted loss, and one for
        shared parameters, clipped on the weighted mean of both (which keeps the published ratio in tied tables). The
        shared group has the main model's settings.
        """
        weight = self.config.rtd_weight
        main = ParameterGroup.of("main", self.main.model, self.optimizer, loss_weight=weight)
        generator = ParameterGroup.of(
            "generator", self.generator.model, self.config.generator_optimizer or self.optimizer
        )
        in_both = {id(p) for p in main.parameters.values()} & {id(p) for p in generator.parameters.values()}
        shared = [name for name, p in main.parameters.items() if id(p) in in_both]
        own = main.only("main", (name for name, p in main.parameters.items() if id(p) not in in_both))
        if self.config.clip == "joint":
            both = (own, generator)
            named = {f"{group.name}.{name}": p for group in both for name, p in group.parameters.items()}
            maps = {f"{group.name}.{name}": found for group in both for name, found in group.linear_maps.items()}
            return [ParameterGroup("main", named, self.optimizer, maps)]
        unshared = (name for name, p in generator.parameters.items() if id(p) not in in_both)
        groups = [own, generator.only("generator", unshared)]
        return [*groups, main.only("shared", shared, loss_weight=1.0 + weight)] if shared else groups

    def counts(self, prepared: Prepared) -> dict[str, Tensor]:
        """The numbers of masked positions (`mlm`) and of scored tokens (`rtd`)."""
        return {
            "mlm": prepared.masked.valid_BM.sum(),
            "rtd": scored_tokens(prepared.batch, self.config.include_special).sum(),
        }

    def terms(self, prepared: Prepared, progress: float, seed: int) -> Terms:
        """The generator's cross-entropy and the main model's binary cross-entropy (sums, nats)."""
        batch = prepared.batch
        shown_BS = shown_ids(prepared, self.mask_id, seed, self.config.random, self.config.kept)
        logits_NV = self.generator.masked_logits(batch, shown_BS, prepared.masked.positions_BM)
        generator = masked_terms(logits_NV, prepared)
        # The backward pass needs the softmax, not the logits, so these may be overwritten.
        corrupted = self._corrupt(logits_NV.detach(), prepared, seed)
        losses_BS = rtd_losses(self.main.logits(batch, corrupted.ids_BS), corrupted.replaced_BS)
        scored_BS = scored_tokens(batch, self.config.include_special)
        return Terms(
            losses=generator.losses | {"rtd": ((losses_BS * scored_BS).sum(), scored_BS.sum())},
            metrics=generator.metrics | corruption_metrics(corrupted, losses_BS.detach()),
        )

    def settings(self, progress: float) -> dict[str, float]:
        """The temperature, which is 1."""
        return {"temperature": 1.0}

    @torch.no_grad()
    def validate(self, batches: list[Prepared], seed: int) -> dict[str, float]:
        """The weighted loss and its terms, the generator's accuracy, and the main model's AUCs.

        The generator makes the replacements, so the AUCs cannot be compared with those of another run.
        """
        detection = detection_measures(batches, lambda p: self.detect(p, seed), self.config.include_special)
        generator = masked_measures(self.generator, batches, self.mask_id, self.most_frequent)
        mlm, rtd = generator["loss"], detection["loss"]
        return generator | detection | {"loss": mlm + self.config.rtd_weight * rtd, "mlm": mlm, "rtd": rtd}

    @torch.no_grad()
    def detect(self, prepared: Prepared, seed: int) -> tuple[Corrupted, Tensor]:
        """The batch corrupted by the current generator, and the main model's logits (B, S) for it."""
        ids_BS = masked_ids(prepared.batch, prepared.masked, self.mask_id)
        logits_NV = self.generator.masked_logits(prepared.batch, ids_BS, prepared.masked.positions_BM)
        corrupted = self._corrupt(logits_NV, prepared, seed)
        return corrupted, self.main.logits(prepared.batch, corrupted.ids_BS)

    def _corrupt(self, logits_NV: Tensor, prepared: Prepared, seed: int) -> Corrupted:
        """Corrupt a batch by the generator's logits, which are overwritten, so they must not be used afterwards."""
        logits_NV = self.candidates.only(logits_NV)
        return corrupt_by(logits_NV, prepared.batch, prepared.masked, 1.0, seed, self.config.disallow_correct)
