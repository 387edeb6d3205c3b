"""Language models whose output layer runs only at chosen positions; here the masked one, `other_lm.py` has the others.

Notable:
- a hook gathers the hidden states before the head. It works for all classes, without a table of them;
- the number of masked positions is padded to a fixed number, so shapes never change;
- the same wrapper trains an auxiliary (gradients flow through the gather) and runs a frozen one.

Shapes: B sequences, S positions, M masked positions, N = B · M, V vocabulary.
"""

from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fast_electra.data.batches import Batch
from fast_electra.errors import ModelError
from fast_electra.models.inputs import encoder_inputs, refuse_leaks
from fast_electra.models.layers import cast_weights


class GatheringLM(nn.Module):
    """Logits of a Transformers model at chosen positions only."""

    def __init__(self, model: PreTrainedModel):
        """Wrap `model`; subclasses register a hook that calls `gathered` on its hidden states."""
        super().__init__()
        self.model = model
        self._positions_BM: Tensor | None = None

    def freeze(self, dtype: torch.dtype) -> Self:
        """Set evaluation mode, turn gradients off and cast the weights to `dtype`, in place; returns itself."""
        self.model.requires_grad_(False)
        cast_weights(self, dtype)
        self.eval()
        return self

    def logits_at(self, positions_BM: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Logits (N, V) at `positions_BM` for the model's `inputs`.

        Raises:
            ModelError: the hidden states of this class do not pass the hook.
        """
        self._positions_BM = positions_BM
        try:
            logits_BMV = self.model(**inputs).logits
        finally:
            self._positions_BM = None
        if logits_BMV.shape[:2] != positions_BM.shape:
            raise ModelError(
                f"a {type(self.model).__name__} does not show its hidden states: take a model of another class."
            )
        return logits_BMV.flatten(0, 1)

    def gathered(self, hidden_BSd: Tensor) -> Tensor:
        """Hidden states (B, M, d) at the chosen positions; all hidden states if none are chosen."""
        if self._positions_BM is None:
            return hidden_BSd
        return hidden_BSd.gather(1, self._positions_BM[:, :, None].expand(-1, -1, hidden_BSd.shape[-1]))


class MaskedLM(GatheringLM):
    """Logits at masked positions of any Transformers masked language model."""

    def __init__(self, model: PreTrainedModel, by_document: bool = False):
        """Wrap `model`; with `by_document` tokens attend only to their own document.

        Raises:
            ConfigError: the model cannot keep documents apart.
        """
        if by_document:
            refuse_leaks(model)
        super().__init__(model)
        self.by_document = by_document
        self.output: nn.Linear | None = None
        """the output layer, if it was taken out of the model"""
        # Before the whole head, so that its dense layer and norm skip the other positions too.
        cast(nn.Module, model.base_model).register_forward_hook(self._gather)

    def masked_logits(self, batch: Batch, ids_BS: Tensor, positions_BM: Tensor) -> Tensor:
        """Logits (N, V) at `positions_BM` for the sequences `ids_BS` of a batch."""
        found_N = self.before_output(batch, ids_BS, positions_BM)
        return found_N if self.output is None else self.output(found_N)

    def before_output(self, batch: Batch, ids_BS: Tensor, positions_BM: Tensor) -> Tensor:
        """What `masked_logits` gives before the output layer (N, d), if this was taken out."""
        return self.logits_at(positions_BM, encoder_inputs(self.model, ids_BS, batch, self.by_document))

    @torch.no_grad()
    def take_output_layer(self) -> nn.Linear:
        """Take the layer that gives the logits out of the model, and return it.

        Raises:
            ModelError: it is no linear map, or the model changes what it gives.
        """
        output = self.model.get_output_embeddings()
        names = [name for name, module in self.model.named_modules() if module is output]
        ids_BS = torch.arange(8, device=self.model.device)[None] % self.model.config.vocab_size
        before = self.model(input_ids=ids_BS).logits
        if isinstance(output, nn.Linear) and names:
            self.model.set_submodule(names[0], nn.Identity())
            after = nn.functional.linear(self.model(input_ids=ids_BS).logits, output.weight, output.bias)
            if torch.allclose(before, after):
                self.output = output
                return output
        raise ModelError(
            f"a {type(self.model).__name__} gives its logits otherwise than by a linear map at its end: use "
            "corruption.sampler=inverse_cdf."
        )

    def _gather(self, _module: nn.Module, _arguments: Any, output: Any) -> Any:
        output.last_hidden_state = self.gathered(output.last_hidden_state)
        return output
