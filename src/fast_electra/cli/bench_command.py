"""`fast-electra bench`: measures the time of training steps, side by side in one run."""

from typing import Annotated, Any

from cyclopts import Parameter, validators

_DEFAULT = ("electra-small", "main.options.embedding_size=256", "training.batch_size=32")


def bench(
    *overrides: str,
    shape: str | None = None,
    updates: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 4,
    rounds: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 7,
    seconds: Annotated[float | None, Parameter(validator=validators.Number(gt=0))] = None,
    profile: str | None = None,
    tune: bool = False,
    json: bool = False,
) -> None:
    """Measure training steps: given replacements, cached, on the fly, joint ELECTRA and other programs, in turns.

    One update of the bench is one micro-batch. Without data.shards the tokens are random, and without auxiliary.model
    the auxiliary has random weights. Neither changes the speed. Under torchrun each process has a micro-batch, and the
    steps are measured with DDP, with and without exchange between the processes.

    Parameters
    ----------
    overrides
        Settings, each as section.key=value.
    shape
        A preset's name or a YAML file; default: a main model of 12 × 256, an auxiliary of 4 × 256, a vocabulary of
        30,522 and batches of 32 × 128 tokens.
    updates
        Number of measured updates in each turn.
    rounds
        Number of turns of each part.
    seconds
        Measured seconds of each part, all turns together, instead of --updates. On a GPU give at least 30.
    profile
        A part, such as online: print how its time is divided among operations, instead of measuring all parts.
    tune
        Instead of the parts, measure every precision with and without compilation, to choose execution.precision and
        training.compile.
    json
        Print one JSON object on standard output instead of text.
    """
    import tempfile
    from pathlib import Path

    from fast_electra import distributed
    from fast_electra.config import load_config
    from fast_electra.errors import ConfigError
    from fast_electra.terminal import Terminal, print_json

    if distributed.size() > 1 and (profile is not None or tune):
        raise ConfigError("--profile and --tune measure one process: start them without torchrun.")
    if seconds is not None and (profile is not None or tune or distributed.size() > 1):
        raise ConfigError("leave --seconds out with --profile, --tune and torchrun: give --updates.")

    name, *own = _DEFAULT if shape is None else (shape,)
    config = load_config(name, (*own, *overrides))
    from fast_electra.studies.bench.bench import bench as run_bench
    from fast_electra.studies.bench.bench import profile as profile_part
    from fast_electra.studies.bench.processes import bench_processes
    from fast_electra.studies.bench.tune import tune as time_choices

    say = Terminal(stderr=True).say
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if profile is not None:
            Terminal().say(profile_part(config, folder, profile, updates))
        elif tune:
            choices = time_choices(config, folder, updates, rounds, say)
            print_json(choices) if json else _print_choices(choices)
        elif distributed.size() > 1:
            found = bench_processes(config, folder, updates, rounds, say)
            print_json(found) if json else _print_processes(found)
        else:
            found = run_bench(config, folder, updates, rounds, seconds, say)
            print_json(found) if json else _print(found)


def _with_interval(found: dict[str, float], form: str) -> str:
    """A median with the ends of its interval."""
    return f"{found['median']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


