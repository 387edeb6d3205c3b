"""A model's linear maps, found by structure: which weights an optimizer decays, and which of them Muon may step.

Notable:
- by the kind of module, not by names: a weight of a linear map is decayed; tables (tokens, positions, relative
  positions), bare parameters, norms and biases are not. `embeddings_project` of ELECTRA is a map, and
  `relative_attention_bias` of MPNet a table;
- a map is hidden where it lies in a list of layers: of BERT, of ModernBERT, and of ALBERT, whose layers share weights;
- several maps in one matrix show by who reads them: query, key and value (or gate and input) are made by a map whose
  rows are three (two) times the columns of the map in the same module that reads one of them.
"""

from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class LinearMap:
    """The weight of a linear map."""

    hidden: bool
    """inside the encoder's layers: what Muon is for"""
    parts: int = 1
    """maps stacked along its rows"""


def linear_maps(model: nn.Module) -> dict[str, LinearMap]:
    """The linear maps among a model's parameters, by name in `named_parameters`; a weight tied to a table is none."""
    modules = dict(model.named_modules())
    tables = {
        id(parameter)
        for module in modules.values()
        if not isinstance(module, nn.Linear | nn.Conv1d | Conv1D)
        for parameter in module.parameters(recurse=False)
    }
    lists = tuple(f"{name}." for name, module in modules.items() if isinstance(module, nn.ModuleList))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, LinearMap] = {}
    for path, module in modules.items():
        if isinstance(module, nn.Linear | nn.Conv1d | Conv1D) and id(module.weight) not in tables:
            is_hidden = isinstance(module, nn.Linear) and path.startswith(lists)
            parts = _parts(module, modules[path.rpartition(".")[0]]) if isinstance(module, nn.Linear) and path else 1
            found[names[id(module.weight)]] = LinearMap(is_hidden, parts)
    return found


def _parts(linear: nn.Linear, parent: nn.Module) -> int:
    """Maps that are stacked in one, by the map in the same module that reads one of them; 1 where none is seen."""
    read = {child.in_features for child in parent.children() if isinstance(child, nn.Linear) and child is not linear}
    if linear.out_features in read:
        return 1
    return next((parts for parts in (3, 2) if linear.out_features / parts in read), 1)
