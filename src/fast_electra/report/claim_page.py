"""The claim study's results as tables, sentences and dots: for a terminal, in Markdown, and as a page.

Notable:
- one function makes each table, as text, for all three;
- the tables have everything that is in results.json, so sentences can be checked without opening it;
- only decided differences are bold. A seed is a dot, and a mean is a circle on its interval.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from fast_electra.report.figures import MISSING, finite
from fast_electra.report.plots import Specification, to_svg
from fast_electra.report.templating import templates
from fast_electra.report.text_tables import TextTable

Results = Mapping[str, Any]
_SEED, _MEAN = "a seed", "mean and 95 % interval"


def number(value: Any) -> str:
    """A number as results.json has it, or – where there is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return MISSING if finite(value) is None else f"{value:,}".replace("-", "−")


def tables_of(corpus: Results) -> list[TextTable]:
    """All tables of a corpus, the most important first."""
    found = [_scores(corpus), _differences(corpus), _diagnosis(corpus), _runs(corpus)]
    return [*found, _auxiliaries(corpus), _rates(corpus), _speed(corpus)]


def _scores(corpus: Results) -> TextTable:
    rows: list[list[str]] = []
    for contestant in corpus["contestants"]:
        cells = [contestant["scores"].get(question["name"]) for question in corpus["questions"]]
        seeds = max((cell["seeds"] for cell in cells if cell), default=0)
        rows.append([contestant["contestant"], *map(_mean, cells), number(seeds)])
    names = dict.fromkeys(name for found in corpus["baselines"].values() for name in found)
    for name in names:
        scores = [corpus["baselines"].get(question["name"], {}).get(name) for question in corpus["questions"]]
        rows.append([name.replace("_", " "), *map(number, scores), MISSING])
    columns = ["method", *(f"{q['title']}, {q['metric']}" for q in corpus["questions"]), "seeds"]
    return TextTable(f"{corpus['corpus']}: scores in points, mean [95 % interval] over seeds", columns, rows)


def _mean(cell: Results | None) -> str:
    if cell is None:
        return MISSING
    return number(cell["mean"]) + (f" [{number(cell['low'])}, {number(cell['high'])}]" if cell["seeds"] > 1 else "")


def _differences(corpus: Results) -> TextTable:
    titles = {question["name"]: question["title"] for question in corpus["questions"]}
    rows = [
        [
            titles[found["question"]],
            found["contestant"],
            number(found["difference"]),
            f"[{number(found['low'])}, {number(found['high'])}]" if found["seeds"] > 1 else MISSING,
            number(found["detectable"]),
            number(found["seeds"]),
            "decided" if found["decided"] else "not decided",
        ]
        for found in corpus["differences"]
    ]
    strong = frozenset((place, 2) for place, found in enumerate(corpus["differences"]) if found["decided"])
    caption = f"{corpus['corpus']}: points ahead of joint ELECTRA, paired by seed"
    columns = ["question", "method", "difference", "95 % interval", "detectable", "seeds", ""]
    return TextTable(caption, columns, rows, left=2, strong=strong)


def _diagnosis(corpus: Results) -> TextTable:
    rows = [
        [
            run["contestant"],
            number(run["seed"]),
            number(run["updates"]),
            number(run.get("updates_per_second")),
            ", ".join(f"{group} {number(share)}" for group, share in run.get("clipped", {}).items()) or MISSING,
            number(run.get("rtd_auc")),
            number(run.get("findings")),
            number(run.get("temperature")),
            number(run.get("replaced")),
        ]
        for run in corpus["runs"]
    ]
    caption = f"{corpus['corpus']}: diagnosis of each run"
    columns = [
        "method",
        "seed",
        "updates",
        "updates/s",
        "% clipped",
        "rtd_auc",
        "findings",
        "mean T",
        "mean % replaced",
    ]
    return TextTable(caption, columns, rows)


