"""`fast-electra doctor`: is a run learning, and if not, why."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def doctor(run: Path, /, *, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Examine a run, finished or not: its curves, settings, weights, auxiliary and data.

    Exit status: 0 when no problem was found (warnings are none), 1 when there is one, 2 for a folder that is no run.

    Parameters
    ----------
    run
        The run's folder.
    json
        Print one JSON object on standard output instead.
    """
    import json as json_module
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from fast_electra.training.doctor import examine

    findings = examine(run)
    healthy = all(finding.severity != "problem" for finding in findings)
    if json:
        print(json_module.dumps({"run": str(run), "healthy": healthy, "findings": [asdict(f) for f in findings]}))
        return 0 if healthy else 1
    marks = {"ok": "[green]✓[/]", "skipped": "[dim]–[/]", "warning": "[yellow]![/]", "problem": "[bold red]✗[/]"}
    table = Table(box=None, pad_edge=False)
    for name in ("", "check", "measured", "normal"):
        table.add_column(name, header_style="dim", overflow="fold")
    for finding in findings:
        table.add_row(marks[finding.severity], finding.check, escape(finding.measured), finding.normal)
    console = Console()
    console.print(table)
    for finding in findings:
        if finding.remedy:
            console.print(f"\n{marks[finding.severity]} [bold]{finding.check}[/]: {finding.remedy}.", highlight=False)
    counts = {name: sum(f.severity == name for f in findings) for name in marks}
    console.print(
        f"\n{counts['problem']} problem(s), {counts['warning']} warning(s), {counts['ok']} in order"
        + (f", {counts['skipped']} not checked" if counts["skipped"] else "")
        + (". What each means: docs/is-my-curve-normal.md" if counts["problem"] or counts["warning"] else ""),
        highlight=False,
    )
    return 0 if healthy else 1
