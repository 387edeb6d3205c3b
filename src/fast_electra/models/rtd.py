"""The main model: an encoder with one logit a token, "this token was replaced".

Notable:
- ELECTRA is `ElectraForPreTraining`; any other class is its token-classification head with one label;
- labels are never passed: the classes' built-in losses are not ours (a one-label head's is constant 0).

Shapes: B sequences, S positions, d width.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

from fast_electra.data.batches import Batch
from fast_electra.models.inputs import model_inputs, refuse_leaks


class ReplacedTokenDetector(nn.Module):
    """Logits of replaced token detection from a Transformers model."""

    def __init__(self, model: PreTrainedModel, by_document: bool = False):
        """Wrap `model`; `by_document`: tokens attend to their own document alone.

        Raises:
            ConfigError: the model can't keep documents apart.
        """
        super().__init__()
        if by_document:
            refuse_leaks(model)
        self.model = model
        self.by_document = by_document

    def logits(self, batch: Batch, ids_BS: Tensor) -> Tensor:
        """Logits (B, S) of "replaced" for the sequences `ids_BS`."""
        return self.logits_and_hidden_states(batch, ids_BS)[0]

    def logits_and_hidden_states(self, batch: Batch, ids_BS: Tensor) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Logits (B, S), and what the encoder hands on: its last hidden states (B, S, d) behind a `CorrectiveHead`."""
        output = self.model(**model_inputs(self.model.config, ids_BS, batch, self.by_document))
        return replaced_logits(output.logits), output.hidden_states


def replaced_logits(logits: Tensor) -> Tensor:
    """The log-odds of "replaced" (B, S) from a head's output: (B, S), (B, S, 1), or exported (B, S, 2)."""
    if logits.ndim == 2:
        return logits
    return logits[..., 0] if logits.shape[-1] == 1 else logits[..., 1] - logits[..., 0]
