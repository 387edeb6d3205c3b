"""Make the presets' reference curves from finished runs, and draw them for docs/is-my-curve-normal.md.

    python tools/references.py RUN…   make the references of the presets that the runs belong to, then the picture
    python tools/references.py        only draw the picture from the existing references

Use several runs per preset (seeds, machines, lengths), so that the band shows how much they differ. Give all runs of a
preset in one command, because its file is replaced. The picture is docs/images/reference-curves.svg.
"""

import json
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fast_electra.config.loading import preset_names
from fast_electra.data.files import write_text_atomically
from fast_electra.diagnosis.references import differing, make_reference, references
from fast_electra.errors import UserError
from fast_electra.report.plots import save_svg
from fast_electra.runs.folder import load_run

ROOT = Path(__file__).parent.parent
CURVES = ROOT / "src" / "fast_electra" / "diagnosis" / "reference_curves"
PICTURE = ROOT / "docs" / "images" / "reference-curves.svg"
CHARTS = (
    ("quickstart-auxiliary", "loss", "auxiliary: MLM loss, nats"),
    ("quickstart-auxiliary", "masked_accuracy", "auxiliary: masked accuracy, training"),
    ("quickstart", "loss", "main model: RTD loss, nats"),
    ("quickstart", "validation.rtd_auc", "main model: ROC-AUC, validation"),
)


def main(runs: list[Path]) -> int:
    """Write the references of the presets that `runs` belong to, then the picture; return the exit status."""
    by_preset = defaultdict(list)
    for run in runs:
        config = load_run(run).config
        preset = next((name for name in preset_names() if not differing(name, config)), None)
        if preset is None:
            print(f"error: the settings of {run} are not those of any preset: give runs of presets", file=sys.stderr)
            return 2
        by_preset[preset].append(run)
    for preset, group in by_preset.items():
        target = CURVES / f"{preset}.json"
        # One line per curve, so that a diff shows which curve changed.
        made = asdict(make_reference(preset, group))
        curves = ",\n".join(
            f"  {json.dumps(field)}: {json.dumps(curve)}" for field, curve in made.pop("curves").items()
        )
        head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in made.items())
        write_text_atomically(target, f'{{\n{head},\n "curves": {{\n{curves}\n }}\n}}\n')
        print(f"{target.relative_to(ROOT)}: {len(group)} runs")
    references.cache_clear()
    save_svg(picture(), PICTURE)
    print(PICTURE.relative_to(ROOT))
    return 0


def picture() -> dict[str, Any]:
    """Four curves with their bands, as a Vega-Lite specification without colours."""
    charts = [_chart(preset, field, title) for preset, field, title in CHARTS]
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "vconcat": [{"hconcat": charts[:2], "spacing": 40}, {"hconcat": charts[2:], "spacing": 40}],
        "spacing": 30,
    }


def _chart(preset: str, field: str, title: str) -> dict[str, Any]:
    found = references()[preset]
    curve = found.curves[field]
    bands = [found.band(field, tokens) for tokens in curve["tokens"]]
    rows = [
        {"tokens": tokens / 1e6, "value": middle, "low": band[0], "high": band[1]}
        for tokens, middle, band in zip(curve["tokens"], curve["middle"], bands, strict=True)
        if band
    ]
    x = {"field": "tokens", "type": "quantitative", "title": "million tokens", "axis": {"tickCount": 5}}
    y = {"type": "quantitative", "title": title, "scale": {"zero": False}, "axis": {"tickCount": 5}}
    band = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}
    return {
        "width": 300,
        "height": 170,
        "data": {"values": rows},
        "layer": [
            {"mark": {"type": "area", "opacity": 0.2}, "encoding": band},
            {"mark": {"type": "line", "style": "series"}, "encoding": {"x": x, "y": y | {"field": "value"}}},
        ],
    }


if __name__ == "__main__":
    try:
        sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
