"""Worker processes that end with their parent, however it ends.

Notable:
- a process that gets SIGKILL cannot tell its workers, so each worker watches two pipes that close with the parent:
  multiprocessing's own, and one that the parent closes to end the workers in the middle of their work;
- processes are spawned, not forked, since a fork would copy the locks of running threads of PyTorch and Tokenizers;
- signals that a terminal or a scheduler sends to all processes are the parent's to handle.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from typing import Any

from fast_electra.errors import ResourceError

SPAWN: SpawnContext = get_context("spawn")


@contextmanager
def worker_pool(
    workers: int, does: str, remedy: str, start: Callable[..., object] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that ends with the block: after an error at once, otherwise when its work is done.

    Args:
        workers: number of processes.
        does: what a process does, for the error's sentence: "tokenises".
        remedy: the end of that sentence.
        start: called in each process before its first work.
        arguments: of `start`.

    Raises:
        ResourceError: a process ended unexpectedly.
    """
    held, lifeline = SPAWN.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, SPAWN, _begin, (held, start, arguments))
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
