"""`fast-electra report`: writes a page with a run's curves and results, or a page that compares several runs."""

from pathlib import Path


def report(*runs: str, out: Path | None = None) -> None:
    """Write the page of a quickstart, of a run or of several runs, and print its path.

    The page of several runs has their figures, the settings that differ, and each curve over updates, tokens, FLOPs
    and time.

    Parameters
    ----------
    runs
        The folder of a quickstart or of a run; or the folders of several runs, to compare them.
    out
        The file to write; default: RUN/report.html, or runs.html in the nearest folder that holds all runs.
    """
    from fast_electra.pipelines.run_page import write_page
    from fast_electra.terminal import Terminal

    say = Terminal(stderr=True).say
    Terminal().say(str(write_page([Path(run) for run in runs], out, say)))
