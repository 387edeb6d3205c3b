import pytest
import torch
from transformers.models.modernbert import modeling_modernbert

from fast_electra.models import rotary
from fast_electra.models.build import build_model
from tests.models.test_models import config


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(3, 2, 7, 16, generator=draw).to(dtype)
    angles = torch.randn(1, 7, 16, generator=draw)
    return states, angles.cos().to(dtype), angles.sin().to(dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)]
)
def test_rotation_is_the_definition_in_plain_words(dtype, tolerance):
    states, cos, sin = inputs(dtype)
    half = states.shape[-1] // 2
    turned = torch.cat((-states[..., half:], states[..., :half]), -1)
    expected = states.double() * cos.double()[:, None] + turned.double() * sin.double()[:, None]
    torch.testing.assert_close(
        rotary.rotate(states, cos[:, None], sin[:, None]).double(), expected, rtol=tolerance, atol=tolerance
    )


def test_the_gradient_of_the_rotation_is_the_numerical_one():
    states, cos, sin = inputs(torch.float64)
    states.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotary.rotate(x, cos[:, None], sin[:, None]), states)


def test_modernbert_rotates_by_it():
    build_model(config("modernbert"), "mlm", seed=0)
    assert modeling_modernbert.apply_rotary_pos_emb is rotary._rotate_both
