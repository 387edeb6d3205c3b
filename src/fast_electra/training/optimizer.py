"""The optimizer of one parameter group: AdamW or the settings' own rule, float32 masters, clipping, learning rate.

Notable:
- the optimizer changes float32 masters and copies them to the model, because a bfloat16 weight would lose every update
  that is smaller than 1/256 of its value;
- weight decay applies to linear maps, not to tables, norms and biases (models/linear_maps.py defines linear maps);
- masters share the memory of weights that are float32 themselves;
- an update whose gradient is not finite changes nothing. The device decides that, so no update waits for the host;
- under FSDP2 a process holds a share of each master, and of the optimizer's state for it.
"""

from collections.abc import Sequence
from math import cos, pi

import torch
from torch import Tensor

from fast_electra.config.phases import OwnRate
from fast_electra.models.optimizers import Optimizer
from fast_electra.models.shares import as_shares_of, norm_of, own_share
from fast_electra.objectives.base import ParameterGroup


def learning_rate(settings: Optimizer, update: int, updates: int, own: Sequence[OwnRate] = ()) -> float:
    """Learning rate of update `update` (0-based) of `updates`: a linear warm-up, then the schedule's decay.

    In a stretch of `own` it follows the settings of this stretch, over the stretch alone.

    The warm-up's factor is (update + 1) / (number of warm-up updates), so the first update already changes the
    weights. With `warmup_multiplies` the decay begins at the first update, and the warm-up multiplies it, as in
    ELECTRA's own code.
    """
    for stretch in own:
        if stretch.start <= update < stretch.stop:
            changed = settings.model_copy(update=dict(stretch.changes))
            return learning_rate(changed, update - stretch.start, stretch.stop - stretch.start)
    warmup = round(settings.warmup * updates)
    rising = (update + 1) / warmup if update < warmup else 1.0
    if update < warmup and not settings.warmup_multiplies:
        return settings.learning_rate * rising
    start = 0 if settings.warmup_multiplies else warmup
    rest = (update - start) / max(1, updates - start)
    match settings.schedule:
        case "linear":
            factor = 1.0 - rest
        case "cosine":
            factor = 0.5 * (1.0 + cos(pi * rest))
        case "constant":
            factor = 1.0
        case "warmup_stable_decay":
            factor = min(1.0, (updates - update) / max(1, round(settings.decay * updates)))
    return settings.learning_rate * rising * factor


