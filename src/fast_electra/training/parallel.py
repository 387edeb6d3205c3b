"""How the processes of a run share the work of an update: one process alone, DDP, or FSDP2.

Notable:
- the rows of a batch are divided among the processes; losses are divided by the counts of the whole batch, and
  gradients are added, so the result is that of one process but for rounding;
- the whole forward pass is one module, `_Forward`. So DDP and FSDP2 see every model of an objective, shared parameters
  once, and models keep their methods;
- gradients are exchanged once per update, with its last micro-batch.

DDP: Li et al., 2020 (arXiv 2006.15704). FSDP2: Zhao et al., 2023 (arXiv 2304.11277), `torch.distributed.fsdp`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from fast_electra import distributed
from fast_electra.models.layers import layer_stacks
from fast_electra.objectives.base import Examples, Objective, Terms, Trainable
from fast_electra.training.precision import Execution

_Pairs = dict[str, tuple[Tensor, Tensor]]
_AGREE_EVERY = 4
"""number of updates between two agreements on a GPU"""


class Alone:
    """One process without others. `Replicated` and `Sharded` have the same methods."""

    def __init__(self, objective: Trainable[Any]) -> None:
        self._objective = objective

    def terms(self, micro: Examples, progress: float, seed: int, last: bool) -> Terms:
        """The objective's terms on a micro-batch of this process.

        Args:
            micro: on the device.
            progress: in [0, 1].
            seed: of masks and noise.
            last: whether it is the update's last micro-batch, whose backward pass exchanges the gradients.
        """
        return self._objective.terms(micro, progress, seed)

    def add(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes, in place."""
        return tensor

    def agrees(self, flag: bool, update: int) -> bool:
        """Whether `flag` is set on any process after this update. All processes have one answer."""
        return flag

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        return 0

    @property
    def counts_once(self) -> float:
        """1.0 on one process and 0.0 on the others, for what all of them have."""
        return float(self.rank == 0)

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Within the block, every process has the models' whole weights, as plain tensors."""
        yield


class _Forward(nn.Module):
    """The forward pass of an objective as one module, with all its models inside."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self._objective = objective
        self.models = nn.ModuleDict(objective.models())

    def forward(self, micro: Examples, progress: float, seed: int) -> tuple[_Pairs, _Pairs]:
        """The losses and metrics of the objective's terms. FSDP2 finds tensors in dicts and tuples, not in `Terms`."""
        terms = self._objective.terms(micro, progress, seed)  # type: ignore[arg-type]
        return terms.losses, terms.metrics


class _Several(Alone):
    """What DDP and FSDP2 have in common."""

    _step: nn.Module

    def __init__(self, objective: Objective, execution: Execution) -> None:
        super().__init__(objective)
        self._device = execution.device

    def terms(self, micro: Examples, progress: float, seed: int, last: bool) -> Terms:
        self._exchange_gradients(last)
        return Terms(*self._step(micro, progress, seed))

    def _exchange_gradients(self, now: bool) -> None:
        raise NotImplementedError

    def add(self, tensor: Tensor) -> Tensor:
        return distributed.add(tensor)

    def agrees(self, flag: bool, update: int) -> bool:
        # The answer waits for the device, so a GPU is not asked after every update.
        if self._device.type != "cpu" and update % _AGREE_EVERY:
            return False
        return bool(self.add(torch.tensor(float(flag), device=self._device)))

    @property
    def rank(self) -> int:
        return distributed.rank()


class Replicated(_Several):
    """DDP: every process has the whole models; gradients are added in float32, or in the weights' type if asked."""

    def __init__(self, objective: Objective, execution: Execution, unused: bool, exact: bool = True) -> None:
        """Wrap the objective's models, whose weights become those of rank 0.

        Args:
            objective: its models are on the device, in the type that they are trained in.
            execution: device and precision.
            unused: whether some trained parameters get no gradient.
            exact: add the gradients in float32, whatever their type.
        """
        super().__init__(objective, execution)
        index = [execution.device.index] if execution.device.type == "cuda" else None
        self._step = DistributedDataParallel(
            _Forward(objective), device_ids=index, find_unused_parameters=unused, gradient_as_bucket_view=True
        )
        self._step.register_comm_hook(exact, _add_gradients)

    def _exchange_gradients(self, now: bool) -> None:
        cast(DistributedDataParallel, self._step).require_backward_grad_sync = now


def _add_gradients(
    exact: bool,
    bucket: dist.GradBucket,  # type: ignore[attr-defined]  # DDP checks this annotation
) -> torch.futures.Future[Tensor]:
    """The sum of a bucket of DDP's gradients, and not the mean, since losses are divided by the whole counts."""
    gradients = bucket.buffer()
    summed = gradients.float() if exact else gradients
    work = dist.all_reduce(summed, async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: gradients.copy_(done.value()[0]))


class Sharded(_Several):
    """FSDP2: every process holds a share of each weight, gradient and optimizer state."""

    def __init__(self, objective: Objective, execution: Execution, exact: bool = True) -> None:
        """Shard the objective's models in place: each layer is gathered when it computes, the rest for the update.

        Args:
            objective: its models are in float32 on the device.
            execution: device and precision; `bfloat16` gathers the weights in that type.
            exact: add the gradients in float32, whatever their type.
        """
        super().__init__(objective, execution)
        self._step = _Forward(objective)
        low = execution.weights_dtype if execution.weights_dtype != torch.float32 else None
        precision = MixedPrecisionPolicy(low, torch.float32 if exact else low, cast_forward_inputs=False)
        mesh = init_device_mesh(execution.device.type, (distributed.size(),))
        layers = {
            id(layer): layer
            for model in objective.models().values()
            for stack in layer_stacks(cast(PreTrainedModel, model))
            for layer in stack
        }
        for module in (*layers.values(), self._step):
            fully_shard(module, mesh=mesh, mp_policy=precision)
        for module in self._sharded():
            # Gloo has no scaled sum, and no mean.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)

    def _exchange_gradients(self, now: bool) -> None:
        cast(FSDPModule, self._step).set_requires_gradient_sync(now)

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Gather every weight, and keep it until the end of the block."""
        for module in self._sharded():
            module.unshard()
            module.set_reshard_after_forward(False, recurse=False)
        try:
            yield
        finally:
            for module in self._sharded():
                module.set_reshard_after_forward(module is not self._step, recurse=False)
                module.reshard()

    def _sharded(self) -> list[FSDPModule]:
        return [module for module in self._step.modules() if isinstance(module, FSDPModule)]
