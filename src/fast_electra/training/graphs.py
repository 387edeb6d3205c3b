"""Whole updates as CUDA graphs (`training.compile=graphs`): one launch for corruption, losses, gradients and optimizer.

A small model's update is many hundred short kernels, and launching them can take the host longer than the GPU needs to
compute them (benchmarks/README.md, "One H100"). A CUDA graph is recorded once and replayed with one launch.

Notable:
- a graph always reads and writes the same memory. So rows, counts, temperature and learning rates are copied to tensors
  that live as long as the graph, and what it returns is copied;
- one graph for each shape of batch: with and without padding, and for each bound of the number of documents. The first
  updates of a shape are computed as without graphs, since compilation and the choice of kernels cannot be recorded;
- graphs share their memory, because each has finished when the next one starts;
- seeds need nothing: PyTorch gives the seed of each update to the kernels of a graph.

PyTorch's documentation, "CUDA semantics", describes what can be recorded; `compilation.py` says what is not.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from fast_electra.errors import first_line
from fast_electra.objectives.base import Prepared
from fast_electra.training.compilation import CompilationFailed
from fast_electra.training.precision import Execution
from fast_electra.training.state import State
from fast_electra.training.update import Given, Made, update_weights

_WARM_UP = 2
"""number of updates of each shape before one is recorded"""


class UpdateGraphs:
    """Makes updates as `update_weights` does, and replays those whose shape has been recorded."""

    def __init__(self) -> None:
        self._seen = Counter[Any]()
        self._recorded: dict[Any, _Recorded] = {}
        self._phase = 0

    def forget(self) -> None:
        """Forget every graph, since tensors that they use were replaced."""
        self._seen.clear()
        self._recorded.clear()

    def __call__(self, state: State, micros: Sequence[Any], given: Given, execution: Execution) -> Made:
        """Change the weights by one batch; see `update_weights`."""
        phase, shapes = micros[0].batch.phase, tuple(map(_shape, micros))
        if phase != self._phase:  # its rotary positions and rows are others
            self._phase = phase
            self.forget()
        if shapes not in self._recorded:
            self._seen[shapes] += 1
            if self._seen[shapes] <= _WARM_UP:
                return update_weights(state, micros, given, execution)
            pool = next((one.pool for one in self._recorded.values()), None)
            self._recorded[shapes] = _Recorded(state, micros, given, execution, pool)
        return self._recorded[shapes](state, micros, given)


class _Recorded:
    """An update of one shape, with the tensors that it reads.

    Raises:
        CompilationFailed: something in it cannot be recorded.
    """

    def __init__(self, state: State, micros: Sequence[Prepared], given: Given, execution: Execution, pool: Any) -> None:
        device = execution.device
        self._micros = [micro.to(device) for micro in micros]
        self._counts = given.counts.to(device)
        # AdamW's kernel reads a float32 learning rate.
        self._rates = [torch.zeros((), device=device) for _ in given.rates]
        self._temperature = torch.zeros((), device=device)
        self.pool: Any = torch.cuda.graph_pool_handle() if pool is None and device.type == "cuda" else pool
        fixed = replace(given, counts=self._counts, rates=self._rates)

        def work() -> Made:
            state.objective.read_temperature(self._temperature)
            try:
                return update_weights(state, self._micros, fixed, execution)
            finally:
                state.objective.read_temperature(None)

        try:
            self._replay = record(work, self.pool)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CompilationFailed(f"an update cannot be recorded as a CUDA graph ({first_line(error)})") from error

    def __call__(self, state: State, micros: Sequence[Prepared], given: Given) -> Made:
        for fixed, micro in zip(self._micros, micros, strict=True):
            for target, source in zip(fixed.tensors(), micro.tensors(), strict=True):
                target.copy_(source, non_blocking=True)
        self._counts.copy_(given.counts, non_blocking=True)
        for fixed, rate in zip(self._rates, given.rates, strict=True):
            fixed.fill_(cast(float, rate))
        self._temperature.fill_(state.settings.get("temperature", 1.0))
        made = self._replay()
        return replace(made, pairs_K2=made.pairs_K2.clone(), unread=made.unread.clone())


def record(work: Callable[[], Made], pool: Any) -> Callable[[], Made]:
    """Record work as a CUDA graph without doing it.

    Args:
        work: launches kernels, always the same on the same memory.
        pool: memory that is shared with other graphs.

    Returns:
        what does the work; the tensors that it returns are those of the graph.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate memory meanwhile: the loader pins the next batch.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        made = work()

    def replay() -> Made:
        graph.replay()
        return made

    return replay


def _shape(micro: Prepared) -> Any:
    """What must be equal for a micro-batch to be the same work."""
    batch = micro.batch
    return tuple(tensor.shape for tensor in micro.tensors()), batch.padded, batch.most_documents