class GroupOptimizer:
    """Updates one parameter group: takes gradients, clips them, steps the masters, copies them to the parameters."""

    def __init__(self, group: ParameterGroup, dtype: torch.dtype = torch.float32):
        """Take float32 masters from the parameters. Create it before the model is cast.

        Args:
            group: the parameters and their settings.
            dtype: type of the matrix products inside the optimizer's rule (Muon's).
        """
        self.name = group.name
        self.settings = group.settings
        self._loss_weight = group.loss_weight
        self._divisor: float | Tensor = group.loss_weight
        self._parameters = {name: p for name, p in group.parameters.items() if p.requires_grad}
        self._gradients: list[Tensor] = []
        self.masters = {name: p.detach().float() for name, p in self._parameters.items()}
        self._shares = {name: own_share(master) for name, master in self.masters.items()}
        self._are_cut = any(self._shares[name] is not master for name, master in self.masters.items())
        owned = group.settings.owned(group.parameters, group.linear_maps)
        rest = [name for name in self._parameters if name not in owned]
        buckets: dict[tuple[float, bool], list[Tensor]] = {}
        for factor in sorted({1.0, *group.rate_factors.values()}, reverse=True):
            buckets |= {(factor, True): [], (factor, False): []}
        for name in rest:
            buckets[group.rate_factors.get(name, 1.0), name in group.linear_maps].append(self._shares[name])
        self._buckets = list(buckets)
        self._owned = sorted(owned)
        self._stepper = (
            group.settings.stepper(
                [self.masters[name] for name in self._owned], [owned[name] for name in self._owned], dtype
            )
            if owned
            else None
        )
        self.adamw = torch.optim.AdamW(
            [{"params": masters} for masters in buckets.values()],
            lr=group.settings.learning_rate,
            betas=(group.settings.beta1, group.settings.beta2),
            eps=group.settings.epsilon,
            fused=True,
        )

    @torch.no_grad()
    def take_gradients(self, scale: Tensor | None = None) -> Tensor:
        """Move the parameters' gradients to the masters; `step` divides them by the loss weight and the scale.

        Args:
            scale: scalar that the loss was multiplied by; None: 1.

        Returns:
            the norm of the divided gradients, a scalar, the same on every process.
        """
        self._divisor = self._loss_weight if scale is None else self._loss_weight * scale
        gradients, low, casts = [], [], []
        for name, parameter in self._parameters.items():
            share = self._shares[name]
            gradient = None if parameter.grad is None else own_share(parameter.grad)
            if gradient is None:
                gradients.append(torch.zeros_like(share))
            elif gradient.dtype == share.dtype:
                gradients.append(gradient)
            else:
                gradients.append(torch.empty_like(share))
                low.append(gradient)
                casts.append(gradients[-1])
            parameter.grad = None
            if name in self._owned:
                self.masters[name].grad = as_shares_of(self.masters[name], gradients[-1])
            else:
                share.grad = gradients[-1]
        _copy(casts, low)
        self._gradients = gradients
        return norm_of(gradients, self._are_cut) / self._divisor

    @torch.no_grad()
    def step(self, rate: float | Tensor, update: int, norm: Tensor, skipped: Tensor) -> Tensor:
        """Change the weights by the gradients of `take_gradients`, and clear these.

        Args:
            rate: the learning rate; a float32 scalar on the device if the step is recorded as a CUDA graph.
            update: number of updates done before, for the missing bias correction.
            norm: of the gradients.
            skipped: scalar: 1.0 if nothing may change, because a gradient is not finite, else 0.0.

        Returns:
            scalar: 1.0 if the gradients were clipped, else 0.0.
        """
        clipped = torch.zeros((), device=norm.device)
        if self.settings.clip is not None:
            clipped = (norm > self.settings.clip).float()
            factor = (self.settings.clip / (norm + 1e-6)).clamp(max=1.0) / self._divisor
            torch._foreach_mul_(self._gradients, factor)  # type: ignore[attr-defined]
        elif isinstance(self._divisor, Tensor) or self._divisor != 1.0:
            torch._foreach_mul_(self._gradients, 1.0 / self._divisor)  # type: ignore[attr-defined]
        self._set_rates(rate, update)
        self.adamw.found_inf = skipped  # type: ignore[attr-defined]  # how GradScaler skips a step on the device
        self.adamw.step()
        if self._stepper is not None:
            self._stepper.step(rate, skipped)
        self.adamw.zero_grad()
        self._gradients = []
        self.write_back()
        return clipped

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the masters into the parameters, rounded to the parameters' type."""
        low = [name for name, parameter in self._parameters.items() if parameter.dtype != torch.float32]
        _copy([own_share(self._parameters[name]) for name in low], [self._shares[name] for name in low])

    def weights_norm(self) -> Tensor:
        """The norm of the masters, a scalar, the same on every process."""
        return norm_of(list(self._shares.values()), self._are_cut)

    def master_names(self) -> dict[int, str]:
        """The name in `tensors` of each trained parameter's master, by the parameter's `id`."""
        return {id(parameter): f"{self.name}.master.{name}" for name, parameter in self._parameters.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The masters and the optimizer's state by name, not copied: for saving, and for loading in place."""
        found = {f"{self.name}.master.{name}": master for name, master in self.masters.items()}
        for key, tensors in self._stepper.state.items() if self._stepper is not None else ():
            found |= {f"{self.name}.{key}.{name}": tensor for name, tensor in zip(self._owned, tensors, strict=True)}
        for name, master in self.masters.items():
            if name in self._owned:
                continue
            share = self._shares[name]
            state = self.adamw.state[share]
            if not state:  # before the first step: AdamW's initial state
                state["step"] = torch.zeros((), dtype=torch.float32, device=share.device)
                state["exp_avg"] = torch.zeros_like(share)
                state["exp_avg_sq"] = torch.zeros_like(share)
            found[f"{self.name}.step.{name}"] = state["step"]
            for key in ("exp_avg", "exp_avg_sq"):
                found[f"{self.name}.{key}.{name}"] = as_shares_of(master, state[key])
        return found

    def _set_rates(self, rate: float | Tensor, update: int) -> None:
        """Set AdamW's learning rate, epsilon and weight decay for one step.

        Adam without bias correction equals Adam with it at rate · factor and epsilon / sqrt(1 - b2^t), where
        factor = (1 - b1^t) / sqrt(1 - b2^t). AdamW multiplies the decay by its rate, so the decay is divided by factor.
        """
        settings = self.settings
        first, second = 1.0 - settings.beta1 ** (update + 1), (1.0 - settings.beta2 ** (update + 1)) ** 0.5
        factor, epsilon = (1.0, 1.0) if settings.bias_correction else (first / second, 1.0 / second)
        for group, (rate_factor, is_decayed) in zip(self.adamw.param_groups, self._buckets, strict=True):
            group["lr"] = rate * rate_factor * factor
            group["capturable"] = isinstance(rate, Tensor)
            group["eps"] = settings.epsilon * epsilon
            group["weight_decay"] = settings.weight_decay / factor if is_decayed else 0.0


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy tensors into others of other types: on a GPU, with a few kernels for all of them together."""
    if targets:
        torch._foreach_copy_(targets, sources)  # type: ignore[attr-defined]


def optimizer_flops(group: ParameterGroup) -> int:
    """FLOPs of the matrix products in one optimizer step of a group. Muon has some, AdamW none."""
    owned = group.settings.owned(group.parameters, group.linear_maps)
    return sum(group.settings.step_flops(group.parameters[name].shape, maps) for name, maps in owned.items())
