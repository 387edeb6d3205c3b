"""LayerNorm's gradients in bfloat16 on a CPU agree with float32."""

import pytest
import torch
from torch import nn

from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.norms import layer_norm, use_exact_norms
from fast_electra.models.shapes import ShapeConfig


def gradients(function, states, weight, bias, gradient):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (states, weight, bias)]
    normal = function(*leaves)
    normal.backward(gradient.to(normal.dtype))
    return [normal.detach().float(), *(leaf.grad.float() for leaf in leaves)]


@pytest.mark.parametrize(("tokens", "mean"), [(64, 0.0), (2048, 0.0), (16384, 0.0), (2048, 30.0)])
def test_gradients_of_the_weights_agree_with_float32_however_many_tokens(tokens, mean):
    generator = torch.Generator().manual_seed(0)
    states = (torch.randn(tokens // 32, 32, 48, generator=generator) + mean).bfloat16()
    weight, bias = (torch.rand(48, generator=generator).bfloat16() for _ in range(2))
    # Of one sign, once it is multiplied by the normalised states
    gradient = (states - mean).sign() * torch.rand(states.shape, generator=generator).bfloat16()

    def plain(states, weight, bias):
        return nn.functional.layer_norm(states, (48,), weight, bias, 1e-5)

    exact = gradients(plain, states.float(), weight.float(), bias.float(), gradient.float())
    found = gradients(lambda *leaves: layer_norm(*leaves, 1e-5), states, weight, bias, gradient)
    for name, value, expected in zip(("output", "states", "weight", "bias"), found, exact, strict=True):
        # A bfloat16 result is within 2^-9 of what it rounds; each is rounded once or twice.
        assert (value - expected).norm() < 0.008 * expected.norm(), name
    if tokens > 64:  # PyTorch's own: were it right, this module would have no use
        assert (gradients(plain, states, weight, bias, gradient)[2] - exact[2]).norm() > 0.05 * exact[2].norm()


@pytest.mark.parametrize("architecture", ["modernbert", "electra", "eurobert"])
def test_every_gradient_of_a_model_in_bfloat16_is_near_float32s(architecture):
    shape = ShapeConfig(architecture=architecture, layers=1, hidden_size=64, heads=2, intermediate_size=128)
    special = {"pad": 0, "cls": 2, "sep": 3, "mask": 4}
    exact, found = (build_model(transformers_config(shape, 200, special, 128), "mlm", seed=0) for _ in range(2))
    with torch.no_grad():  # both from weights that bfloat16 holds
        for parameter in exact.parameters():
            parameter.copy_(parameter.bfloat16())
    found.load_state_dict(exact.state_dict())
    for parameter in found.parameters():
        parameter.data = parameter.data.bfloat16()
    ids = torch.randint(5, 200, (32, 128), generator=torch.Generator().manual_seed(0))
    for model in (exact, found):
        logits = model(input_ids=ids).logits.float()
        nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    norms = [name for name, module in exact.named_modules() if "norm" in type(module).__name__.lower()]
    assert norms
    for name, parameter in exact.named_parameters():
        if name.rpartition(".")[0] in norms:
            expected, gradient = parameter.grad, found.get_parameter(name).grad.float()
            # The sizes agree; directions differ by the rounding of what flows into them.
            assert float(gradient.norm() / expected.norm()) == pytest.approx(1.0, abs=0.01), name


def test_norms_without_weights_stay_as_they_are():
    model = nn.Sequential(nn.LayerNorm(4, elementwise_affine=False), nn.LayerNorm(4))
    states = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected = model(states)
    use_exact_norms(model)
    assert torch.equal(model(states), expected)
