"""The cost table: formula and count agree, and the paper's shape gives the shares that its conventions give."""

import json

import pytest
import torch
from torch import nn

from fast_electra.cli.main import main
from fast_electra.config import load_config, resolve
from fast_electra.errors import ConfigError
from fast_electra.studies.cost import auxiliary_shape, cost, savings
from fast_electra.training.flops import count_flops, kept_bytes, matrix_products
from tests import tiny

SHAPE = {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 48}


def settings(architecture: str = "electra", **changes):
    config = tiny.settings(None, "fast_electra", main__architecture=architecture, **changes)  # type: ignore[arg-type]
    return resolve(config.model_dump(mode="json"))


@pytest.fixture(scope="module")
def base():
    """The paper's base shape, with the vocabulary of BERT and ELECTRA."""
    return cost(load_config("paper-base"), vocabulary=30522)


@pytest.mark.parametrize("architecture", ["electra", "bert", "roberta", "modernbert", "distilbert", "nomic_bert"])
def test_formula_and_count_agree_within_one_per_cent(architecture):
    found = cost(settings(architecture), micro_batch=2)
    for head in ("head_masked", "head_all"):
        counted, formula = found[head]["flops_per_token"], found[head]["flops_per_token_by_formula"]
        for way, parts in counted.items():
            for part, value in parts.items():
                assert value == pytest.approx(formula[way][part], rel=0.01), (head, way, part)


def test_formula_and_count_agree_at_the_base_shape(base):
    counted, formula = base["head_all"]["flops_per_token"], base["head_all"]["flops_per_token_by_formula"]
    assert counted["joint"]["total"] == pytest.approx(formula["joint"]["total"], rel=0.01)


def test_a_pencil_gives_the_same_operations(base):
    """12 layers of 8 d² + 4 d f + 4 S d, a head of 2 d² + 2 d; three times as much with the backward pass."""
    d, f, length, vocabulary, masked = 768, 3072, 512, 30522, 77
    layer = 8 * d * d + 4 * d * f + 4 * length * d
    main = 3 * (12 * layer + 2 * d * d + 2 * d)
    auxiliary = 4 * layer + (2 * d * d + 2 * d * vocabulary) * masked / length
    found = base["head_masked"]["flops_per_token"]
    assert found["online"]["main"] == pytest.approx(main, rel=1e-6)
    assert found["online"]["auxiliary"] == pytest.approx(auxiliary, rel=1e-6)
    assert found["joint"]["auxiliary"] == pytest.approx(3 * auxiliary, rel=1e-6)


def test_the_base_shape_saves_18_per_cent_with_the_head_on_masked_positions_and_25_on_all(base):
    for key in ("flops_per_token", "flops_per_token_by_formula"):
        assert savings(base["head_masked"][key])["total"] == pytest.approx(0.18, abs=0.005)
        assert savings(base["head_all"][key])["total"] == pytest.approx(0.25, abs=0.005)
    for head in ("head_masked", "head_all"):
        assert base[head]["auxiliary_compute_saving"] == pytest.approx(2 / 3, abs=0.001)  # the paper: 67 %
        assert 0.94 < base[head]["auxiliary_memory_saving"] < 1.0  # the paper: 97 %
        assert base[head]["cached"]["auxiliary_compute_saving"] == 1.0
        assert base[head]["cached"]["auxiliary_memory_saving"] == 1.0


def test_the_auxiliarys_training_and_the_cache_have_columns_of_their_own(base):
    flops = base["head_masked"]["flops_per_token"]
    joint, online, cached = (flops[way] for way in ("joint", "online", "cached"))
    assert joint["total_with_preparation"] == joint["total"]
    assert online["auxiliary_training"] == joint["auxiliary"]  # equal tokens, forward and backward
    assert online["total_with_preparation"] == online["total"] + online["auxiliary_training"]
    assert cached["cache_building"] == online["auxiliary"]
    # 3 A once, 2 A saved a run; 4 A once, 3 A a run; A once, A a run: equal after the first.
    assert base["head_masked"]["pays_from_run"] == {"online": 2, "cached": 2, "cached_against_online": 2}
    assert base["auxiliary_training"]["basis"].startswith("equal tokens")


