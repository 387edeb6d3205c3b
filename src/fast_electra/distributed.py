"""The processes of one command under `torchrun`: their number, this one's rank, and what they tell each other.

Notable:
- no other module calls `torch.distributed`, but training/parallel.py, which hands the models to DDP and FSDP2, and
  runs/checkpoints.py, which hands the tensors to PyTorch's distributed checkpoint;
- a process that was started alone is rank 0 of 1, and every function here then does nothing;
- torch is imported inside functions, since commands that compute nothing ask for the rank too;
- messages are JSON, so nothing is unpickled;
- every process tells the launcher's store every few seconds that it lives, and looks at the process before it. If one
  ends or stops, the others say which and end too, instead of waiting for it;
- nothing is written to a disk: what the processes of a machine share lies in memory that the system frees with them.
"""

import contextlib
import gc
import hashlib
import itertools
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fast_electra.errors import OtherProcessError, ResourceError, UserError
from fast_electra.stopping import Interrupted, unbroken

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")

_LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ALIVE, _LOST = "alive/{}", "lost"
_CONNECTIONS = itertools.count()
_is_alone = False
"""whether this process works as if it had been started alone"""
_keys: str | None = None
"""what the keys of the connected processes in the launcher's store begin with"""
_memory: list[int] = []
"""descriptors of the files in memory that the processes of this machine may map"""
_BEAT, _MISSED, _GRACE = 2.0, 7, 5.0
"""seconds between two signs of life; number of own ones without one of another process, after which it is lost; seconds
that this process then has to end before it is killed"""
_PATIENCE = 10.0
"""seconds in which rank 0 meets an error that all processes meet"""
# Only rank 0 writes an export or reads a budget's speed, while the others wait for it.
_LONGEST_WAIT = timedelta(minutes=30)
UNLIMITED = timedelta(days=365)
"""the longest wait where processes compute for themselves; a process that is lost is found in any case"""


def size() -> int:
    """The number of processes."""
    return int(os.environ["WORLD_SIZE"]) if _is_launched() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if _is_launched() else 0


def local_size() -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _is_launched() else 1


def local_rank() -> int:
    """The number of this process among those on this machine, from 0; it chooses the GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _is_launched() else 0


def is_main() -> bool:
    """Whether this process writes files and messages: rank 0."""
    return rank() == 0


@contextmanager
def connected(device: "torch.device", longest_wait: timedelta = _LONGEST_WAIT) -> Iterator[None]:
    """Within the block, the processes can exchange tensors on the CPU and on `device`; without a launcher nothing.

    A group that the caller's own program has made is used, and left as it is.

    Args:
        device: of this process.
        longest_wait: an exchange fails if another process takes longer to join it.
    """
    import torch
    import torch.distributed as dist

    if size() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, *_ = next(dist.rendezvous("env://", rank(), size(), timeout=longest_wait))  # type: ignore[attr-defined]
    global _keys
    keys = f"fast_electra/{_attempt()}/{next(_CONNECTIONS)}"
    store = dist.PrefixStore(keys, store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank(), world_size=size(), timeout=longest_wait)
    pulse, _keys = _Pulse(keys), keys
    try:
        yield
        # Without both, one of nine runs under gloo aborted when its group was destroyed (torch 2.13). If DDP held the
        # group last, PyTorch would wait for a thread that waits for this one.
        gc.collect()
        barrier()
    except Exception as error:
        with unbroken():  # a launcher sends SIGTERM when a process is lost
            if isinstance(error, RuntimeError):  # an exchange failed, or the program: the others know which
                pulse.refuse_lost()
            if not isinstance(error, Interrupted):  # all processes stop together, some a little later
                pulse.tell_failure(error)
        failure: BaseException | None = error
        while failure is not None:  # what ended with the errors still holds models, as above
            traceback.clear_frames(failure.__traceback__)
            failure = failure.__cause__ or failure.__context__
        gc.collect()
        raise
    finally:
        _keys = None
        while _memory:
            os.close(_memory.pop())
        pulse.stop()
        dist.destroy_process_group()


def is_said_by_main(sentence: str) -> bool:
    """Whether rank 0 fails with the same sentence. Every process that fails calls this; they need not be connected."""
    if size() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False  # without torchrun there is no store that lives longer than rank 0
    with contextlib.suppress(Exception):
        store = _store(f"fast_electra/{_attempt()}", timedelta(seconds=_PATIENCE))
        if not is_main():
            return store.get("said").decode() == sentence
        store.set("said", sentence)
    return False


def _store(keys: str, timeout: timedelta) -> Any:
    """A connection of its own to the launcher's store. A connection does one thing at a time, waiting included."""
    import torch.distributed as dist

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, timeout=timeout)  # type: ignore[attr-defined]
    return dist.PrefixStore(keys, store)  # type: ignore[attr-defined]


