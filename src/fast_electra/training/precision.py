"""Device, precision and threads: chosen from a fixed table by device and instruction set, never by a stopwatch.

Notable:
- on a CPU, bfloat16 is chosen only if the processor has bfloat16 instructions (AMX or AVX512-BF16): elsewhere bfloat16
  autocast was 3 to 30 times slower than float32;
- `ONEDNN_MAX_CPU_ISA` is honoured, so a run can be tried as an older processor would run it;
- weights in bfloat16 with float32 masters are 1.1 to 1.2 × faster than autocast on a CPU. Autocast casts every weight
  every time: on one H100 this was 18 % of the GPU's time in a step of electra-small;
- on a GPU, PyTorch's own attention kernels are used and not cuDNN's, each call of which took 1.3 ms of the host and
  0.05 ms of the GPU there;
- a GPU without bfloat16 (T4, V100) multiplies in float16 under autocast. Its range is small, so the loop scales the
  loss (training/loss_scale.py). Weights stay in float32: in float16 they would lose small updates, as in bfloat16.

| device | instruction set          | precision        | auxiliary |
| ------ | ------------------------ | ---------------- | --------- |
| cuda   | compute capability ≥ 8   | bfloat16         | bfloat16  |
| cuda   | compute capability 7     | float16_autocast | float32   |
| cpu    | AMX or AVX512-BF16       | bfloat16         | bfloat16  |
| other  |                          | float32          | float32   |
"""

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fast_electra import distributed
from fast_electra.config.tree import ExecutionConfig
from fast_electra.data.encoding import available_cores
from fast_electra.errors import ConfigError

_BFLOAT16_ISAS = ("AVX512_CORE_BF16", "AVX10_1_512", "AVX512_CORE_AMX", "DEFAULT", "ALL")


@dataclass(frozen=True)
class Execution:
    """Where and how a run computes; part of the run's record."""

    device: torch.device
    precision: str
    auxiliary_dtype: torch.dtype
    threads: int
    parallel: str = "ddp"
    reduction: str = "float32"

    def record(self) -> dict[str, Any]:
        """`device`, `precision` and `threads`, as records hold them."""
        return {"device": self.device.type, "precision": self.precision, "threads": self.threads}

    @property
    def settings(self) -> ExecutionConfig:
        """The section of a configuration that chooses this."""
        return ExecutionConfig.model_validate(self.record() | {"parallel": self.parallel, "reduction": self.reduction})

    @property
    def weights_dtype(self) -> torch.dtype:
        """Type of the weights that the forward pass reads."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled, so that small gradients are not rounded to zero."""
        return self.precision == "float16_autocast"

    def autocast(self) -> torch.autocast:
        """The context of a forward pass; off unless the precision is an autocast."""
        dtype = torch.float16 if self.scales_loss else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision.endswith("_autocast"))


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively, and oneDNN may use it."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if not limit.startswith(_BFLOAT16_ISAS):
        return False
    flags = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in flags and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_execution(settings: ExecutionConfig | None = None) -> Execution:
    """Fill in what the configuration leaves to the program; None leaves everything to it.

    Raises:
        ConfigError: a device that isn't there.
    """
    settings = settings or ExecutionConfig()
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("execution.device=cuda, but PyTorch finds no CUDA device; use auto or cpu.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("execution.device=mps, but PyTorch finds no MPS device; use auto or cpu.")
    capability = torch.cuda.get_device_capability() if name == "cuda" else (0, 0)
    native = cpu_has_bfloat16() if name == "cpu" else capability >= (8, 0)
    precision: str = settings.precision
    if precision == "auto":
        precision = "bfloat16" if native else "float16_autocast" if capability >= (7, 0) else "float32"
    return Execution(
        device=torch.device(name, distributed.local_rank()) if name == "cuda" else torch.device(name),
        precision=precision,
        auxiliary_dtype=torch.bfloat16 if native and precision.startswith("bfloat16") else torch.float32,
        threads=settings.threads or max(1, available_cores() // distributed.local_size()),
        parallel=settings.parallel,
        reduction=settings.reduction,
    )


def apply_threads(execution: Execution) -> None:
    """Set PyTorch's thread count and kernels, deterministic ones: the thread count is part of a run's identity."""
    torch.set_num_threads(execution.threads)
    if execution.device.type == "cuda":
        # cuBLAS reads this when it starts, and gives the same bits again only with a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cuda.enable_cudnn_sdp(False)
        # The backward passes of attention kernels; docs/speed.md says that runs on a GPU differ by rounding.
        warnings.filterwarnings("ignore", ".* defaults to a non-deterministic algorithm", UserWarning)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory that it has not written, and filling it took a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished what was started on it: before a clock is read."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def busy_elsewhere(seconds: float = 0.1) -> float:
    """How many of this machine's cores are busy while this process sleeps; 0 where the system does not say.

    For a message alone: no result depends on it.
    """
    try:
        before = _jiffies()
        time.sleep(seconds)
        idle, total = (now - then for now, then in zip(_jiffies(), before, strict=True))
    except (OSError, ValueError):
        return 0.0
    return (os.cpu_count() or 1) * (1.0 - idle / total) if total else 0.0


def say_shared(say: Callable[[str], object]) -> None:
    """Say when other processes use the cores of a machine without a GPU, since training is then slower."""
    busy = 0.0 if torch.cuda.is_available() else busy_elsewhere()
    if busy >= 0.5:
        say(
            f"other processes keep {busy:.1f} of this machine's {os.cpu_count()} cores busy: on several threads "
            "training takes about twice the time beside each of them (docs/speed.md)."
        )


def _jiffies() -> tuple[int, int]:
    """Idle ones and all since the machine started, over its cores (Linux)."""
    with open("/proc/stat", encoding="ascii") as file:
        counts = [int(count) for count in file.readline().split()[1:9]]
    return counts[3] + counts[4], sum(counts)
