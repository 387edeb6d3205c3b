"""`fast-electra data build`: makes a tokenizer and token shards from text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.table import Table

    from fast_electra.data.shard_report import BuildReport


def build(
    config: str,
    /,
    *overrides: str,
    out: Path,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Make a tokenizer and token shards from text, and report what was kept, what was left out and why.

    The command reads data.sources: folders, text files, code, JSON lines, Parquet and Arrow, also compressed by gzip,
    xz, bzip2 or Zstandard. It does not change a folder that contains the same shards already.

    Parameters
    ----------
    config
        A preset's name or a YAML file.
    overrides
        Settings, each as section.key=value, for example data.sources=[corpus/].
    out
        The folder to write, new or empty; give it to `pretrain` as data.shards.
    json
        Print the report as one JSON object on standard output instead of text.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from fast_electra.config.loading import load_config
    from fast_electra.terminal import Terminal, print_json

    settings = load_config(config, overrides)
    console = Terminal(stderr=True)
    from fast_electra.data.shard_building import build_shards

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    descriptions = {"tokenizer": "reading text for the tokenizer", "tokens": "tokenising"}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        tasks = {}

        def progress(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = display.add_task(descriptions[stage], total=total)
            display.update(tasks[stage], completed=done)

        report = build_shards(None, None, out, settings.data, progress=progress)
    if json:
        print_json(report.to_json())
        return 0
    Terminal().print(report_table(report))
    if report.existed:
        console.say(f"{out} contains these shards already; nothing to do.")
    return 0


def report_table(report: "BuildReport") -> "Table":
    """Return a table of what was read, kept and left out, for a terminal."""
    from rich.table import Table

    table = Table(box=None, show_header=False)
    rows = [
        ("read", f"{report.documents:,} documents, {report.text_bytes / 1e6:,.1f} MB, from {report.files:,} files"),
        *(("data set", source) for source in report.sources if source.startswith("hf://")),
        *report.losses().items(),
        ("vocabulary", f"{report.vocabulary_size:,} tokens, {report.bytes_per_token:.2f} bytes of text per token"),
        *(
            (
                name,
                f"{split.tokens:,} tokens of {split.documents:,} documents in {split.rows:,} rows, "
                f"{split.packing_efficiency:.3%} full",
            )
            for name, split in report.splits.items()
        ),
        *(
            (
                f"source {name}",
                f"{found['share']:.1%} of the training, from {found['tokens']:,} tokens",
            )
            for name, found in report.mixture.items()
        ),
        ("tokens dropped", "0 of the documents kept"),
        (
            "speed",
            f"{report.megabytes_per_second:.1f} MB/s with {report.workers} processes "
            f"({report.tokenizer_seconds:.0f} s tokenizer, {report.seconds:.0f} s tokens)",
        ),
        ("peak memory", f"{report.peak_memory_bytes / 1e6:,.0f} MB, all processes"),
    ]
    for row in rows:
        table.add_row(*row)
    return table
