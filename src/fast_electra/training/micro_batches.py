"""Chooses the micro-batch for `training.micro_batch_size=auto`: the largest that fits into the memory of the GPU.

Notable:
- it is tried, once, before the first update: forward and backward passes of the run's own step on its own rows, the
  largest number of rows first. Weights, optimizer and random state do not change. The run records the number, so it is
  the same when the run is resumed or repeated;
- the memory that the optimizer's state will take is held meanwhile, and a share for what a trial does not show;
- the processes try alone, since one whose memory runs out would leave the others waiting in an exchange. Then all take
  the number that fits everywhere. Under FSDP2 a trial holds whole weights, so the number is a careful one;
- only CUDA reports that memory ran out; on a CPU the system kills the process. There `auto` is the whole batch.
"""

import gc

import torch

from fast_electra import distributed
from fast_electra.config.tree import Config
from fast_electra.errors import ResourceError
from fast_electra.models.layers import weights_in
from fast_electra.training.assembled import Assembled
from fast_electra.training.outlook import clear_gradients, forward_and_backward
from fast_electra.training.precision import Execution

_SPARE = 0.05
"""share of the GPU's memory that a trial leaves free: fragments, libraries, validation"""


def largest_micro_batches(config: Config, parts: Assembled, execution: Execution) -> list[int]:
    """The rows of a micro-batch in each phase, with numbers in place of `auto`. All processes must call this.

    Args:
        config: the run's configuration.
        parts: its models are in float32 on the device, and not wrapped for several processes.
        execution: device and precision.

    Raises:
        ResourceError: not even one row fits.
    """
    return [
        _largest(phase, number, parts, execution)
        if phase.training.micro_batch_size == "auto" and can_be_tried(execution.device)
        else phase.training.rows_at_a_time
        for number, phase in enumerate(config.each_phase)
    ]


def can_be_tried(device: torch.device) -> bool:
    """Whether memory that runs out is an error there, and not the end of the process."""
    return device.type == "cuda"


def smaller(batch_size: int, rows: int) -> int:
    """The largest number of rows that divides a batch and is at most half of `rows`.

    Raises:
        ResourceError: `rows` is 1.
    """
    if rows == 1:
        raise nothing_fits()
    return next(size for size in _divisors(batch_size) if 2 * size <= rows)


def nothing_fits() -> ResourceError:
    """The error where one row is too much."""
    return ResourceError(
        "memory ran out with training.micro_batch_size=1, the least: set training.activation_checkpointing=true, "
        "lower data.length, or choose a smaller model or a device with more memory."
    )


def _largest(phase: Config, number: int, parts: Assembled, execution: Execution) -> int:
    """The largest number of rows that fits in a phase on every process."""
    batch_size = phase.training.batch_size
    share = -(-batch_size // distributed.size())
    # The least that lets a process's whole share through at a time, and all below.
    most = min(size for size in _divisors(batch_size) if size >= share)
    with weights_in(parts.objective.models().values(), execution.weights_dtype):
        for size in _divisors(batch_size):
            if size <= most and all(distributed.gather(_fits(size, size < share, number, parts, execution))):
                return size
    raise nothing_fits()


def _divisors(number: int) -> list[int]:
    """In descending order."""
    return [divisor for divisor in range(number, 0, -1) if number % divisor == 0]


def _fits(rows: int, is_first: bool, phase: int, parts: Assembled, execution: Execution) -> bool:
    """Whether a micro-batch fits into this process's memory; `is_first`: another one follows in the same update."""
    on_gpu = execution.device.type == "cuda"
    fits = True
    with torch.random.fork_rng([execution.device] if on_gpu else []):
        try:
            _try(rows, is_first, phase, parts, execution)
        except torch.OutOfMemoryError:
            fits = False
    clear_gradients(parts)
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return fits


def _try(rows: int, is_first: bool, phase: int, parts: Assembled, execution: Execution) -> None:
    held = torch.empty(_later_bytes(parts, execution), dtype=torch.uint8, device=execution.device)
    step, _ = forward_and_backward(parts, execution, rows, phase)
    step()
    if is_first:  # the next one needs as much, beside the gradients of this one
        step()
    del held


def _later_bytes(parts: Assembled, execution: Execution) -> int:
    """Bytes that the first update will take besides a trial's, at most: masters, AdamW's averages, and the spare."""
    trained = {id(p): p for model in parts.objective.models().values() for p in model.parameters() if p.requires_grad}
    each = 8 if execution.weights_dtype == torch.float32 else 12
    state = each * sum(parameter.numel() for parameter in trained.values())
    if execution.parallel == "fsdp":
        state //= distributed.size()
    if execution.device.type != "cuda":
        return state
    return state + int(_SPARE * torch.cuda.get_device_properties(execution.device).total_memory)
