"""A masked language model whose output layer sees the masked positions alone.

Notable:
- one forward hook on `base_model` gathers the hidden states before the head, for every `…ForMaskedLM` class alike;
- the number of masked positions is padded to a fixed count, so shapes never change;
- the same wrapper trains an auxiliary (gradients flow through the gather) and runs a frozen one.

Shapes: B sequences, S positions, M masked positions, N = B · M, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fast_electra.data.batches import Batch
from fast_electra.models.inputs import model_inputs


class MaskedLM(nn.Module):
    """Logits at masked positions of any Transformers masked language model."""

    def __init__(self, model: PreTrainedModel, by_document: bool = False):
        """Wrap `model`; `by_document`: tokens attend to their own document alone."""
        super().__init__()
        self.model = model
        self.by_document = by_document
        self._positions_BM: Tensor | None = None
        model.base_model.register_forward_hook(self._gather)

    def freeze(self, dtype: torch.dtype) -> "MaskedLM":
        """Evaluation mode, no gradients, weights in `dtype`."""
        self.model.requires_grad_(False)
        self.to(dtype)
        self.eval()
        return self

    def masked_logits(self, batch: Batch, ids_BS: Tensor, positions_BM: Tensor) -> Tensor:
        """Logits (N, V) at `positions_BM` of the sequences `ids_BS`."""
        self._positions_BM = positions_BM
        try:
            logits_BMV = self.model(**model_inputs(self.model.config, ids_BS, batch, self.by_document)).logits
        finally:
            self._positions_BM = None
        return logits_BMV.flatten(0, 1)

    def _gather(self, _module: nn.Module, _arguments: Any, output: Any) -> Any:
        if self._positions_BM is None:
            return output
        hidden_BSd = output.last_hidden_state
        index = self._positions_BM[:, :, None].expand(-1, -1, hidden_BSd.shape[-1])
        output.last_hidden_state = hidden_BSd.gather(1, index)
        return output
