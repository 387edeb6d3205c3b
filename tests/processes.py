"""Runs a function in several processes, as `torchrun` starts them.

Notable: processes are forked from one that has imported what they need and computed nothing. One that is spawned takes
seconds of imports.
"""

import contextlib
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

from tests import tiny


def context() -> ForkServerContext:
    """Processes of it are forked."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.torture.imported"])
    with contextlib.chdir(tiny.ROOT):  # where it finds the tests
        forkserver.ensure_running()
    return found


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    """The variables that `torchrun` sets."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return {name: str(number) for name, number in numbers.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }


def run(
    size: int,
    function: Callable[..., object],
    *arguments: Any,
    timeout: float = 400.0,
    kill_after_first: bool = False,
) -> list[int]:
    """Run a function of a module in `size` processes, and return their exit codes.

    With `kill_after_first` the others are killed when rank 0 has ended, as `torchrun` does.
    """
    forked, port = context(), free_port()
    processes = [
        forked.Process(target=_start, args=(environment(rank, size, port), function, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(1.0 if kill_after_first and process is not processes[0] else timeout)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode or 0 for process in processes]


def _start(variables: dict[str, str], function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    os.environ.update(variables)
    function(*arguments)
