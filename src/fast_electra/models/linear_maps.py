"""The linear maps of a model: the weights that an optimizer decays, and among them those that Muon updates.

Notable:
- they are found by the type of module, not by names. Weights of linear maps are decayed; tables (tokens, positions,
  relative positions), bare parameters, norms and biases are not. `embeddings_project` of ELECTRA is a map, and
  `relative_attention_bias` of MPNet is a table;
- a map is hidden if it is in a list of layers, as in BERT, ModernBERT, and ALBERT, whose layers share weights;
- one matrix may stack several maps. Query, key and value (or gate and input) come from a map with three (two) times as
  many rows as the columns of a map in the same module that reads one of them.
"""

from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class LinearMap:
    """The weight of a linear map."""

    hidden: bool
    """whether it is inside the encoder's layers, where Muon applies"""
    parts: int = 1
    """number of maps stacked along its rows"""


def linear_maps(model: nn.Module) -> dict[str, LinearMap]:
    """The linear maps of a model by their names in `named_parameters`, without weights that are tied to a table."""
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
    """Number of maps stacked in one, by the map in the same module that reads one of them; 1 if none does."""
    read = {child.in_features for child in parent.children() if isinstance(child, nn.Linear) and child is not linear}
    if linear.out_features in read:
        return 1
    return next((parts for parts in (3, 2) if linear.out_features / parts in read), 1)
