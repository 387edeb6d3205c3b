"""Checks of what replaces plain PyTorch on a GPU: the Triton sampler and CUDA graphs, each against what it replaces."""

import time
from typing import Any

import torch

from fast_electra.config.loading import load_config
from fast_electra.config.tree import Config
from fast_electra.corruption.sampling import sample
from fast_electra.studies.bench.parts import Trained
from fast_electra.studies.bench.setup import prepare, with_settings
from fast_electra.training.assembly import assemble
from fast_electra.training.compilation import Compilation
from fast_electra.training.loop import make_update
from fast_electra.training.precision import Execution, apply_threads, choose_execution
from fast_electra.training.setup import batches_of, start
from tools.gpu.correctness import seconds_of
from tools.gpu.running import Skipped, Trial
from tools.gpu.speed import TINY

_LOOSE = 0.02
"""share by which the losses of 20 updates in bfloat16 may move: other kernels round otherwise"""


def triton_sampler(trial: Trial) -> None:
    """The kernel gives the distribution of the plain sampler, and the time of both with the output layer."""
    try:
        from fast_electra.corruption import triton_sampling
    except ImportError:
        raise Skipped("Triton is not installed") from None
    from fast_electra.corruption.triton_sampling import OutputLayer, sample_hidden

    device = choose_execution().device
    if device.type != "cuda":
        raise Skipped("tests/corruption/test_triton_sampling.py runs the kernel in Triton's interpreter")
    worst, slower = 0.0, []
    for batch, length in ((128, 128), (64, 512)):
        for vocabulary in (30_522, 50_368):
            for width in (128, 768):
                name = f"{batch}x{length}_V{vocabulary}_d{width}"
                rows = round(0.15 * batch * length)
                hidden = torch.randn(rows, width, device=device, dtype=torch.bfloat16)
                weight = torch.randn(vocabulary, width, device=device, dtype=torch.bfloat16) * 4 * width**-0.5
                output = OutputLayer(weight, torch.zeros(vocabulary, device=device))
                noise = torch.rand(rows, device=device, dtype=torch.float64), torch.rand(rows, device=device).double()
                originals = torch.randint(vocabulary, (rows,), device=device)

                def fused(given: Any = (hidden, output, 1.5, noise, originals)) -> Any:
                    return sample_hidden(*given)

                def plain(hidden: Any = hidden, weight: Any = weight, rest: Any = (1.5, noise[0], originals)) -> Any:
                    return sample(torch.nn.functional.linear(hidden, weight), *rest)

                found = fused()
                exact = sample(hidden.float() @ weight.float().T, 1.5, noise[0], originals)
                # Of the entropies: the sum of all tokens' probabilities and logits.
                worst = max(worst, float((found.entropy_N - exact.entropy_N).abs().max()))
                # The first number chooses the place in the vocabulary, to a tile, in both.
                tiles = (found.tokens_N - exact.tokens_N).abs() <= 256 + triton_sampling.COLUMNS
                trial.report({f"{name}_same_place": float(tiles.float().mean())})
                seconds, plain_seconds = seconds_of(fused, device), seconds_of(plain, device)
                trial.report({f"{name}_ms": 1e3 * seconds, f"{name}_plain_ms": 1e3 * plain_seconds})
                trial.require(float(tiles.float().mean()) > 0.99, f"{name}: tokens lie elsewhere in the vocabulary")
                slower += [name] if seconds > plain_seconds else []
    drawn = sample_hidden(*_one_row(device))
    counts = drawn.tokens_N.bincount(minlength=1000).double()
    hidden, output, temperature, _, _ = _one_row(device)
    expected = (hidden[0].float() @ output.weight_Vd.float().T / temperature).double().softmax(0) * len(hidden)
    likely = expected >= 10
    # Mean 1 and deviation sqrt(2 / cells), so that 1.3 is far outside of chance for some hundreds of cells.
    chi = float((((counts - expected) ** 2 / expected)[likely]).mean())
    trial.report({"largest_difference_of_entropy": worst, "chi_square_per_cell": chi, "slower_in": slower})
    trial.require(worst < 0.01, f"entropies differ by {worst:.3g}")
    trial.require(chi < 1.3, f"chi-square per cell is {chi:.2f}")


