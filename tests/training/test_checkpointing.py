"""Activation checkpointing: less is kept for the backward pass, and every gradient is the same."""

import pytest
import torch

from fast_electra.models.layers import layer_modules
from fast_electra.training.assembly import assemble
from fast_electra.training.flops import count_flops, kept_bytes
from fast_electra.training.outlook import clear_gradients, forward_and_backward
from fast_electra.training.precision import choose_execution
from tests import tiny

GENERATOR = {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 32}


def step_of(shards, checkpointing, **changes):
    config = tiny.settings(shards, main__layers=4, training__activation_checkpointing=checkpointing, **changes)
    execution = choose_execution(config.execution)
    parts = assemble(config, execution)
    return parts, forward_and_backward(parts, execution, 8)[0]


def gradients(parts, step):
    torch.manual_seed(1)
    step()
    found = {
        f"{name}.{key}": weight.grad
        for name, model in parts.objective.models().items()
        for key, weight in model.named_parameters()
        if weight.grad is not None
    }
    clear_gradients(parts)
    return found


@pytest.mark.parametrize("attention", ["packed", "document"])
@pytest.mark.parametrize("architecture", ["electra", "bert", "modernbert", "deberta-v2", "mpnet", "albert"])
def test_every_gradient_is_the_same_bit_for_bit(architecture, attention, shards):
    changes = {"main__architecture": architecture, "data__attention": attention, "main__dropout": 0.1}
    plain, checkpointed = (step_of(shards, chosen, **changes) for chosen in (False, True))
    expected, found = gradients(*plain), gradients(*checkpointed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    assert any(gradient.any() for gradient in expected.values())


def test_both_models_of_joint_electra_keep_less_and_compute_their_layers_twice(shards):
    kept, flops = [], []
    for chosen in (False, True):
        parts, step = step_of(shards, chosen, kind="electra", objective__generator=GENERATOR)
        models = parts.objective.models().values()
        calls = {id(layer): 0 for model in models for layer in layer_modules(model)}

        def count(layer, _arguments, calls=calls):
            calls[id(layer)] += 1

        for model in models:
            for layer in layer_modules(model):
                layer.register_forward_pre_hook(count)
        flops.append(count_flops(step))
        assert set(calls.values()) == {1}  # hooks are outside
        batch = parts.objective.prepare(parts.schedule.at(0), 0)
        weights = [weight for model in models for weight in model.parameters()]
        kept.append(kept_bytes(lambda parts=parts, batch=batch: parts.objective.terms(batch, 0.0, 0), weights))
    assert kept[1] < 0.6 * kept[0]  # embeddings and heads are not recomputed
    assert 1.1 < flops[1] / flops[0] < 4 / 3  # a third more in the layers, nothing in the heads
