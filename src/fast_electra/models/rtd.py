"""The main model: an encoder with one logit for each token, "this token was replaced".

Notable:
- ELECTRA uses `ElectraForPreTraining`, any other class its token-classification head with one label;
- labels are never passed to the model, since the losses of the classes are not ours (with one label the loss is 0).

Shapes: B sequences, S positions, d width.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

from fast_electra.data.batches import Batch
from fast_electra.models.inputs import encoder_inputs, refuse_leaks


class ReplacedTokenDetector(nn.Module):
    """Gives logits of replaced token detection from a Transformers model."""

    def __init__(self, model: PreTrainedModel, by_document: bool = False):
        """Wrap `model`; with `by_document` tokens attend only to their own document.

        Raises:
            ConfigError: the model cannot keep documents apart.
        """
        super().__init__()
        if by_document:
            refuse_leaks(model)
        self.model = model
        self.by_document = by_document

    def logits(self, batch: Batch, ids_BS: Tensor) -> Tensor:
        """Logits (B, S) of "replaced" for the sequences `ids_BS` of a batch."""
        return self.logits_and_hidden_states(batch, ids_BS)[0]

    def logits_and_hidden_states(self, batch: Batch, ids_BS: Tensor) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Logits (B, S), and with a `CorrectiveHead` the last hidden states (B, S, d) in a tuple."""
        output = self.model(**encoder_inputs(self.model, ids_BS, batch, self.by_document))
        return replaced_logits(output.logits), output.hidden_states


def replaced_logits(logits: Tensor) -> Tensor:
    """The log-odds (B, S) of "replaced" from a head's output (B, S), (B, S, 1), or (B, S, 2) after an export."""
    if logits.ndim == 2:
        return logits
    return logits[..., 0] if logits.shape[-1] == 1 else logits[..., 1] - logits[..., 0]
