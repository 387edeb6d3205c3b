"""Linear maps are found by structure: what is decayed, what Muon steps, what is fused."""

import pytest
import torch
from torch import nn

from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.linear_maps import linear_maps
from fast_electra.models.shapes import ShapeConfig

SPECIAL = {"pad": 1, "cls": 2, "sep": 3, "mask": 4}
# Of two layers: maps that are hidden, maps that are not, and how many maps are fused in which.
EXPECTED = {
    "modernbert": (8, {"head.dense.weight"}, {"attn.Wqkv.weight": 3, "mlp.Wi.weight": 2}),
    "electra": (12, {"electra.embeddings_project.weight", "generator_predictions.dense.weight"}, {}),
    "bert": (12, {"cls.predictions.transform.dense.weight"}, {}),
    "eurobert": (14, {"lm_head.weight"}, {}),
    "mpnet": (12, {"lm_head.dense.weight"}, {}),
    # The layers of ALBERT share their weights.
    "albert": (6, {"albert.encoder.embedding_hidden_mapping_in.weight", "predictions.dense.weight"}, {}),
    "distilbert": (12, {"vocab_transform.weight"}, {}),
}


@pytest.mark.parametrize("architecture", EXPECTED)
def test_matrices_are_maps_and_tables_are_not_whatever_their_names(architecture):
    options = {"electra": {"embedding_size": 16}, "albert": {"embedding_size": 16}}.get(architecture, {})
    shape = ShapeConfig(
        architecture=architecture, layers=2, hidden_size=32, heads=2, intermediate_size=64, options=options
    )
    model = build_model(transformers_config(shape, 100, SPECIAL, 16), "mlm", seed=0)
    maps = linear_maps(model)
    hidden, outside, fused = EXPECTED[architecture]
    assert sum(found.hidden for found in maps.values()) == hidden
    assert {name for name, found in maps.items() if not found.hidden} == outside
    parts = {name.partition(".0.")[2]: found.parts for name, found in maps.items() if found.parts > 1 and ".0." in name}
    assert parts == fused
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    others = {name: parameter for name, parameter in model.named_parameters() if name not in maps}
    assert all(parameter.ndim == 1 or id(parameter) in tables for parameter in others.values())
    assert not [name for name, parameter in model.named_parameters() if name in maps and id(parameter) in tables]


def test_a_map_of_three_times_the_rows_that_nobody_reads_in_parts_is_one_map():
    layer = nn.ModuleDict({"up": nn.Linear(8, 24), "down": nn.Linear(24, 8)})
    assert {found.parts for found in linear_maps(nn.Sequential(nn.ModuleList([layer]))).values()} == {1}


def test_a_bare_parameter_counts_as_a_table():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Parameter(torch.zeros(4, 4))
            self.map = nn.Linear(4, 4)

    assert set(linear_maps(Biased())) == {"map.weight"}