def _runs(corpus: Results) -> TextTable:
    rows = [
        [
            run["contestant"],
            number(run["seed"]),
            number(run["given_seconds"]),
            number(run.get("seconds")),
            *(number(run["scores"].get(question["name"])) for question in corpus["questions"]),
            run["run"],
        ]
        for run in corpus["runs"]
    ]
    columns = ["method", "seed", "seconds given", "taken", *(q["title"] for q in corpus["questions"]), "runs/"]
    return TextTable(f"{corpus['corpus']}: every run, scores in points", columns, rows)


def _auxiliaries(corpus: Results) -> TextTable:
    rows = [
        [
            number(found["seed"]),
            number(found["given_seconds"]),
            number(found["seconds"]),
            number(found["updates"]),
            number(found["masked_accuracy"]),
            number(found["unigram_accuracy"]),
            found["run"],
        ]
        for found in corpus["auxiliaries"]
    ]
    columns = ["seed", "seconds given", "taken", "updates", "% of masked tokens predicted", "unigram baseline", "runs/"]
    return TextTable(f"{corpus['corpus']}: auxiliaries", columns, rows)


def _rates(corpus: Results) -> TextTable:
    factors = list(dict.fromkeys(factor for found in corpus["learning_rates"] for factor in found["scores"]))
    rows = [
        [
            found["method"],
            found["by"],
            *(number(found["scores"].get(factor)) for factor in factors),
            number(found["factor"]),
            number(found["learning_rate"]),
        ]
        for found in corpus["learning_rates"]
    ]
    columns = ["method", "by", *(f"× {factor}" for factor in factors), "chosen", "learning rate"]
    return TextTable(f"{corpus['corpus']}: learning rates, chosen on validation text; points", columns, rows)


def _speed(corpus: Results) -> TextTable:
    rows = [
        [found["what"], number(found["median"]), f"[{number(found['low'])}, {number(found['high'])}]"]
        for found in corpus["calibration"]
    ]
    return TextTable(
        f"{corpus['corpus']}: updates per second, measured in turns", ["", "median", "95 % interval"], rows
    )


# --- In words ---------------------------------------------------------------------------------------------------------


def sentences_of(corpus: Results) -> list[str]:
    """Return one sentence per decided difference, one per question that is not decided, and the cautions."""
    found = [difference["sentence"] for difference in corpus["differences"] if difference["decided"]]
    for question in corpus["questions"]:
        left = [each for each in corpus["differences"] if each["question"] == question["name"] and not each["decided"]]
        if left:
            ahead = "; ".join(f"{each['contestant']} {number(each['difference'])}" for each in left)
            found.append(f"{question['title']}: not decided. Points ahead of joint ELECTRA: {ahead}.")
    several = [difference for difference in corpus["differences"] if difference["seeds"] > 1]
    if len(several) > 1:
        found.append(
            f"The intervals are not corrected for multiple comparisons: if all methods were equal, "
            f"{0.05 * len(several):.1f} of the {len(several)} intervals would be expected to exclude 0."
        )
    return [*found, *_cautions(corpus)]