def _attempt() -> str:
    """The number of times that torchrun has restarted the processes.

    Its store keeps what earlier processes wrote: their addresses, and why they failed. Machines count their restarts
    apart, so several of them have no common number.
    """
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if local_size() == size() else "0"


@contextmanager
def alone() -> Iterator[None]:
    """Within the block this process works as if it had been started alone: for what reads, and exchanges nothing."""
    global _is_alone
    before, _is_alone = _is_alone, True
    try:
        yield
    finally:
        _is_alone = before


def barrier() -> None:
    """Wait until every process is here."""
    import torch

    add(torch.zeros(()))


def add(tensor: "Tensor") -> "Tensor":
    """The sum of a tensor over the processes, in place; returns the tensor."""
    if size() > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)
    return tensor


def gather(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks.

    Args:
        value: what JSON can hold.
    """
    if size() == 1:
        return [value]
    import torch
    import torch.distributed as dist

    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size())]
    dist.all_gather(lengths, torch.tensor([len(own)]))
    longest = max(int(length) for length in lengths)
    found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(size())]
    dist.all_gather(found, torch.nn.functional.pad(own, (0, longest - len(own))))
    return [json.loads(bytes(text[: int(length)].tolist())) for text, length in zip(found, lengths, strict=True)]


def from_main(value: T) -> T:
    """The value that rank 0 has; what JSON can hold."""
    return gather(value if is_main() else None)[0]


@contextmanager
def together() -> Iterator[None]:
    """A block without exchanges that ends on every process, or fails on every process.

    Raises:
        OtherProcessError: it failed on another process; the message says on which and why.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as own:
        error = own
    failures = gather(None if error is None else (_sentence(error), getattr(error, "status", 1)))
    if error is not None and (is_main() or failures[0] is None):
        raise error
    for other, failure in enumerate(failures):
        if failure is not None:
            raise OtherProcessError(f"process {other} of {size()}: {failure[0]}", failure[1])


@contextmanager
def main_first() -> Iterator[None]:
    """A block without exchanges that rank 0 ends before the others begin it, because they read what it writes.

    Raises:
        OtherProcessError: it failed on rank 0, and this process has not begun it.
    """
    if not is_main():
        with together():
            pass
        yield
        return
    with together():
        yield


def once_per_machine(name: str, make: Callable[[], "dict[str, Tensor]"]) -> "dict[str, Tensor]":
    """Tensors on the CPU that one process of this machine makes; the others map the memory that it keeps them in.

    There is no exchange, so processes may call this at any time: those that come while it is made wait. Where memory
    can't be shared (only Linux can), or the first process fails, each process makes its own.

    Args:
        name: of the tensors: all that they depend on.
        make: returns them.
    """
    if local_size() == 1 or _keys is None or not hasattr(os, "memfd_create"):
        return make()
    machine = Path("/proc/sys/kernel/random/boot_id").read_text()
    digest = hashlib.sha256(f"{machine} {name}".encode()).hexdigest()
    store, place = _store(f"{_keys}/{digest}", UNLIMITED), ""
    if store.add("processes", 1) > 1:
        return _mapped(store.get("place").decode(), digest) or make()
    try:
        tensors = make()
        place = _kept(tensors, digest)
    finally:
        store.set("place", place)
    return _mapped(place, digest) or tensors


def _kept(tensors: "dict[str, Tensor]", name: str) -> str:
    """The path of a file in memory that has these tensors; empty if there is no room for it."""
    from safetensors.torch import save

    _memory.append(os.memfd_create(name))
    with contextlib.suppress(OSError), open(_memory[-1], "wb", closefd=False) as file:
        file.write(save(tensors))
        return f"/proc/{os.getpid()}/fd/{_memory[-1]}"
    return ""


def _mapped(place: str, name: str) -> "dict[str, Tensor] | None":
    """The tensors of a file that `_kept` has made; None if this process has no access to it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with contextlib.suppress(OSError, SafetensorError):
        # In a container with other numbers of processes, the path may be that of another file.
        return load_file(place) if name in os.readlink(place) else None
    return None


class _Pulse:
    """Tells the other processes that this one lives, and ends this one if another does not.

    Times are counted in own signs of life: a process that was itself stopped for some time, as by Ctrl-Z, does not take
    the others for lost.
    """

    def __init__(self, keys: str) -> None:
        """Start to tell, under a prefix of the keys in the launcher's store."""
        self._store = _store(keys, timedelta(seconds=_BEAT * _MISSED))
        self._store.set(_ALIVE.format(rank()), "0")
        self._stopped, self._found = threading.Event(), threading.Event()
        self._lost: str | None = None
        self._told = 0
        """number of signs of life that the store has taken"""
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._tell, self._watch)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop, so that the process may end."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(_BEAT)  # the first one may wait for the store

    def tell_failure(self, error: Exception) -> None:
        """Tell the others why this process ends."""
        if self._lost is None:
            sentence = f"process {rank()} of {size()}: {_sentence(error)}"
            teller = threading.Thread(target=self._tell_lost, args=(sentence,), daemon=True)
            teller.start()
            teller.join(_GRACE)

    def _tell_lost(self, sentence: str) -> None:
        with contextlib.suppress(Exception):
            self._store.set(_LOST, sentence)

    def refuse_lost(self) -> None:
        """Raise an error that names a process that failed, ended or stopped; return if every process lives.

        Raises:
            ResourceError: one does not.
        """
        if self._found.wait(2 * _BEAT * _MISSED):
            lost = str(self._lost)  # another process's own sentence says what to do
            raise ResourceError(
                lost if lost.endswith(".") else f"{lost}; start the same command again, and it continues."
            )

    def _lose(self, sentence: str) -> None:
        self._lost = self._lost or sentence
        self._found.set()

    def _tell(self) -> None:
        """Until another process is lost, tell that this one lives, and look at the process before it."""
        other, count, missed = (rank() - 1) % size(), -1, 0
        while not self._stopped.wait(_BEAT) and self._lost is None:
            try:
                self._store.set(_ALIVE.format(rank()), str(self._told + 1))
                before, count = count, self._count(other)
                missed = missed + 1 if count == before >= 0 else 0
                if missed >= _MISSED:
                    self._store.set(_LOST, f"process {other} of {size()} ended or does not answer")
                if self._store.check([_LOST]):
                    self._lose(self._store.get(_LOST).decode())
            except Exception:  # rank 0 has the store, unless torchrun has it
                self._lose(f"torchrun, or process 0 of {size()}, ended")
            self._told += 1

    def _count(self, other: int) -> int:
        """The last number that a process has told; -1 before it starts."""
        key = _ALIVE.format(other)
        return int(self._store.get(key)) if self._store.check([key]) else -1

    def _watch(self) -> None:
        """Find a store that does not answer, and end a process that still waits for another one that is lost."""
        told, missed = 0, 0
        while not self._stopped.wait(_BEAT) and self._lost is None:
            told, missed = self._told, 0 if self._told > told else missed + 1
            if missed >= _MISSED:
                self._lose(f"torchrun, or process 0 of {size()}, does not answer")
        if self._lost is not None and not self._stopped.wait(_GRACE):
            print(f"error: {self._lost}: process {rank()} waited for it and ends", file=sys.stderr, flush=True)
            os._exit(1)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _is_launched() -> bool:
    return not _is_alone and all(name in os.environ for name in _LAUNCHER)
