"""Embeddings that two models share: one table for both, or one model's table plus the other's own difference.

Notable:
- sharing is by reference: `Module.to` converts parameters in place, so shared parameters stay shared through casts;
- a shared parameter is one parameter, and must be in one optimizer group only;
- disentangled sharing (He et al., 2021, DeBERTaV3): `E_main = stop_gradient(E) + delta`. It starts equal to the shared
  table and follows its changes, but gives it no gradient. An export adds the two into one table, exactly.

Shapes: V vocabulary, d width of the embeddings.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fast_electra.errors import ModelError


class DeltaEmbedding(nn.Module):
    """Embeddings `base + delta`: `base` is another model's current table, and `delta` is trained from zero."""

    def __init__(self, owner: nn.Embedding, padding_idx: int | None = None):
        """Embeddings on top of a table.

        Args:
            owner: its weight (V, d) is the base. It is not a part of this module nor in its state, and may be trained.
            padding_idx: id of the token whose delta gets no gradient, as in `nn.Embedding`.
        """
        super().__init__()
        self.num_embeddings, self.embedding_dim = owner.weight.shape
        self.padding_idx = padding_idx
        self._owner = (owner,)  # in a tuple, so that Module does not register it
        self.delta = nn.Parameter(torch.zeros(owner.weight.shape, device=owner.weight.device))

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (..., d) of `ids` (...), in the type of the difference; no gradient reaches the base."""
        base = nn.functional.embedding(ids, self.base.detach())
        return base.to(self.delta.dtype) + nn.functional.embedding(ids, self.delta, self.padding_idx)

    @property
    def base(self) -> Tensor:
        """The other model's table (V, d), by reference."""
        return self._owner[0].weight

    @property
    def weight(self) -> Tensor:
        """The sum (V, d) of base and difference, with the same bits as the vectors of `forward`."""
        return self.base.detach().to(self.delta.dtype) + self.delta


def disentangle(model: PreTrainedModel, owner: nn.Embedding) -> None:
    """Replace a model's token embeddings by those of `owner` plus a trained difference that starts at zero.

    Args:
        model: changed in place; its own table is dropped.
        owner: another model's token embeddings (V, d), kept by reference; that model may train them.

    Raises:
        ModelError: the shapes differ.
    """
    own = _token_embeddings(model)
    _refuse_other_shape(own.weight, owner.weight)
    model.set_input_embeddings(DeltaEmbedding(owner, own.padding_idx))


def fold(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model with one plain table instead of base and difference, for export; its outputs are equal.

    A model without such embeddings is returned itself.
    """
    if not isinstance(model.get_input_embeddings(), DeltaEmbedding):
        return model
    folded = copy.deepcopy(model)
    embeddings = cast(DeltaEmbedding, folded.get_input_embeddings())
    table = embeddings.weight.detach().clone()
    folded.set_input_embeddings(nn.Embedding(*table.shape, padding_idx=embeddings.padding_idx, _weight=table))
    return folded


def tie(model: PreTrainedModel, other: PreTrainedModel) -> list[str]:
    """Let a model use another's embeddings: the token table, and positions, types and norm if both have them.

    Every parameter of the encoder's module `embeddings` with the same name and shape is shared, as in ELECTRA's code.

    Args:
        model: changed in place: its parameters become the other's.
        other: keeps its parameters, and its output layer stays tied to its token table if it was.

    Returns:
        names of the model's parameters that are now the other's.

    Raises:
        ModelError: the token tables' shapes differ.
    """
    own, table = _token_embeddings(model), _token_embeddings(other).weight
    _refuse_other_shape(own.weight, table)
    own.weight = table
    ours, theirs = (getattr(m.base_model, "embeddings", None) for m in (model, other))
    if isinstance(ours, nn.Module) and isinstance(theirs, nn.Module):
        candidates = dict(theirs.named_parameters())
        for name, parameter in list(ours.named_parameters()):
            if name in candidates and candidates[name].shape == parameter.shape:
                module, _, leaf = name.rpartition(".")
                setattr(ours.get_submodule(module), leaf, candidates[name])
    shared = {id(parameter) for parameter in other.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in shared]


def _token_embeddings(model: PreTrainedModel) -> nn.Embedding:
    return cast(nn.Embedding, model.get_input_embeddings())


def _refuse_other_shape(own: Tensor, other: Tensor) -> None:
    if own.shape != other.shape:
        raise ModelError(
            f"token embeddings of {tuple(own.shape)} cannot share a table of {tuple(other.shape)}: give both models "
            "one width, or one embedding_size under options where the architecture has it (electra)."
        )
