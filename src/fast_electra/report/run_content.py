"""Content of a run's page: the stored content of a quickstart, or curves and settings of a single run."""

from pathlib import Path
from typing import Any

from fast_electra.data.files import read_kept_json
from fast_electra.errors import CheckpointError
from fast_electra.report import evaluation_page
from fast_electra.runs.folder import RunFolder

REPORT_FILE = "report.json"


def report_content(run: Path) -> dict[str, Any]:
    """Return the content for `render_page`.

    Raises:
        CheckpointError: the folder is not a run, or has no metrics yet.
        DataError: report.json is damaged.
    """
    evaluation = evaluation_page.report_content(run)
    if kept := read_kept_json(run / REPORT_FILE, "run the same quickstart again, which writes it again"):
        return kept | {"evaluation": evaluation}
    found = RunFolder.find(run)
    if found is None:
        raise CheckpointError(f"{run} is neither a quickstart nor a run: give a folder that one of them wrote.")
    records = found.metrics()
    if not records:
        raise CheckpointError(f"{run} has no metrics yet: let it run for some updates.")
    part = "main" if found.config.objective.detects else "auxiliary"
    last = records[-1]
    seconds = sum(record["timing"]["seconds"] for record in records)
    validations = [r["validation"] for r in records if "validation" in r]
    return {
        "title": f"Run {run.name}",
        "subtitle": f"{found.status}: update {records[-1]['update']:,} of {found.updates:,}",
        "summary": {
            part: validations[-1] if validations else {},
            "run": {
                "updates": last["update"],
                "tokens": last["tokens"],
                "flops": found.flops(last["update"]),
                "memory_bytes": dict(found.memory_bytes),
                "peak_memory_bytes": max(r["timing"].get("peak_memory_bytes", 0) for r in records),
            },
            "timing": {"seconds": {"updates": seconds}, "tokens_per_second": last["tokens"] / (seconds or 1.0)},
        },
        f"{part}_metrics": records,
        "environment": found.environment,
        "config": found.config_text,
        "evaluation": evaluation,
    }
