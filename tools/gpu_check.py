"""Checks on one GPU what no CPU can tell: correctness, speed and memory. It needs no network.

    python tools/gpu_check.py --out gpu                      all checks, in at most eight minutes
    python tools/gpu_check.py --out gpu --only smoke bench-paper-base
    python tools/gpu_check.py --out gpu --tiny               small models, also on a CPU
    python tools/gpu_check.py --out gpu --minutes 60 --corpus english.txt --data data
                                                             at last, ELECTRA against Fast-ELECTRA on a text

Notable:
- checks run in order of value, each in a process of its own with a time limit. A failure or a damaged GPU context
  never stops the next check. Those that measure no time run side by side;
- the processes are forked after all imports, so they start at once. The parent process never touches the GPU;
- OUT/gpu_check.json and OUT/gpu_check.md are written after every figure of a check, so nothing is lost at a time limit.
  OUT/NAME.log has what a check printed, and where it hung;
- the exit status is 1 if a check failed.

gpu_check.json holds `command`, `seconds` and `checks`, a list of objects: `name`, `status` (passed, failed, skipped),
`seconds`, `figures`, and `reason` if the check failed or was skipped.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Read when cuBLAS starts, which a check may do before the program sets it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from tools.gpu.correctness import documents, environment, fsdp, modern, smoke, torchrun  # noqa: E402
from tools.gpu.kernels import cuda_graphs, triton_sampler  # noqa: E402
from tools.gpu.methods import methods  # noqa: E402
from tools.gpu.running import Check, run_checks  # noqa: E402
from tools.gpu.speed import (  # noqa: E402
    BENCHES,
    bench_check,
    documents_speed,
    largest_micro_batch,
    padding,
    profile_step,
    start_up,
)
from tools.gpu.waits import recompilations, waits  # noqa: E402

CHECKS = [
    Check("environment", environment, seconds=60),
    Check("smoke", smoke, seconds=120, timed=False),
    Check("waits", waits, seconds=120, timed=False),
    Check("documents", documents, seconds=120, timed=False),
    Check("modern", modern, seconds=120, timed=False),
    Check("torchrun", torchrun, seconds=120, timed=False),
    Check("fsdp", fsdp, seconds=120, timed=False),
    Check("recompilations", recompilations, seconds=120, timed=False),
    Check("start", start_up, seconds=60),
    Check("graphs", cuda_graphs, seconds=150),
    *(Check(f"bench-{shape.name}", bench_check(shape), seconds=shape.limit) for shape in BENCHES),
    Check("documents-speed", documents_speed, seconds=60),
    Check("triton", triton_sampler, seconds=60),
    Check("profile", profile_step, seconds=60),
    Check("padding", padding, seconds=30),
    Check("memory", largest_micro_batch, seconds=90),
]


def main() -> int:
    """Run the checks and return the exit status."""
    parser = argparse.ArgumentParser(description="Check on a GPU what no CPU can tell.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--minutes", type=float, default=8.0, help="no check runs longer than until then")
    parser.add_argument("--tiny", action="store_true", help="small models and few updates; also on a CPU")
    parser.add_argument("--corpus", type=Path, help="text for the check methods, which takes the time that is left")
    parser.add_argument("--data", type=Path, help="folder with NCBI-disease, blimp and glue, which judge the methods")
    names = [*(check.name for check in CHECKS), "methods"]
    parser.add_argument("--only", nargs="+", choices=names, help="only these checks")
    given = parser.parse_args()
    checks = [*CHECKS, Check("methods", partial(methods, given.corpus, given.data), seconds=3600)]
    chosen = [check for check in checks if given.only is None or check.name in given.only]
    return run_checks(chosen, given.out, 60 * given.minutes, given.tiny)


if __name__ == "__main__":
    sys.exit(main())
