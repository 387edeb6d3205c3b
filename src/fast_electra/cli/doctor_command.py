"""`fast-electra doctor`: says whether a run is learning, and if not, why."""

from pathlib import Path


def doctor(run: Path, /, *, json: bool = False) -> int:
    """Examine a run, finished or not: its curves, settings, weights, auxiliary and data.

    Exit status: 0 if there is no problem (warnings do not count), 1 if there is a problem, 2 if the folder is not a
    run.

    Parameters
    ----------
    run
        The run's folder.
    json
        Print one JSON object on standard output instead of text.
    """
    from dataclasses import asdict

    from rich.table import Table
    from rich.text import Text

    from fast_electra.diagnosis.doctor import examine
    from fast_electra.terminal import Terminal, print_json

    findings = examine(run)
    healthy = all(finding.severity != "problem" for finding in findings)
    if json:
        print_json({"run": str(run), "healthy": healthy, "findings": [asdict(f) for f in findings]})
        return 0 if healthy else 1
    console = Terminal()
    signs = "+-!x" if console.options.ascii_only else "✓–!✗"
    styles = {"ok": "green", "skipped": "dim", "warning": "yellow", "problem": "bold red"}
    marks = {severity: (sign, style) for sign, (severity, style) in zip(signs, styles.items(), strict=True)}
    table = Table(box=None, pad_edge=False)
    for name in ("", "check", "measured", "normal"):
        table.add_column(name, header_style="dim", overflow="fold")
    for finding in findings:
        table.add_row(Text(*marks[finding.severity]), finding.check, finding.measured, finding.normal)
    console.print(table)
    for finding in findings:
        if finding.remedy:
            console.say("\n", marks[finding.severity], " ", (finding.check, "bold"), f": {finding.remedy}.")
    counts = {name: sum(f.severity == name for f in findings) for name in marks}
    console.say(
        f"\n{counts['problem']} problem(s), {counts['warning']} warning(s), {counts['ok']} in order"
        + (f", {counts['skipped']} not checked" if counts["skipped"] else "")
        + (". What each means: docs/is-my-curve-normal.md" if counts["problem"] or counts["warning"] else "")
    )
    return 0 if healthy else 1
