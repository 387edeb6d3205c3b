"""`fast-electra data build` and `data merge`: make a tokenizer and token shards from text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from fast_electra.data.settings import DataConfig
    from fast_electra.data.shard_report import BuildReport


def build(
    config: str,
    /,
    *overrides: str,
    out: Path | None = None,
    dry_run: bool = False,
    shard: str | None = None,
    json: bool = False,
) -> None:
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
    dry_run
        Write nothing; estimate bytes, tokens and time from a sample.
    shard
        i/n: read only the i-th of n shares of the files, and write OUT/part-i-of-n. Start n such commands anywhere,
        each again if it was stopped, and join the parts by `data merge`. Needs data.tokenizer.path.
    json
        Print the report as one JSON object on standard output instead of text.
    """
    from fast_electra.cli.shares import share_of
    from fast_electra.config.loading import load_config
    from fast_electra.data.merging import part_name
    from fast_electra.data.shard_building import build_shards
    from fast_electra.errors import ConfigError
    from fast_electra.terminal import Terminal, shown_progress

    settings = load_config(config, overrides)
    share = share_of(shard) if shard else None
    console = Terminal(stderr=True)
    if dry_run:
        _plan(settings.data, json)
        return
    if out is None:
        raise ConfigError("--out is not given: name the folder to write, or give --dry-run.")
    out = out / part_name(share) if share else out

    descriptions = {"tokenizer": "reading text for the tokenizer", "tokens": "tokenising"}
    with shown_progress(console) as shown:

        def progress(stage: str, done: int, total: int | None) -> None:
            shown(done, total or 0, f"{descriptions[stage]}, {done / 1e6:,.0f} MB")

        report = build_shards(None, None, out, settings.data, progress=progress, share=share)
    _show(report, json)
    if report.existed:
        console.say(f"{out} contains these shards already; nothing to do.")


def merge(parts: Path, /, *, out: Path, json: bool = False) -> None:
    """Join the parts that `data build --shard` wrote.

    The result is that of one build: the same tokens in the same order, without documents that occur in two parts.

    Parameters
    ----------
    parts
        The folder that was given to `data build --shard` as --out; all parts must be there.
    out
        The folder to write, new or empty; give it to `pretrain` as data.shards.
    json
        Print the report as one JSON object on standard output instead of text.
    """
    from fast_electra.data.merging import merge_shards

    _show(merge_shards(parts, out), json)


def _show(report: "BuildReport", json: bool) -> None:
    from fast_electra.terminal import Terminal, print_json

    if json:
        print_json(report.to_json())
    else:
        Terminal().print(report_table(report))


def _plan(data: "DataConfig", json: bool) -> None:
    """Print what a build would need."""
    from rich.table import Table

    from fast_electra.data.plan import plan_build
    from fast_electra.data.shard_building import TOKENIZER_SAMPLE
    from fast_electra.report.figures import duration
    from fast_electra.terminal import Terminal, print_json

    plan = plan_build(data, TOKENIZER_SAMPLE)
    if json:
        print_json(plan.to_json())
        return
    table = Table(box=None, show_header=False)
    table.add_row(
        "read", f"{plan.files:,} files, {plan.bytes / 1e6:,.1f} MB, about {plan.text_bytes / 1e6:,.1f} MB of text"
    )
    table.add_row("tokens", f"about {plan.tokens:,} in {plan.rows:,} rows of {data.length}")
    table.add_row("shards", f"about {plan.shard_bytes / 1e6:,.1f} MB")
    table.add_row("time", f"about {duration(plan.seconds)} on this machine with {plan.workers} processes")
    Terminal().print(table)


def _tokenizer_rows(found: "dict[str, Any]") -> list[tuple[str, str]]:
    """How the tokenizer splits the text, by words or, where words are longer than in most languages, by characters."""
    if not found:
        return []
    per_word, per_character = found["tokens_per_word"], found["tokens_per_character"]
    words = f"{per_word:.2f} tokens per word, {found['words_in_one_token']:.0%} of the words are one token"
    spaced = per_word < 12 * per_character
    return [
        ("words", words if spaced else f"{per_character:.2f} tokens per character"),
        ("longest tokens", " ".join(map(repr, found["longest_tokens"]))),
    ]


def report_table(report: "BuildReport") -> "Table":
    """Return a table of what was read, kept and left out, for a terminal."""
    from rich.table import Table

    table = Table(box=None, show_header=False)
    rows = [
        ("read", f"{report.documents:,} documents, {report.text_bytes / 1e6:,.1f} MB, from {report.files:,} files"),
        *(("data set", source) for source in report.sources if source.startswith("hf://")),
        *report.losses().items(),
        ("vocabulary", f"{report.vocabulary_size:,} tokens, {report.bytes_per_token:.2f} bytes of text per token"),
        *_tokenizer_rows(report.tokenizer),
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