def _cautions(corpus: Results) -> Iterator[str]:
    name = corpus["corpus"]
    remarked: dict[str, dict[str, list[str]]] = {}
    for run in corpus["runs"]:
        if "failed" in run:
            yield f"{name}: {run['contestant']}, seed {run['seed']}, has no score: {run['failed']}"
        for remark in run.get("remarks", ()):
            remarked.setdefault(remark, {}).setdefault(run["contestant"], []).append(number(run["seed"]))
    for remark, seeds in remarked.items():
        runs = "; ".join(f"{who}, seed{'s' * (len(found) > 1)} {', '.join(found)}" for who, found in seeds.items())
        count = sum(map(len, seeds.values()))
        yield f"{name}, {remark.rstrip('.')} ({count} of {len(corpus['runs'])} runs: {runs})."
    spent = [run["seconds"] / run["given_seconds"] for run in corpus["runs"] if "seconds" in run]
    if spent:
        yield (
            f"{name}: runs took {100 * min(spent):.0f} to {100 * max(spent):.0f} % of their planned seconds, without "
            "validation and checkpoints."
        )
    for found in corpus["learning_rates"]:
        tried = [float(factor) for factor in found["scores"]]
        if len(tried) > 1 and found["factor"] in (min(tried), max(tried)):
            yield f"{name}: the best learning rate of {found['method']} is at the edge of the range that was tried."
    by_check: dict[str, set[str]] = {}
    for run in corpus["runs"]:
        for sentence in run.get("found", ()):
            by_check.setdefault(sentence.partition(":")[0], set()).add(run["contestant"])
    for check, contestants in by_check.items():
        yield f"{name}: `fast-electra doctor` reports {check} in runs of {'; '.join(sorted(contestants))}."
    is_mlm_there = any(run["method"] == "mlm" for run in corpus["runs"])
    if is_mlm_there and any(question["zero_shot"] for question in corpus["questions"]):
        yield (
            f"{name}: without fine-tuning, MLM answers another question than the main models: which token is "
            "likelier at a masked position that is given. So the study does not compare it there."
        )


def notes_of(results: Results) -> list[str]:
    """Return sentences on how the study was done: budget, seeds, methods, models, measures, machine."""
    machine = results["machine"]
    methods = "; ".join(f"{title}: {settings}" for title, settings in results["methods"].items())
    models = "; ".join(
        f"{corpus['corpus']}: {corpus['model']['architecture']}, {number(corpus['model']['layers'])} layers × "
        f"{number(corpus['model']['width'])}, generator and auxiliary {number(corpus['generator_layers'])} layers, "
        f"vocabulary {number(corpus['vocabulary'])}, {number(corpus['tokens']['train'])} tokens for training and "
        f"{number(corpus['tokens']['validation'])} for validation"
        for corpus in results["corpora"]
    )
    return [
        f"Every run trains for {number(results['seconds'])} seconds, converted to updates by its method's measured "
        f"speed. Where the auxiliary is counted, the {number(results['auxiliary_seconds'])} seconds of its training "
        "are subtracted.",
        f"Learning rates were chosen with seed {results['choosing_seed']} in {number(results['choosing_seconds'])} "
        f"seconds each, on validation text of pre-training. The runs have the seeds "
        f"{', '.join(str(seed) for seed in results['seeds'])}, and each seed has its own auxiliary.",
        f"Methods, as settings added to the quickstart's main model with fresh weights: {methods}.",
        f"Models: {models}.",
        "Intervals are Student's t intervals over seeds; a seed changes both pre-training and fine-tuning. detectable: "
        "the smallest true difference that a t-test over these seeds finds about 8 times out of 10 (two-sided, 5 %). "
        "An observed difference below it is never called decided.",
        "rtd_auc is measured with the replacements of one auxiliary, that of the seed which chose the learning rates. "
        "No run trained against it. The runs of Fast-ELECTRA trained against other auxiliaries of the same kind, at "
        "temperature 1 (as in the measurement) or above, so the measurement is closest to their training. findings: "
        "the number of warnings and problems of `fast-electra doctor`. Mean T and mean % replaced: means over the "
        "run's records.",
        f"Machine: {machine['device']}, {machine['precision']}, {number(machine['threads'])} threads; "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + ".",
    ]


# --- As a file --------------------------------------------------------------------------------------------------------


def markdown_of(results: Results) -> str:
    """Return the results as a Markdown page that shows claim.svg from the same folder."""
    lines = ["# Fast-ELECTRA and joint ELECTRA at equal seconds", "", "```sh", results["command"], "```", ""]
    lines += [f"- {note}" for note in notes_of(results)] + ["", "![scores by method](claim.svg)"]
    for corpus in results["corpora"]:
        lines += ["", f"## {corpus['corpus']}", ""]
        lines += [f"- {sentence}" for sentence in sentences_of(corpus)]
        for table in tables_of(corpus):
            lines += ["", f"**{table.caption}**", "", *_markdown_table(table)]
    return "\n".join(lines) + "\n"


