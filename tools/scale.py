"""Cost of training with many GPUs, for docs/scale.md: time, memory, traffic, disk.

    python tools/scale.py                  print the tables
    python tools/scale.py --measure TEXT   compare traffic and checkpoint sizes of 2 and 4 processes with the formulas

The measurement trains a small model under `torchrun`, and reads how many bytes the loopback device carried. Nothing
else may use it meanwhile.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from math import log2
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM

from fast_electra.config.loading import load_config
from fast_electra.config.tree import Config
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.layers import layer_stacks
from fast_electra.studies.cost import cost

# Assumptions about a cluster of H100 GPUs, 8 in a machine; docs/scale.md says where they come from.
FLOPS = 300e12
"""FLOPs per second that a GPU reaches"""
NETWORK = 40e9
"""bytes per second that a GPU sends to other machines"""
LATENCY = 20e-6
"""seconds of one hop of a small message"""
DISK = 5e9
"""bytes per second that a machine reads or writes on the shared file system"""
HASHED = 1.5e9
"""bytes per second that a process checks"""
PER_MACHINE = 8
TOKENS = 1e12


@dataclass(frozen=True)
class Traffic:
    """What one process sends in an update, in bytes."""

    gathered: float
    """weights, for other processes (FSDP2)"""
    reduced: float
    """gradients"""

    @property
    def total(self) -> float:
        """All bytes."""
        return self.gathered + self.reduced


def traffic(
    parallel: str,
    size: int,
    layers: int,
    rest: int,
    micro_batches: int,
    weight: int,
    gradient: int,
    scatter: int = 1,
) -> Traffic:
    """Bytes that one of `size` processes sends in an update.

    An all-reduce in a ring sends 2 (N - 1) / N of its bytes, a gather or a scatter (N - 1) / N.

    Args:
        parallel: ddp or fsdp.
        size: number of processes, N.
        layers: weights in layers, which FSDP2 gathers once for forward and once for backward.
        rest: weights of embeddings and heads, which it gathers once for each micro-batch.
        micro_batches: number of them in an update of one process.
        weight: bytes of a weight that is gathered.
        gradient: bytes of a gradient that is added.
        scatter: 2 for Gloo, whose scatter sends as much as its all-reduce.
    """
    share = (size - 1) / size
    if parallel == "ddp":
        return Traffic(0.0, 2 * share * gradient * (layers + rest))
    gathered = share * weight * micro_batches * (2 * layers + rest)
    return Traffic(gathered, scatter * share * gradient * (layers + rest))


def checkpoint_bytes(trained: int) -> int:
    """Float32 masters and the two averages of AdamW; heads of the files and other weights are small beside them."""
    return 12 * trained


def weights_of(config: Config) -> tuple[int, int]:
    """The trained weights of a configuration's main model: in its layers, and in embeddings and head."""
    vocabulary, special = config.data.tokenizer.vocabulary_size, {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    shape = transformers_config(config.main, vocabulary, special, config.data.length, "main")
    with torch.device("meta"):
        model = build_model(shape, "rtd", 0)
    layers = sum(p.numel() for stack in layer_stacks(model) for p in stack.parameters())
    return layers, sum(p.numel() for p in model.parameters()) - layers


def tables(preset: str) -> str:
    """The tables of one preset in Markdown."""
    config = load_config(preset)
    layers, rest = weights_of(config)
    trained, rows, length = layers + rest, config.training.batch_size, config.data.length
    per_token = cost(config)["head_masked"]["flops_per_token"]["online"]["total"]
    lines = [
        f"### {preset}: {trained / 1e6:.0f} million weights, {rows:,} × {length} tokens an update",
        "",
        "| GPUs | rows of a GPU | compute, ms | DDP sends, MB | DDP, efficiency | FSDP2 sends, MB | FSDP2, efficiency "
        "| small messages, ms | weights and optimizer of a GPU, DDP / FSDP2, GB | 10^12 tokens, days with DDP |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size in (1, 8, 64, 256, 1024):
        compute = per_token * rows * length / size / FLOPS
        micro_batches = max(1, rows // size // config.training.rows_at_a_time)
        small = 2 * 2 * log2(size) * LATENCY if size > 1 else 0.0
        cells, days = [], 0.0
        for parallel in ("ddp", "fsdp"):
            sent = traffic(parallel, size, layers, rest, micro_batches, weight=2, gradient=4).total
            # Gradients are sent during the backward pass, two thirds of the computation.
            waiting = max(0.0, sent / NETWORK - compute * 2 / 3) + small
            days = days or TOKENS / (rows * length) * (compute + waiting) / 86_400
            cells += [f"{sent / 1e6:,.0f}", f"{compute / (compute + waiting):.0%}"]
        memory = 18 * trained / 1e9  # bfloat16 weights and gradients, float32 masters, two averages, a gradient to send
        lines.append(
            f"| {size:,} | {rows / size:,.0f} | {1e3 * compute:,.0f} | {' | '.join(cells)} | {1e3 * small:.1f} | "
            f"{memory:.1f} / {memory / size:.2f} | {days:,.1f} |"
        )
    saved = checkpoint_bytes(trained)
    lines += [
        "",
        f"A checkpoint has {saved / 1e9:.1f} GB; writing takes {saved / DISK:.1f} s on one machine, and less where "
        "several machines write their shares.",
    ]
    return "\n".join(lines)


def data_table() -> str:
    """Start-up and reading of 10^12 tokens, in Markdown."""
    lines = ["| GPUs | checking the shards at the start, s | read by a machine, MB/s, at 0.4 million tokens/s a GPU |"]
    lines.append("| ---: | ---: | ---: |")
    for size in (1, 8, 64, 256, 1024):
        machines = max(1, size // PER_MACHINE)
        checking = max(2 * TOKENS / size / HASHED, 2 * TOKENS / machines / DISK)
        # A row of 1 KB is one page or two of 4 KB, since rows lie at random places.
        read = min(size, PER_MACHINE) * 0.4e6 / 512 * 2 * 4096
        lines.append(f"| {size:,} | {checking:,.0f} | {read / 1e6:.0f} |")
    return "\n".join(lines)


# --- Measurement ------------------------------------------------------------------------------------------------------

_SMALL = """
data: {shards: SHARDS, length: 64, tokenizer: {kind: text, vocabulary_size: 4096}, validation_fraction: 0.02}
main: {layers: 6, hidden_size: 256, heads: 4, intermediate_size: 512}
objective: {kind: mlm}
optimizer: {learning_rate: 1e-3}
training: {updates: UPDATES, batch_size: 8, micro_batch_size: MICRO, validation_sequences: 8, log_every: 100}
execution: {precision: float32, threads: 1, parallel: PARALLEL}
"""


def measure(text: Path) -> str:
    """Bytes sent and saved by 2 and 4 processes, measured and by formula, in Markdown."""
    lines = [
        "| processes | | micro-batches | sent in an update by all, MB, measured | by formula | difference "
        "| checkpoint, MB, measured | by formula | difference |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "fast_electra", "data", "build", "text-hour", f"data.sources=[{text}]"]
        more = ["data.tokenizer.vocabulary_size=4096", "data.length=64", "--out", str(folder / "shards")]
        subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL)
        for size in (2, 4):
            for parallel, micro_batches in (("ddp", 1), ("fsdp", 1), ("fsdp", 2)):
                lines.append(_measured(folder, size, parallel, micro_batches))
    return "\n".join(lines)


def _measured(folder: Path, size: int, parallel: str, micro_batches: int) -> str:
    sent, config, run = [], folder / "run.yaml", folder / "run"
    few, many = 5, 25
    for updates in (few, many):
        run = folder / f"{parallel}-{size}-{micro_batches}-{updates}"
        changes = {"SHARDS": folder / "shards", "UPDATES": updates, "PARALLEL": parallel}
        changes["MICRO"] = 8 // size // micro_batches
        text = _SMALL
        for key, value in changes.items():
            text = text.replace(key, str(value))
        config.write_text(text)
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), "-m", "--"]
        before = _loopback()
        subprocess.run([*launch, "fast_electra", "pretrain", config, "--run", run], check=True, capture_output=True)
        sent.append(_loopback() - before)
    found = (sent[1] - sent[0]) / (many - few)
    model = AutoModelForMaskedLM.from_pretrained(run / "model")
    layers = sum(p.numel() for stack in layer_stacks(model) for p in stack.parameters())
    trained = sum(p.numel() for p in model.parameters())
    expected = size * traffic(parallel, size, layers, trained - layers, micro_batches, 4, 4, scatter=2).total
    checkpoint = run / "checkpoints" / f"{many:08d}"
    saved, wanted = sum(f.stat().st_size for f in checkpoint.rglob("*.safetensors")), checkpoint_bytes(trained)
    return (
        f"| {size} | {parallel} | {micro_batches} | {found / 1e6:.2f} | {expected / 1e6:.2f} "
        f"| {found / expected - 1:+.1%} | {saved / 1e6:.2f} | {wanted / 1e6:.2f} | {saved / wanted - 1:+.1%} |"
    )


def _loopback() -> int:
    """Bytes that the loopback device has sent since the machine started (Linux)."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("lo:"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(measure(Path(sys.argv[2])))
    else:
        print("\n\n".join([*map(tables, ("paper-base", "paper-large")), data_table()]))