def test_the_auxiliarys_tokens_come_from_its_run(auxiliary, shards):
    config = tiny.settings(shards, "fast_electra", auxiliary)
    found = cost(config)
    tokens = json.loads((auxiliary / "run.json").read_text())["result"]["tokens"]
    planned = config.training.updates * config.training.batch_size * config.data.length
    assert found["auxiliary_training"]["tokens_per_token"] == tokens / planned
    assert str(auxiliary) in found["auxiliary_training"]["basis"]


def test_a_frozen_auxiliary_keeps_its_weights_alone_and_a_cache_nothing(base):
    rows = base["head_masked"]["memory_bytes"]
    assert rows["online"]["auxiliary_parts"] | {"weights": 0} == rows["cached"]["auxiliary_parts"]
    assert set(rows["cached"]["auxiliary_parts"].values()) == {0}
    assert rows["cached"]["transients"] == 0 < rows["online"]["transients"]
    # 4 layers of 768 with their table, in bfloat16
    assert rows["online"]["auxiliary"] == pytest.approx(2 * (4 * 7.09e6 + 30522 * 768 + 1.0e6), rel=0.02)
    assert len({row["main"] for row in rows.values()}) == 1


def test_the_auxiliary_of_the_paper_is_a_third_as_deep_and_six_layers_at_most():
    shapes = {name: auxiliary_shape(load_config(name)).layers for name in ("paper-base", "paper-large", "electra-2020")}
    assert shapes == {"paper-base": 4, "paper-large": 6, "electra-2020": 12}
    assert auxiliary_shape(load_config("paper-base"), layers=2).layers == 2


def test_what_has_no_costs_to_compare_is_refused():
    with pytest.raises(ConfigError, match=r"objective\.kind=mlm trains no main model"):
        cost(tiny.settings(None, "mlm"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"auxiliary\.kind=ngram"):
        cost(tiny.settings(None, "fast_electra", auxiliary__kind="ngram"))  # type: ignore[arg-type]


def test_kept_bytes_counts_every_storage_once_and_no_parameter():
    layer = nn.Linear(8, 4, device="meta")
    # Its input is kept for the weight's gradient, its output for the square's; the transposed weight is a parameter.
    x = torch.empty(16, 8, device="meta", requires_grad=True)
    assert kept_bytes(lambda: layer(x).square().sum(), layer.parameters()) == 4 * (16 * 8 + 16 * 4)


def test_matrix_products_are_those_of_forward_and_backward():
    layer = nn.Linear(8, 4)

    def step() -> None:
        layer(torch.ones(16, 8, requires_grad=True)).sum().backward()

    found = matrix_products(step)
    sizes = sorted((product.first[0], product.second[0]) for product in found.elements())
    assert sizes == [((4, 16), (16, 8)), ((16, 4), (4, 8)), ((16, 8), (8, 4))]
    assert count_flops(step) == 3 * 2 * 16 * 8 * 4
    first, second = next(iter(found)).operands(torch.device("cpu"))
    assert (first @ second).isfinite().all()


def test_the_command_prints_both_conventions(capsys):
    assert main(["cost", "paper-base", "main.layers=3", "--vocabulary", "1000", "--length", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shape"]["vocabulary"] == 1000
    assert found["shape"]["length"] == 64
    keys = {"total_compute_saving", "auxiliary_compute_saving", "auxiliary_memory_saving", "total_memory_saving"}
    assert keys <= found["head_masked"].keys() & found["head_all"].keys()
    assert main(["cost", "paper-base", "main.layers=3", "--head", "masked", "--length", "64"]) == 0
    shown = capsys.readouterr().out
    assert "only masked positions" in shown
    assert "all positions pass" not in shown
