"""Worker processes that end with their parent, however it ends.

Notable:
- a process that gets SIGKILL cannot tell its workers, so each worker watches two pipes that close with the parent:
  multiprocessing's own, and one that the parent closes to end the workers in the middle of their work;
- processes are spawned, not forked, since a fork would copy the locks of running threads of PyTorch and Tokenizers;
- signals that a terminal or a scheduler sends to all processes are the parent's to handle;
- a spawned process imports the script that started it. One that lacks `if __name__ == "__main__":` would start again
  there, and its parent would wait for it for ever. Our work is in modules, so workers do not import it.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any

from fast_electra.errors import ResourceError

SPAWN: SpawnContext = get_context("spawn")


class _Process(SpawnProcess):
    """A process that does not import the script of its parent."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _without_script():
            return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]


class _Context(SpawnContext):
    Process = _Process


@contextmanager
def _without_script() -> Iterator[None]:
    """Within the block, the main module is an empty one."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextmanager
def worker_pool(
    workers: int,
    does: str,
    remedy: str,
    start: Callable[..., object] | None = None,
    arguments: tuple[Any, ...] = (),
    imports_script: bool = False,
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that ends with the block: after an error at once, otherwise when its work is done.

    Args:
        workers: number of processes.
        does: what a process does, for the error's sentence: "tokenises".
        remedy: the end of that sentence.
        start: called in each process before its first work.
        arguments: of `start`.
        imports_script: the processes import the script that runs, because they need something that is defined there.

    Raises:
        ResourceError: a process ended unexpectedly.
    """
    held, lifeline = SPAWN.Pipe(duplex=False)
    context = SPAWN if imports_script else _Context()
    pool = ProcessPoolExecutor(workers, context, _begin, (held, start, arguments))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ResourceError(
            f"a process that {does} ended unexpectedly, perhaps for lack of memory: {remedy}."
        ) from error
    except BaseException:
        lifeline.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        lifeline.close()
        held.close()


def end_with_parent(held: Connection | None = None) -> None:
    """End this process when its parent ends or closes the other end of `held`; ignore signals to the whole group."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_watch, args=(held,), daemon=True).start()


def _begin(held: Connection, start: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    end_with_parent(held)
    if start is not None:
        start(*arguments)


def _watch(held: Connection | None) -> None:
    parent = parent_process()
    watched = [] if parent is None else [parent.sentinel]
    wait([*watched, held] if held is not None else watched)  # nothing is ever sent: it is the end of the pipe
    os._exit(1)
