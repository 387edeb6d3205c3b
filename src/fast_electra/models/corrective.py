"""Corrective language modelling: a vocabulary head on the main model's encoder that predicts the original tokens.

Notable:
- the head is that of the architecture's `…ForMaskedLM`, which shares the encoder of the main model. Its output layer is
  tied to the token embeddings if the class ties them;
- the encoder runs once: the head reads its hidden states from `hidden_states` of the main model's output;
- only masked positions pass through the head.

Shapes: B sequences, S positions, M masked positions (padded), N = B · M, d width, V vocabulary.
"""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from fast_electra.errors import ModelError
from fast_electra.models.build import copy_fitting
from fast_electra.models.rtd import ReplacedTokenDetector


class CorrectiveHead:
    """Gives logits over the vocabulary at masked positions, from the encoder of a replaced token detector."""

    def __init__(self, masked_lm: PreTrainedModel, detector: ReplacedTokenDetector):
        """Replace the encoder of `masked_lm` by that of `detector`.

        Args:
            masked_lm: a model of the same configuration; changed in place. With the shared encoder it is complete and
                can be exported.
            detector: its output has `hidden_states` from now on.

        Raises:
            ModelError: the head of this class needs more than the encoder's last hidden states.
        """
        self.model = masked_lm
        main = detector.model
        output = cast(nn.Linear | None, masked_lm.get_output_embeddings())
        is_tied = output is not None and output.weight is masked_lm.get_input_embeddings().weight
        setattr(masked_lm, masked_lm.base_model_prefix, main.base_model)
        if is_tied:
            cast(nn.Linear, output).weight = cast(nn.Parameter, main.get_input_embeddings().weight)
        cast(nn.Module, main.base_model).register_forward_hook(_hand_on)
        # The same head after an encoder that returns its input. `copy` shares the modules.
        self._head = copy.copy(masked_lm)
        self._head._modules = masked_lm._modules | {masked_lm.base_model_prefix: _GivenHiddenStates()}
        self._refuse_other_needs()

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the head by name, without those of the encoder and tied embeddings."""
        shared = {id(parameter) for parameter in cast(nn.Module, self.model.base_model).parameters()}
        return {name: p for name, p in self.model.named_parameters() if id(p) not in shared}

    def start_from(self, auxiliary: PreTrainedModel) -> list[str]:
        """Copy the parameters that a model has under the same name and shape to the head; returns their names."""
        return copy_fitting(dict(auxiliary.named_parameters()), self.parameters())

    def logits(self, hidden_BSd: Tensor, positions_BM: Tensor) -> Tensor:
        """Logits (N, V) at `positions_BM`, from the hidden states of all positions."""
        hidden_BMd = hidden_BSd.gather(1, positions_BM[:, :, None].expand(-1, -1, hidden_BSd.shape[-1]))
        return self._head(inputs_embeds=hidden_BMd).logits.flatten(0, 1)

    @torch.no_grad()
    def _refuse_other_needs(self) -> None:
        table = cast(Tensor, self.model.get_input_embeddings().weight)
        hidden_BSd = table.new_zeros(1, 1, self.model.config.hidden_size)
        zero_11 = torch.zeros(1, 1, dtype=torch.int64, device=table.device)
        self.model(input_ids=zero_11 + 1)  # an error here is not about the head
        try:
            self.logits(hidden_BSd, zero_11)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"objective.corrective_weight is not possible with this {self.model.config.model_type}: the head of "
                f"{type(self.model).__name__} needs more than hidden states ({' '.join(str(error).split())[:120]}); "
                "give 0, or another architecture."
            ) from error


class _GivenHiddenStates(nn.Module):
    """Takes the place of an encoder: its output is its input embeddings."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=cast(torch.FloatTensor, inputs_embeds))


def _hand_on(_module: nn.Module, _arguments: Any, output: Any) -> Any:
    output.hidden_states = (output.last_hidden_state,)
    return output
