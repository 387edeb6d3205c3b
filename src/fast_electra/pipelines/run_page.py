"""The page of one run, with texts that its auxiliary corrupted and its main model read, or the page of several runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fast_electra.data.files import write_text_atomically
from fast_electra.errors import ConfigError, UserError
from fast_electra.report.page import render_page
from fast_electra.report.run_content import report_content
from fast_electra.report.runs_page import runs_content, shared_folder
from fast_electra.runs.folder import RunFolder
from fast_electra.terminal import Say


def write_page(runs: Sequence[Path], out: Path | None = None, say: Say = lambda _: None) -> Path:
    """Write the page of a quickstart, of a run, or of several runs.

    Args:
        runs: their folders; several are compared.
        out: the file; None: RUN/report.html, or runs.html in the nearest folder that holds all runs.
        say: called with a sentence if a part of the page cannot be made.

    Returns:
        the file.

    Raises:
        ConfigError: there is no run, or one is given twice.
        CheckpointError: a folder is not a run, or has no metrics yet.
    """
    if not runs:
        raise ConfigError("report needs a run: give one folder for its page, or several to compare them.")
    if len(runs) > 1:
        content = runs_content(runs)
        out = out or shared_folder(runs) / "runs.html"
    else:
        content = report_content(runs[0])
        if "snippets" not in content and (run := RunFolder.find(runs[0])):
            content["snippets"] = _examples(run, say)
        out = out or runs[0] / "report.html"
    write_text_atomically(out, render_page(content))
    return out


def _examples(run: RunFolder, say: Say) -> list[dict[str, Any]]:
    """Corrupted rows of held-out text; empty for a run that has none, or whose shards or auxiliary are gone."""
    config = run.config
    if (
        not run.is_finished
        or config.corruption.cache
        or not (config.objective.uses_auxiliary and config.auxiliary.model)
    ):
        return []
    from fast_electra.models.loading import load_model
    from fast_electra.pipelines.quickstart_page import snippets
    from fast_electra.runs.paths import located
    from fast_electra.training.assembly import assemble
    from fast_electra.training.precision import choose_execution

    try:
        parts = assemble(located(config, run), choose_execution(config.execution))
        return snippets(parts, load_model(run.model(), "rtd"))
    except UserError as error:
        say(f"the page has no example texts: {error}")
        return []
