"""The optimizer of one parameter group: AdamW or the settings' own rule, float32 masters, clipping, learning rate.

Notable:
- the optimizer changes float32 masters and copies them to the model, because a bfloat16 weight would lose every update
  that is smaller than 1/256 of its value;
- weight decay applies to linear maps, not to tables, norms and biases (models/linear_maps.py defines linear maps);
- a gradient that is not finite stops the run before any weight changes.
"""

from math import cos, pi

import torch
from torch import Tensor, nn

from fast_electra.errors import TrainingError
from fast_electra.models.optimizers import Optimizer
from fast_electra.objectives.base import ParameterGroup


def learning_rate(settings: Optimizer, update: int, updates: int) -> float:
    """Learning rate of update `update` (0-based) of `updates`: a linear warm-up, then the schedule's decay.

    The warm-up's factor is (update + 1) / (number of warm-up updates), so the first update already changes the
    weights. With `warmup_multiplies` the decay begins at the first update, and the warm-up multiplies it, as in
    ELECTRA's own code.
    """
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
    """Updates one parameter group: clips gradients, steps the masters, copies them to the parameters."""

    def __init__(self, group: ParameterGroup, dtype: torch.dtype = torch.float32):
        """Copy float32 masters from the parameters. Create it before the model is cast.

        Args:
            group: the parameters and their settings.
            dtype: type of the matrix products inside the optimizer's rule (Muon's).
        """
        self.name = group.name
        self.settings = group.settings
        self._loss_weight = group.loss_weight
        self._parameters = {name: p for name, p in group.parameters.items() if p.requires_grad}
        self.masters = {name: p.detach().float().clone() for name, p in self._parameters.items()}
        self._masters = list(self.masters.values())
        owned = group.settings.owned(group.parameters, group.linear_maps)
        rest = [name for name in self._parameters if name not in owned]
        buckets: dict[tuple[float, bool], list[Tensor]] = {}
        for factor in sorted({1.0, *group.rate_factors.values()}, reverse=True):
            buckets |= {(factor, True): [], (factor, False): []}
        for name in rest:
            buckets[group.rate_factors.get(name, 1.0), name in group.linear_maps].append(self.masters[name])
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
            fused=self._masters[0].device.type in ("cpu", "cuda"),
        )

    @torch.no_grad()
    def step(self, rate: float, update: int) -> tuple[Tensor, Tensor]:
        """Make one update from the parameters' gradients, and clear them.

        Args:
            rate: the learning rate.
            update: number of updates done before, for the bias correction.

        Returns:
            two scalars: the gradient's norm before clipping, and 1.0 if it was clipped, else 0.0.

        Raises:
            TrainingError: a gradient is NaN or infinite; no weight has changed.
        """
        for parameter, master in zip(self._parameters.values(), self._masters, strict=True):
            gradient = parameter.grad
            master.grad = torch.zeros_like(master) if gradient is None else gradient.float()
            if self._loss_weight != 1.0:
                master.grad.div_(self._loss_weight)
            parameter.grad = None
        norm = nn.utils.get_total_norm([master.grad for master in self._masters if master.grad is not None])
        if not norm.isfinite():
            raise TrainingError(
                f"the gradient of {self.name} is not finite: lower optimizer.learning_rate "
                f"({self.settings.learning_rate:g}) or raise optimizer.warmup, and start in a new folder."
            )
        clipped = torch.zeros(())
        if self.settings.clip is not None:
            clipped = (norm > self.settings.clip).float()
            nn.utils.clip_grads_with_norm_(self._masters, self.settings.clip, norm)
        self._set_rates(rate, update)
        self.adamw.step()
        if self._stepper is not None:
            self._stepper.step(rate)
        self.adamw.zero_grad()
        self.write_back()
        return norm, clipped

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the masters into the parameters, rounded to the parameters' type."""
        for parameter, master in zip(self._parameters.values(), self._masters, strict=True):
            parameter.copy_(master)

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
            state = self.adamw.state[master]
            if not state:  # before the first step: AdamW's initial state
                state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
                state["exp_avg"] = torch.zeros_like(master)
                state["exp_avg_sq"] = torch.zeros_like(master)
            for key in ("step", "exp_avg", "exp_avg_sq"):
                found[f"{self.name}.{key}.{name}"] = state[key]
        return found

    def _set_rates(self, rate: float, update: int) -> None:
        """Set AdamW's learning rate, epsilon and weight decay for one step.

        Adam without bias correction equals Adam with it at rate · factor and epsilon / sqrt(1 - b2^t), where
        factor = (1 - b1^t) / sqrt(1 - b2^t). AdamW multiplies the decay by its rate, so the decay is divided by factor.
        """
        settings = self.settings
        first, second = 1.0 - settings.beta1 ** (update + 1), (1.0 - settings.beta2 ** (update + 1)) ** 0.5
        factor, epsilon = (1.0, 1.0) if settings.bias_correction else (first / second, 1.0 / second)
        for group, (rate_factor, is_decayed) in zip(self.adamw.param_groups, self._buckets, strict=True):
            group["lr"] = rate * rate_factor * factor
            group["eps"] = settings.epsilon * epsilon
            group["weight_decay"] = settings.weight_decay / factor if is_decayed else 0.0


def optimizer_flops(group: ParameterGroup) -> int:
    """FLOPs of the matrix products in one optimizer step of a group. Muon has some, AdamW none."""
    owned = group.settings.owned(group.parameters, group.linear_maps)
    return sum(group.settings.step_flops(group.parameters[name].shape, maps) for name, maps in owned.items())
