"""`fast-electra report`: a page to look at."""

from pathlib import Path


def report(run: Path, /, *, out: Path | None = None) -> int:
    """Write the page of a quickstart or of a single run.

    Parameters
    ----------
    run
        A quickstart's folder, or a run's.
    out
        Where the page goes; left out: RUN/report.html.
    """
    from fast_electra.data.files import write_text_atomically
    from fast_electra.report.page import render_quickstart_page
    from fast_electra.report.run_content import report_content
    from fast_electra.terminal import Terminal

    target = out or run / "report.html"
    page = render_quickstart_page(report_content(run))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(target, page)
    Terminal().say(str(target))
    return 0