def _one_row(device: torch.device) -> tuple[Any, ...]:
    """Arguments of `sample_hidden` for 200,000 draws of one distribution over 1,000 tokens."""
    from fast_electra.corruption.triton_sampling import OutputLayer

    draw = torch.Generator().manual_seed(0)
    rows, vocabulary, width = 200_000, 1000, 96
    hidden = torch.randn(1, width, generator=draw).to(device, torch.bfloat16).expand(rows, -1)
    weight = (torch.randn(vocabulary, width, generator=draw) * 0.15).to(device, torch.bfloat16)
    noise = (*torch.rand(2, rows, generator=draw, dtype=torch.float64).to(device),)
    originals = torch.zeros(rows, dtype=torch.int64, device=device)
    return hidden, OutputLayer(weight, torch.zeros(vocabulary, device=device)), 1.5, noise, originals


_SHAPES = {
    "electra-small": ("electra-small", {"training.batch_size": 128}),
    "electra-small-two-micro-batches": ("electra-small", {"training.batch_size": 128}),
    "4x256": ("text-hour", {"training.batch_size": 32, "data.length": 128}),
    "4x256-cached": ("text-hour", {"training.batch_size": 32, "data.length": 128}),
}


def cuda_graphs(trial: Trial) -> None:
    """20 updates with CUDA graphs have the losses of compiled ones without, and the updates per second of each."""
    device = choose_execution().device
    values: tuple[Compilation, ...] = (False, True, "graphs") if device.type == "cuda" else (False,)
    for name, (preset, settings) in _SHAPES.items():
        given = settings | (TINY if trial.tiny else {}) | {"training.compile": "false"}
        if trial.tiny:
            given["main.options"] = "{}"
        setup = prepare(load_config(preset, [f"{key}={value}" for key, value in given.items()]), trial.folder / name)
        losses: dict[Compilation, list[float]] = {}
        for value in values:
            config = setup.cached if name.endswith("cached") else setup.online
            config = with_settings(config, training={"compile": value})
            if name.endswith("micro-batches"):
                half = config.training.batch_size // 2
                config = with_settings(config, training={"micro_batch_size": half})
            word = "graphs" if value == "graphs" else "compiled" if value else "plain"
            # A cache has the rows of a few updates only.
            count = min(config.training.updates or 20, 5 if trial.tiny else 20)
            losses[value], found = _losses(config, setup.execution, count)
            trial.report({f"{name}_{word}_{key}": figure for key, figure in found.items()})
        for value in values[1:]:
            moved = max(abs(one / other - 1) for one, other in zip(losses[value], losses[False], strict=True))
            trial.report({f"{name}_{value}_moved": moved})
            trial.require(moved < _LOOSE, f"{name}: losses with training.compile={value} move by {moved:.1%}")


def _losses(config: Config, execution: Execution, updates: int) -> tuple[list[float], dict[str, float]]:
    """The losses of updates, and the seconds of the first and the rate of later ones."""
    apply_threads(execution)
    parts = assemble(config, execution)
    state, plan = start(config, parts, execution)
    found = []
    began = time.perf_counter()
    first = 0.0
    for update in range(updates):
        state.sums = {}
        make_update(state, plan, batches_of(parts, plan)(update), execution)
        found.append(float(state.sums["loss"][0] / state.sums["loss"][1]))
        first = first or time.perf_counter() - began
    # The rows are reused in turn, and the schedules must not end.
    trained = Trained(with_settings(config, training={"updates": 10**6}), parts, parts.objective, execution)
    trained.run(4)  # kernels are compiled, and updates recorded
    timed = trained.run(updates)
    return found, {"first_update_seconds": first, "updates_per_second": timed.updates / timed.seconds}
