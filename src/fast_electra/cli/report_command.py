"""`fast-electra report`: writes a page with a run's curves and results."""

from pathlib import Path


def report(run: Path, /, *, out: Path | None = None) -> int:
    """Write the page of a quickstart or of a single run, and print its path.

    Parameters
    ----------
    run
        The folder of a quickstart or of a run.
    out
        The file to write; default: RUN/report.html.
    """
    from fast_electra.data.files import write_text_atomically
    from fast_electra.report.page import render_quickstart_page
    from fast_electra.report.run_content import report_content
    from fast_electra.terminal import Terminal

    target = out or run / "report.html"
    page = render_quickstart_page(report_content(run))
    write_text_atomically(target, page)
    Terminal().say(str(target))
    return 0
