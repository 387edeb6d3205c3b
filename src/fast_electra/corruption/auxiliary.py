"""Auxiliaries: whatever gives a distribution over the vocabulary at a masked position.

Notable:
- an auxiliary is frozen: no gradient, no optimizer state, evaluation mode;
- it is asked for logits at masked positions alone, and sees the batch with `[MASK]` there, never the originals;
- a difficulty's dropout strengths act inside it; its temperature is applied by the sampler.

Shapes: B sequences, S positions, M masked positions (padded), N = B · M, V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from fast_electra.corruption.masking import Masked, masked_ids
from fast_electra.corruption.schedules import Difficulty
from fast_electra.data.batches import Batch
from fast_electra.models.masked_lm import MaskedLM


class Auxiliary(Protocol):
    """Gives the distribution that replacements are drawn from."""

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Unnormalised log-probabilities (N, V) at the masked positions; what stands there must not matter."""
        ...

    def modules(self) -> list[nn.Module]:
        """The frozen modules, for checks that nothing trains them."""
        ...


@dataclass(frozen=True)
class MaskedLanguageModel:
    """A Transformers masked language model: `p(x_t | the row with [MASK] at M)`, ELECTRA's own choice."""

    model: MaskedLM
    mask_id: int

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Logits (N, V); only masked positions pass through the output layer."""
        return self.model.masked_logits(batch, masked_ids(batch, masked, self.mask_id), masked.positions_BM)

    def modules(self) -> list[nn.Module]:
        """The model."""
        return [self.model]
