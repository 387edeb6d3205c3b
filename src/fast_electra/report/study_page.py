"""A study's results as sentences and tables: for a terminal, as a page, and as Markdown, LaTeX or CSV.

Notable:
- one function makes each table, for all formats;
- only decided differences are bold; a figure of one seed is marked with *.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fast_electra.report.figures import MISSING, decimal, duration, power
from fast_electra.report.study_charts import SPENT, curve_charts, dot_charts, figure, heat_maps, setting_text
from fast_electra.report.text_tables import TextTable

Results = Mapping[str, Any]


def study_content(results: Results) -> dict[str, Any]:
    """The content of a study's page, for `page.render_page`."""
    groups = [("Every seed", dot_charts(results)), ("Two settings", heat_maps(results))]
    groups += [(f"Over {title}", curve_charts(results, axis, title)) for axis, title in SPENT.items()]
    return {
        "title": results["title"],
        "subtitle": results["question"],
        "answer": sentences_of(results),
        "overview": {"tables": tables_of(results), "sentences": notes_of(results)},
        "curves": [(heading, charts) for heading, charts in groups if charts],
        "repeat": results["command"],
    }


# --- In words ---------------------------------------------------------------------------------------------------------


def sentences_of(results: Results) -> list[str]:
    """The answer: one sentence for each measure, then what is missing, failed, or to be known about the runs."""
    found: list[str] = []
    for measure in results["measures"]:
        own = [each for each in results["differences"] if each["measure"] == measure["name"]]
        if own:
            found.append(_answer(results, measure, own))
    if results["missing"]:
        shown = ", ".join(results["missing"][:5]) + (" and others" if len(results["missing"]) > 5 else "")
        found.append(f"{len(results['missing'])} runs have no result yet: {shown}.")
    found += [
        f"{name} failed and is tried again by the same command: {why}" for name, why in results["failures"].items()
    ]
    for entry in results["tuned"]:
        if entry.get("at_edge"):
            found.append(f"{entry['row']}: the chosen {entry['key']} is at the edge of what was tried.")
    return [*found, *results["cautions"]]


def _answer(results: Results, measure: Results, own: Sequence[Results]) -> str:
    """The decided differences of a measure in words, and the largest one that is not decided."""
    title, reference = measure["title"], results["reference"]
    decided = [each for each in own if each["decided"]]
    said = [f"{each['row']} {_signed(each['difference'])} {_interval(each)}" for each in decided]
    left = len(own) - len(decided)
    if not decided:
        largest = max(own, key=lambda each: abs(each["difference"]))
        ends = f" {_interval(largest)}" if largest["seeds"] > 1 else ""
        return (
            f"{title}: no difference from {reference} is decided; the largest is that of {largest['row']}, "
            f"{_signed(largest['difference'])}{ends}, {_seeds(largest['seeds'])}."
        )
    rest = f"; {left} others are not decided" if left > 1 else "; the other one is not decided" if left else ""
    return f"{title}, difference from {reference}: decided for {', '.join(said)}{rest}."


def notes_of(results: Results) -> list[str]:
    """How the study was done: budget, seeds, statistics."""
    notes: list[str] = []
    if budget := results["budget"]:
        unit = next(unit for unit in ("updates", "tokens", "flops", "seconds") if unit in budget)
        shown = power(budget[unit]) if unit == "flops" else f"{budget[unit]:,.10g}"
        whole = "with the stages that it uses" if budget["stages"] == "counted" else "without the stages that it uses"
        name = "FLOPs" if unit == "flops" else unit
        notes.append(
            f"Each run has {shown} {name}, {whole}."
            + (
                " Seconds became updates by the speed of each method, which was measured once, in turns."
                if unit == "seconds"
                else ""
            )
        )
    seeds = results["seeds"]
    listed = ", ".join(map(str, seeds))
    notes.append(
        f"{_seeds(len(seeds))} of pre-training: {listed}. A score is a mean over seeds with Student's 95 % interval; "
        "* marks a single seed."
    )
    if len(seeds) > 1:
        notes.append(
            "Differences are paired by seed. A difference is decided if its p-value after Holm's correction over all "
            "differences of the measure is below 0.05, and if it is not below the minimal detectable difference "
            "(two-sided, 5 %, found 8 times out of 10)."
        )
    return notes


# --- Tables -----------------------------------------------------------------------------------------------------------


def tables_of(results: Results) -> list[TextTable]:
    """All tables, the most important first."""
    found = [_scores(results), _differences(results), _trials(results), _runs(results)]
    return [table for table in found if table.rows]


def _scores(results: Results) -> TextTable:
    measures = results["measures"]
    decided = {(each["row"], each["measure"]) for each in results["differences"] if each["decided"]}
    rows: list[list[str]] = []
    strong: set[tuple[int, int]] = set()
    for number, row in enumerate(results["rows"]):
        cells = [_mean(row["scores"][measure["name"]]) for measure in measures]
        strong |= {(number, place + 1) for place, m in enumerate(measures) if (row["row"], m["name"]) in decided}
        diverged = f", {row['diverged']} diverged" if row["diverged"] else ""
        rows.append([row["row"], *cells, f"{row['seeds']}{diverged}"])
    for name, scores in results["baselines"].items():
        rows.append([name.replace("_", " "), *(decimal(scores.get(m["name"]), 1) for m in measures), MISSING])
    columns = ["", *(measure["title"] for measure in measures), "seeds"]
    return TextTable("Scores, mean [95 % interval] over seeds", columns, rows, strong=frozenset(strong))