def _print_choices(choices: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from fast_electra.terminal import Terminal

    console = Terminal()
    table = Table(box=None)
    table.add_column("execution.precision")
    table.add_column("training.compile")
    for name in ("tokens/s", "time against the table's", "first update, s", "pays after, updates"):
        table.add_column(name, justify="right")
    for row in choices:
        names = (row["precision"] + (" (the table's)" if row["chosen"] else ""), str(row["compile"]).lower())
        first = f"{row['first_update_seconds']:.1f}"
        if "failed" in row:
            table.add_row(*names, "–", row["failed"], first, "–")
            continue
        pays = row["pays_after_updates"]
        table.add_row(
            *names,
            _with_interval(row["tokens_per_second"], ",.0f"),
            _with_interval(row["ratio"], ".3f"),
            first,
            "" if row["chosen"] else "never" if pays is None else f"{pays:,}",
        )
    console.print(table)


_NAMES = {
    "rtd_only": "RTD only, replacements given",
    "cached": "cached",
    "online": "on the fly",
    "joint": "joint ELECTRA",
    "peer_best": "joint, written plainly",
    "peer_default": "txtai and Trainer, as shipped",
}


def _shape_line(found: dict[str, Any]) -> str:
    """What is trained, and on what."""
    shape = found["shape"]
    main, auxiliary = (
        f"{m['architecture']} {m['layers']} × {m['hidden_size']}" for m in (shape["main"], shape["auxiliary"])
    )
    return (
        f"main model {main}, auxiliary {auxiliary}, vocabulary {shape['vocabulary']:,}, "
        f"{shape['batch_size']} × {shape['length']} tokens; {found['device']}, {found['dtype']}, "
        f"{found['threads']} thread(s)"
    )


def _print_processes(found: dict[str, Any]) -> None:
    from rich.table import Table

    from fast_electra.terminal import Terminal

    console = Terminal()
    console.say(f"{_shape_line(found)} for each of {found['processes']} processes, which share the rows\n")
    table = Table(box=None)
    table.add_column("step with DDP")
    for name in ("tokens/s of all", "without exchange", "share of the exchange"):
        table.add_column(name, justify="right")
    for part, name in _NAMES.items():
        if found[part] is None:
            table.add_row(name, "–", found["skipped"][part])
            continue
        speeds = (_with_interval(found[part][key], ",.0f") for key in ("tokens_per_second", "without_exchange"))
        table.add_row(name, *speeds, _with_interval(found[part]["exchange_share"], ".1%"))
    console.print(table)


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    from fast_electra.terminal import Terminal

    console = Terminal()
    console.say(f"{_shape_line(found)}\n")
    table = Table(box=None)
    table.add_column("step")
    for name in (
        "tokens/s",
        "time against RTD only",
        "by count",
        "of the matrix rate",
        "peak memory, MB",
        "first update, s",
        "waits for data",
    ):
        table.add_column(name, justify="right")
    for part, name in _NAMES.items():
        if found[part] is None:
            table.add_row(name, "–", found["skipped"][part])
            continue
        ratio, count = found["ratios"].get(part), found["flops_ratio"].get(part)
        table.add_row(
            name,
            _with_interval(found[part]["tokens_per_second"], ",.0f"),
            "1" if ratio is None else _with_interval(ratio, ".3f"),
            "" if count is None else f"{count:.3f}",
            ", ".join(f"{share:.1%}" for share in found[part].get("utilisation", {}).values()),
            f"{found[part]['peak_memory_bytes'] / 1e6:,.0f}",
            f"{found[part]['first_update_seconds']:.1f}",
            f"{found[part]['data_wait_share']:.2%}",
        )
    console.print(table)
    sheet = found["data_sheet_flops_per_second"]
    paired = found["ratios"].get("joint_to_peer_best")
    console.say(
        f"\nmatrix rate: {found['large_product_flops_per_second'] / 1e12:,.2f} TFLOP/s with large matrices"
        + (f", and {sheet / 1e12:,.0f} by the data sheet (the second percentage)" if sheet else "")
        + (
            f"\njoint ELECTRA against joint, written plainly: {_with_interval(paired, '.3f')} of the time"
            if paired
            else ""
        )
    )
    console.say(
        f"RTD only: {found['flops_per_second'] / 1e9:,.0f} GFLOP/s; its matrix products alone: "
        f"{found['matmul_flops_per_second'] / 1e9:,.0f}, which is {found['matmul_share']:.0%} of the step\n"
        f"loader alone: {found['reader_tokens_per_second_per_core']:,.0f} tokens/s per core; "
        f"corruption alone: {found['corruption_tokens_per_second']:,.0f} tokens/s"
    )
