"""An objective: replaced token detection with a focal loss (Lin et al., 2017), which gives easy tokens less weight.

fast-electra pretrain CONFIG --plugin examples/plugins/focal.py --run RUN objective.kind=focal objective.gamma=2
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

from pydantic import Field

from fast_electra.objectives.base import Terms
from fast_electra.objectives.detection import corruption_metrics, rtd_losses, token_weights
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.objectives.settings import FastElectraObjective


class FocalObjective(FastElectraObjective):
    """Fast-ELECTRA with a focal loss."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0)
    """how strongly the loss reduces the weight of tokens that are classified correctly; 0: the loss of fast_electra"""

    def title(self, model):
        """The method as a model card names it."""
        return f"Fast-ELECTRA with a focal loss, gamma {self.gamma:g}"

    def build(self, inputs):
        """The objective of fast_electra, with the other loss."""
        built = super().build(inputs)
        own = {field.name: getattr(built.objective, field.name) for field in fields(built.objective)}
        return replace(built, objective=FocalDetection(**own, gamma=self.gamma))


@dataclass
class FocalDetection(FastElectra):
    """Each token's cross-entropy is multiplied by (1 - p)^gamma, where p is the probability of its label."""

    gamma: float = 2.0

    def terms(self, prepared, progress, seed):
        """Losses over scored tokens and metrics, as sums with their counts."""
        corrupted, logits_BS, corrections = self._forward(prepared, self.curriculum.difficulty(progress), seed)
        losses_BS = rtd_losses(logits_BS, corrupted.replaced_BS)
        weights_BS = token_weights(prepared, self.include_special, self.masked_weight)
        focus_BS = (1.0 - (-losses_BS).exp()) ** self.gamma
        return Terms(
            losses={"rtd": ((focus_BS * losses_BS * weights_BS).sum(), weights_BS.sum())} | corrections.losses,
            metrics=corruption_metrics(corrupted, losses_BS.detach()) | corrections.metrics,
        )