def _markdown_table(table: TextTable) -> Iterator[str]:
    yield _markdown_row(table.columns)
    yield _markdown_row(["---" if place < table.left else "---:" for place in range(len(table.columns))])
    for row, cells in enumerate(table.rows):
        yield _markdown_row([f"**{c}**" if (row, place) in table.strong else c for place, c in enumerate(cells)])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def page_of(results: Results) -> str:
    """Return the results as one self-contained HTML page."""
    sentences = [sentence for corpus in results["corpora"] for sentence in sentences_of(corpus)]
    return (
        templates()
        .get_template("evaluation.html.j2")
        .render(
            title="Fast-ELECTRA and joint ELECTRA at equal seconds",
            subtitle="Scores in points, every seed, intervals over pre-training seeds.",
            tables=[table for corpus in results["corpora"] for table in tables_of(corpus)],
            sentences=[*sentences, *notes_of(results)],
            image=Markup(to_svg(chart_of(results), page=True)),
            spoken=" ".join(sentences),
            commands=[results["command"]],
            curve=None,
            details={},
        )
    )


def chart_of(results: Results) -> Specification:
    """Draw a panel for each question: a dot for each seed, and the mean of each method on its interval.

    Returns:
        a Vega-Lite specification without colours, which need `theme()` as its config.
    """
    panels = [_panel(corpus, question) for corpus in results["corpora"] for question in corpus["questions"]]
    schema = "https://vega.github.io/schema/vega-lite/v6.json"
    return {"$schema": schema, "spacing": 24, "vconcat": panels}


def _panel(corpus: Results, question: Results) -> Specification:
    name = question["name"]
    order = [contestant["contestant"] for contestant in corpus["contestants"]]
    seeds = [
        {"method": run["contestant"], "value": run["scores"][name], "what": _SEED}
        for run in corpus["runs"]
        if name in run["scores"]
    ]
    means = [
        {"method": contestant["contestant"], "value": scores["mean"], **_ends(scores), "what": _MEAN}
        for contestant in corpus["contestants"]
        if (scores := contestant["scores"].get(name))
    ]
    y = {"field": "method", "type": "nominal", "title": None, "sort": order, "scale": {"domain": order}}
    # The reader's font may be wider than the one that the drawing is laid out with.
    y["axis"] = {"minExtent": 7 * max(map(len, order), default=0), "labelLimit": 400}
    title = f"{corpus['corpus']}: {question['title']}, {question['metric']}, points"
    x = {"field": "value", "type": "quantitative", "title": title}
    x |= {"scale": {"zero": False, "nice": True, "padding": 12}, "axis": {"grid": True, "tickCount": 6}}
    color = {"field": "what", "type": "nominal", "scale": {"domain": [_MEAN, _SEED]}}
    color["legend"] = {"title": None, "symbolType": "circle", "symbolSize": 90, "symbolStrokeWidth": 0}
    whisker = {
        "data": {"values": [mean for mean in means if "low" in mean]},
        "mark": {"type": "rule", "style": "interval"},
        "encoding": {"y": y, "x": x | {"field": "low"}, "x2": {"field": "high"}, "color": color},
    }
    circle = {
        "data": {"values": means},
        "mark": {"type": "point", "style": "estimate"},
        "encoding": {"y": y, "x": x, "color": color},
    }
    dots = {
        "data": {"values": seeds},
        "mark": {"type": "point", "filled": True, "size": 30, "opacity": 0.9},
        "encoding": {"y": y, "x": x, "color": color},
    }
    return {
        "width": 420,
        "height": {"step": 24},
        "layer": [whisker, circle, dots],
    }


def _ends(scores: Results) -> dict[str, float]:
    return {} if scores["low"] is None else {"low": scores["low"], "high": scores["high"]}
