"""Corrective language modelling: a vocabulary head on the main model's encoder that predicts the original tokens.

Notable:
- the head is that of the architecture's own `…ForMaskedLM`, whose encoder is the main model's: one module, one set of
  weights, and an output layer that is tied to its token embeddings where the class ties them;
- the encoder runs once: its hidden states travel to the head as the `hidden_states` of the main model's output;
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
from fast_electra.models.rtd import ReplacedTokenDetector


class CorrectiveHead:
    """Logits over the vocabulary at masked positions, from the encoder of a replaced token detector."""

    def __init__(self, masked_lm: PreTrainedModel, detector: ReplacedTokenDetector):
        """Give `masked_lm` the encoder of `detector`, in place of its own.

        Args:
            masked_lm: of the same configuration; changed in place. With the shared encoder it is a whole model, and
                can be exported.
            detector: its encoder hands on its hidden states from now on.

        Raises:
            ModelError: the class's head needs more of the encoder than its hidden states.
        """
        self.model = masked_lm
        main = detector.model
        output = cast(nn.Linear | None, masked_lm.get_output_embeddings())
        is_tied = output is not None and output.weight is masked_lm.get_input_embeddings().weight
        setattr(masked_lm, masked_lm.base_model_prefix, main.base_model)
        if is_tied:
            cast(nn.Linear, output).weight = cast(nn.Parameter, main.get_input_embeddings().weight)
        cast(nn.Module, main.base_model).register_forward_hook(_hand_on)
        # The same head behind an encoder that gives back what it is given. `copy` leaves its modules shared.
        self._head = copy.copy(masked_lm)
        self._head._modules = masked_lm._modules | {masked_lm.base_model_prefix: _GivenHiddenStates()}
        self._refuse_other_needs()

    def parameters(self) -> dict[str, nn.Parameter]:
        """The head's own parameters by name; those of the encoder, tied embeddings included, are the main model's."""
        shared = {id(parameter) for parameter in cast(nn.Module, self.model.base_model).parameters()}
        return {name: p for name, p in self.model.named_parameters() if id(p) not in shared}

    def start_from(self, auxiliary: PreTrainedModel) -> list[str]:
        """Start every parameter of the head that a model has under the same name and shape from it; gives the names."""
        theirs = dict(auxiliary.named_parameters())
        copied = []
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                if name in theirs and theirs[name].shape == parameter.shape:
                    parameter.copy_(theirs[name])
                    copied.append(name)
        return copied

    def logits(self, hidden_BSd: Tensor, positions_BM: Tensor) -> Tensor:
        """Logits (N, V) at `positions_BM`."""
        hidden_BMd = hidden_BSd.gather(1, positions_BM[:, :, None].expand(-1, -1, hidden_BSd.shape[-1]))
        return self._head(inputs_embeds=hidden_BMd).logits.flatten(0, 1)

    @torch.no_grad()
    def _refuse_other_needs(self) -> None:
        table = cast(Tensor, self.model.get_input_embeddings().weight)
        hidden_BSd = table.new_zeros(1, 1, self.model.config.hidden_size)
        self.model(input_ids=torch.ones(1, 1, dtype=torch.int64, device=table.device))  # what fails here is no verdict
        try:
            self.logits(hidden_BSd, torch.zeros(1, 1, dtype=torch.int64, device=table.device))
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"objective.corrective_weight is not possible with this {self.model.config.model_type}: the head of "
                f"{type(self.model).__name__} needs more than hidden states ({' '.join(str(error).split())[:120]}); "
                "give 0, or another architecture."
            ) from error


class _GivenHiddenStates(nn.Module):
    """In the place of an encoder: its output is what it is given as embeddings."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=cast(torch.FloatTensor, inputs_embeds))


def _hand_on(_module: nn.Module, _arguments: Any, output: Any) -> Any:
    output.hidden_states = (output.last_hidden_state,)
    return output
