"""What the workers of `test_signals.py` do; imports little, so that they start soon."""

import os
import time
from multiprocessing import get_context
from pathlib import Path

from fast_electra.data.workers import end_with_parent, worker_pool


def sleeps(path: str) -> None:
    Path(path, str(os.getpid())).touch()
    time.sleep(60)


def forked(path: str) -> None:
    end_with_parent()
    sleeps(path)


def parent(kind: str, path: str) -> None:
    """Start two workers and wait for them."""
    if kind == "spawn":
        with worker_pool(2, "sleeps", "wait") as pool:
            for future in [pool.submit(sleeps, path) for _ in range(2)]:
                future.result()
    processes = [get_context("fork").Process(target=forked, args=(path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def dies(_: int) -> None:
    os._exit(1)
