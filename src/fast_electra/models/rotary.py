"""Rotary position embedding with half the memory traffic of Transformers' function, and the same values.

Notable:
- Transformers casts to float32, negates and concatenates halves, multiplies and casts back, which takes a quarter of a
  training step of a small ModernBERT on a CPU. Here both halves are written directly, in the tensors' type, and the
  backward pass is explicit;
- a phase of a run may change the base of the positions, for longer rows;
- the function is replaced in the Transformers module that defines the model's class, where the class looks it up.

Shapes: B sequences, H heads, S positions, D width of a head.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fast_electra.errors import ConfigError

_FUNCTION = "apply_rotary_pos_emb"
# Modules whose function is `x · cos + rotate_half(x) · sin` for queries and keys, and nothing else.
_KNOWN = ("modernbert", "eurobert", "nomic_bert")


def use_fast_rotary(model: PreTrainedModel) -> None:
    """Let the Transformers module of a model's class use `rotate`, if it is one of the known modules."""
    module = sys.modules[type(model.base_model).__module__]
    if module.__name__.split(".")[-2] in _KNOWN and hasattr(module, _FUNCTION):
        setattr(module, _FUNCTION, _rotate_both)


class PhasedRotary:
    """The base of models' rotary positions in each phase of a run, in layers that see the whole row."""

    def __init__(self, models: Mapping[str, nn.Module], thetas: Sequence[float | None]) -> None:
        """Remember the models' own bases.

        Args:
            models: by name; `main` is the main model.
            thetas: the base in each phase after the first; None: the model's own.

        Raises:
            ConfigError: a base is given, and the main model has no rotary positions.
        """
        self._thetas = [None, *thetas] if any(thetas) else []
        named = {name: cast(PreTrainedModel, model) for name, model in models.items()}
        self._own = [(model, found["rope_theta"]) for model in named.values() if (found := _whole_row(model))]
        if self._thetas and not _whole_row(named["main"]):
            raise ConfigError(
                f"rope_theta of a phase changes nothing in this {named['main'].config.model_type}, which has no "
                "rotary positions: leave it out."
            )

    def enter(self, phase: int) -> None:
        """Give the models the base of a phase, by its number from 0; their configurations have it, too."""
        for model, own in self._own if self._thetas else ():
            _set_theta(model, self._thetas[phase] or own)


@torch.no_grad()
def _set_theta(model: PreTrainedModel, theta: float) -> None:
    settings = _whole_row(model)
    if settings and settings["rope_theta"] != theta:
        settings["rope_theta"] = theta
        rotary = _rotary(model)
        made = type(rotary)(model.config)
        for name, buffer in rotary.named_buffers():
            buffer.copy_(made.get_buffer(name))


def _whole_row(model: PreTrainedModel) -> dict[str, Any] | None:
    """The settings of the rotary positions in layers that see the whole row."""
    found = getattr(model.config, "rope_parameters", None) or {}
    found = found.get("full_attention", found)
    return found if "rope_theta" in found and _rotary(model) is not None else None


def _rotary(model: PreTrainedModel) -> Any:
    """The module that makes the rotary positions from the configuration."""
    return next((module for module in model.modules() if type(module).__name__.endswith("RotaryEmbedding")), None)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`states · cos + rotate_half(states) · sin` (Su et al., 2021, equation 34); (B, H, S, D), contiguous.

    Args:
        states: queries or keys (B, H, S, D).
        cos: broadcasts to `states`; it gets no gradient.
        sin: as `cos`.

    Returns:
        (B, H, S, D), in the type of `states`.
    """
    cos, sin = cos.to(states.dtype), sin.to(states.dtype)
    if torch.compiler.is_compiling():
        # A compiler makes one kernel of this, and cannot compile results that are written to a view.
        first, second = states.chunk(2, -1)
        cos_1, cos_2 = cos.chunk(2, -1)
        sin_1, sin_2 = sin.chunk(2, -1)
        return torch.cat((first * cos_1 - second * sin_1, second * cos_2 + first * sin_2), -1)
    return _Rotation.apply(states, cos, sin)


def _rotate_both(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return rotate(q, cos, sin), rotate(k, cos, sin)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        first, second = states.chunk(2, -1)
        cos_1, cos_2 = cos.chunk(2, -1)
        sin_1, sin_2 = sin.chunk(2, -1)
        rotated = torch.empty(states.shape, dtype=states.dtype, device=states.device)
        rotated_1, rotated_2 = rotated.chunk(2, -1)
        torch.mul(first, cos_1, out=rotated_1).addcmul_(second, sin_1, value=-1)
        torch.mul(second, cos_2, out=rotated_2).addcmul_(first, sin_2)
        return rotated

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        cos, sin = ctx.saved_tensors
        rotated_1, rotated_2 = gradient.chunk(2, -1)
        cos_1, cos_2 = cos.chunk(2, -1)
        sin_1, sin_2 = sin.chunk(2, -1)
        result = torch.empty_like(gradient)
        first, second = result.chunk(2, -1)
        torch.mul(rotated_1, cos_1, out=first).addcmul_(rotated_2, sin_2)
        torch.mul(rotated_2, cos_2, out=second).addcmul_(rotated_1, sin_1, value=-1)
        return result, None, None
