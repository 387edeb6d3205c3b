"""`fast-electra corrupt`: computes a run's replacements ahead of time."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

if TYPE_CHECKING:
    from rich.table import Table

    from fast_electra.pipelines.corrupt import CacheReport


def corrupt(
    config: str,
    /,
    *overrides: str,
    out: Path,
    shard: str | None = None,
    phase: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1,
    time_limit: str | None = None,
    json: bool = False,
) -> None:
    """Run the frozen auxiliary over all rows of a run, and store the replacements for every temperature.

    A run with corruption.cache=FOLDER reads the replacements and does not load the auxiliary. It can use any schedule
    within corruption.race_interval and any batch size. If the command is stopped, the same command continues.

    Parameters
    ----------
    config
        The configuration of the run: a preset's name or a YAML file.
    overrides
        Settings, each as section.key=value, for example auxiliary.model=runs/auxiliary.
    out
        The folder to write: a new one, or one that was started with the same settings.
    shard
        i/n: compute only share i of n (1/n to n/n), so that n processes can fill one folder. Under torchrun the default
        is the rank of the process.
    phase
        The phase of the run whose rows are computed, from 1; each phase with rows or masks of its own needs a cache.
    time_limit
        Stop before this time has passed, such as 2h, 90m or 5400 (seconds); the exit status is then 75, and the same
        command continues.
    json
        Print the report as one JSON object on standard output instead of text.
    """
    from fast_electra.config.loading import load_config
    from fast_electra.config.reading import setting
    from fast_electra.stopping import limit_time
    from fast_electra.terminal import Terminal, print_json, shown_progress

    limit_time(time_limit)
    share = _share(shard)
    settings = load_config(config, overrides)
    from fast_electra.pipelines.corrupt import build_cache

    console = Terminal(stderr=True)
    with shown_progress(console) as shown:

        def progress(done: int, total: int) -> None:
            shown(done, total, f"{done:,} of {total:,} rows")

        report = build_cache(settings, out, share, phase, progress=progress, say=console.say)
    if json:
        print_json(report.to_json())
        return
    if not report.built_parts:
        console.say("all parts of this process exist already; nothing to do.")
    Terminal().print(report_table(report))
    if report.finished:
        text = f"train with {setting('corruption.cache', out)}"
    else:
        text = f"{out} is not finished: parts of other --shard values are missing"
    console.say(text)


def report_table(report: "CacheReport") -> "Table":
    """Return a table of the cache's contents and cost, for a terminal."""
    from rich.table import Table

    content = report.to_json()
    timing = content["timing"]
    table = Table(box=None, show_header=False)
    table.add_row("rows", f"{report.rows:,} and validation: {report.tokens:,} tokens")
    table.add_row("size", f"{report.bytes / 1e6:,.1f} MB, {content['bytes_per_token']:.2f} bytes per token")
    table.add_row(
        "paths", f"{report.positions:,} masked positions, {content['segments_per_position']:.2f} segments each"
    )
    table.add_row("computation", f"{report.flops:.2e} FLOPs")
    table.add_row(
        "time",
        f"{timing['seconds']:,.0f} s, {timing['tokens_per_second']:,.0f} tokens/s: {timing['against_forward']:.2f} × "
        f"the auxiliary's forward passes ({timing['forward_seconds']:,.0f} s; race {timing['race_seconds']:,.0f} s)",
    )
    return table


def _share(shard: str | None) -> tuple[int, int]:
    """Return (i, n) of "i/n"; without it, the rank (from 1) and the number of processes that torchrun sets."""
    from fast_electra import distributed
    from fast_electra.cli.shares import share_of

    return (distributed.rank() + 1, distributed.size()) if shard is None else share_of(shard)