def _mean(cell: Results) -> str:
    if cell["mean"] is None:
        return MISSING
    shown = figure(cell["mean"])
    return f"{shown} [{figure(cell['low'])}, {figure(cell['high'])}]" if cell["seeds"] > 1 else f"{shown}*"


def _differences(results: Results) -> TextTable:
    titles = {measure["name"]: measure["title"] for measure in results["measures"]}
    several = len({each["reference"] for each in results["differences"]}) > 1
    rows = [
        [
            titles[each["measure"]],
            each["row"],
            *([each["reference"]] if several else []),
            _signed(each["difference"]),
            _interval(each) if each["seeds"] > 1 else MISSING,
            figure(each["detectable"]),
            decimal(each["p_corrected"], 3),
            str(each["seeds"]),
            "decided" if each["decided"] else "not decided",
        ]
        for each in results["differences"]
    ]
    left = 3 if several else 2
    strong = frozenset((number, left) for number, each in enumerate(results["differences"]) if each["decided"])
    columns = ["measure", "", *(["against"] if several else []), "difference", "95 % interval", "detectable"]
    columns += ["p, corrected", "seeds", "verdict"]
    caption = f"Differences from {results['reference']}, paired by seed"
    return TextTable(caption, columns, rows, left=left, strong=strong)


def _trials(results: Results) -> TextTable:
    rows = [
        [
            entry["row"],
            *(f"{setting_text(trial['value'])}: {figure(trial['score'])}" for trial in entry["trials"]),
            setting_text(entry.get("chosen")),
        ]
        for entry in results["tuned"]
    ]
    first = results["tuned"][0] if rows else {"key": "", "by": "", "seed": 0, "trials": []}
    columns = ["", *(f"trial {number + 1}" for number in range(len(first["trials"]))), "chosen"]
    return TextTable(f"{first['key']}, chosen by {first['by']} with seed {first['seed']}", columns, rows)


def _runs(results: Results) -> TextTable:
    rows = [
        [
            run["row"],
            str(run["seed"]),
            *(figure(run["scores"].get(measure["name"])) for measure in results["measures"]),
            decimal(run["updates"], 0),
            decimal(run["tokens"], 0),
            power(run["flops"]),
            power(run["flops_with_stages"]),
            duration(run["seconds"]),
            str(len(run["findings"])),
            run["name"],
        ]
        for run in results["runs"]
    ]
    measures = (measure["title"] for measure in results["measures"])
    links = {
        (n, len(row) - 1): run["page"]
        for n, (row, run) in enumerate(zip(rows, results["runs"], strict=True))
        if run["page"]
    }
    spent = ["updates", "tokens", "FLOPs", "FLOPs with stages", "time of updates"]
    return TextTable("Every run", ["", "seed", *measures, *spent, "findings of doctor", "folder"], rows, links=links)


def as_text(tables: Sequence[TextTable], form: str) -> str:
    """Tables as Markdown, LaTeX (booktabs) or CSV."""
    write = {"markdown": _markdown, "latex": _latex, "csv": _csv}[form]
    return "\n".join("\n".join(write(table)) + "\n" for table in tables)


def _markdown(table: TextTable) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    yield f"**{table.caption}**"
    yield ""
    yield line(table.columns)
    yield line(["---" if place < table.left else "---:" for place in range(len(table.columns))])
    for row, cells in enumerate(table.rows):
        yield line([f"**{cell}**" if (row, place) in table.strong else cell for place, cell in enumerate(cells)])


def _latex(table: TextTable) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        return f"{' & '.join(map(_escaped, cells))} \\\\"

    alignment = "".join("l" if place < table.left else "r" for place in range(len(table.columns)))
    yield f"% {table.caption}"
    yield f"\\begin{{tabular}}{{{alignment}}}"
    yield "\\toprule"
    yield line(table.columns)
    yield "\\midrule"
    for row, cells in enumerate(table.rows):
        marked = [
            f"\\textbf{{{_escaped(c)}}}" if (row, place) in table.strong else _escaped(c)
            for place, c in enumerate(cells)
        ]
        yield f"{' & '.join(marked)} \\\\"
    yield "\\bottomrule"
    yield "\\end{tabular}"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--"}
    return re.sub(r"[\\~^−–&%$#_{}]", lambda found: special.get(found[0], f"\\{found[0]}"), text)


def _csv(table: TextTable) -> Iterator[str]:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", *table.columns])
    writer.writerows([table.caption, *row] for row in table.rows)
    yield file.getvalue().rstrip("\n")


def _signed(value: float) -> str:
    text = figure(value)
    return text if text.startswith("−") else f"+{text}"


def _interval(each: Results) -> str:
    return f"[{figure(each['low'])}, {figure(each['high'])}]"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"
