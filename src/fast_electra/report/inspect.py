"""Results in a terminal: text shaded by suspicion, and the table of a quickstart's results.

Notable:
- colour is never the only cue: tokens that the model classifies as replaced are underlined;
- where there is no colour (a pipe, a file, NO_COLOR) each shaded token is in brackets, and a subscript is the lower end
  of its band in percent: ‹a›₁₀, and ⟦a⟧₉₀ if it is classified as replaced;
- suspicion is the probability that a token was replaced; from 0.5 on the model classifies it as replaced.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.style import Style
from rich.table import Table
from rich.text import Text

from fast_electra.report.figures import decimal, duration, finite, interval, look_up, percent
from fast_electra.report.summary_figures import DIFFERENCES, THRESHOLD, bug_rows, tokens_per_second, total_seconds
from fast_electra.terminal import Terminal

# Black text on these colours is readable on light and dark terminals (contrast over 7). Below the first one nothing is
# shaded.
SHADES = ((0.1, "#fff3c4"), (0.25, "#ffd98a"), (0.5, "#ffb14e"), (0.75, "#ff8f5a"), (0.9, "#ff7a6b"))

_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def render_terminal(tokens: Sequence[tuple[str, float | None]], console: Terminal, most: int = 5) -> None:
    """Print the text with every token shaded by suspicion, a legend, and the places of the most suspicious tokens.

    Args:
        tokens: (text, probability that it was replaced) in order, from `report.tokens.display_tokens`. They cover the
            text exactly; the probability is None for text that belongs to no token.
        console: the terminal.
        most: number of tokens whose places are printed.
    """
    colourless, ascii_only = console.color_system is None or console.no_color, console.options.ascii_only
    shaded = Text(no_wrap=False)
    for text, suspicion in tokens:
        text = _visible(text)
        if colourless:
            shaded.append(_bracketed(text, suspicion, ascii_only))
        else:
            shaded.append(text, _style(suspicion))
    console.print(shaded, soft_wrap=True)

    legend = Text("\nsuspicion  ")
    for bound, _ in SHADES:
        if colourless:
            legend.append(f"  {_bracketed(' ', bound, ascii_only)} from {100 * bound:.0f} %")
        else:
            legend.append(f" from {100 * bound:.0f} % ", _style(bound))
    double = _bracketed(" ", THRESHOLD, ascii_only).rstrip("0123456789_₀₅")
    legend.append(f"   {double if colourless else 'underlined'}: classified as replaced")
    console.print(legend, soft_wrap=True)

    places = [place for place in _places(tokens) if place["suspicion"] is not None]
    for place in sorted(places, key=lambda place: -place["suspicion"])[:most]:
        where = f"line {place['line']}, column {place['column']}"
        console.print(Text.assemble(f"{percent(place['suspicion']):>8}  {where:<24}", repr(place["text"])))


def to_json(tokens: Sequence[tuple[str, float | None]]) -> str:
    """Return the tokens as JSON for tools: `{"tokens": [{text, suspicion, offset, line, column}], "threshold"}`.

    `offset` counts characters from 0, `line` and `column` from 1. Text that belongs to no token has `suspicion: null`.
    The texts concatenate to the whole text. NaN becomes null, because JSON has no NaN.
    """
    return json.dumps({"threshold": THRESHOLD, "tokens": _places(tokens)}, allow_nan=False)


def print_summary_table(summary: Mapping[str, Any], console: Terminal) -> None:
    """Print a quickstart's results (`summary.json`) as tables; a missing figure reads –."""
    table = Table(title="Pre-training", title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("measure, on held-out text")
    table.add_column("result", justify="right")
    table.add_column("compare with", overflow="fold")
    ratio = _ratio(look_up(summary, "auxiliary.masked_accuracy"), look_up(summary, "auxiliary.unigram_accuracy"))
    unigram = percent(look_up(summary, "auxiliary.unigram_accuracy"))
    table.add_row(
        "auxiliary: masked tokens predicted correctly",
        percent(look_up(summary, "auxiliary.masked_accuracy")),
        f"most frequent token: {unigram}" + (f" ({ratio})" if ratio else ""),
    )
    table.add_row(
        "main model: ROC-AUC of replaced-token detection",
        decimal(look_up(summary, "main.rtd_auc")),
        f"chance: 0.500; masked positions only: {decimal(look_up(summary, 'main.rtd_auc_masked'))}",
    )
    table.add_row(
        "masked positions that were replaced",
        percent(look_up(summary, "main.replaced_fraction")),
        f"temperature {decimal(look_up(summary, 'temperature.first'))} to "
        f"{decimal(look_up(summary, 'temperature.last'))}",
    )
    table.add_row(
        "time, all stages",
        duration(total_seconds(summary)),
        f"main model: {decimal(tokens_per_second(summary), 0)} tokens/s",
    )
    console.print(table)

    if task := summary.get("task"):
        console.say((f"\nYour task, {task['name']}", "bold"))
        for sentence in task["sentences"]:
            console.say(sentence)

    for kind in ("operator", "variable"):
        rows = bug_rows(summary, kind)
        if not rows:
            continue
        count = next((row.pairs for row in rows if row.name == "main model"), None)
        title = f"Finding one wrong {kind} in a function, without fine-tuning ({decimal(count, 0)} pairs)"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        table.add_column("")
        for column in ("pair", "95 % interval", "whole function", "AUC", "top 1", "passes"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(
                row.name,
                percent(row.pair),
                interval(row.low, row.high),
                percent(row.whole_function),
                decimal(row.auc),
                percent(row.top1),
                decimal(row.passes, 0),
                style="bold" if row.name == "main model" else "",
            )
        console.print()
        console.print(table)
        for key, name in DIFFERENCES.items():
            difference = look_up(summary, f"downstream.{kind}.{key}")
            if isinstance(difference, Mapping):
                ends = interval(difference.get("low"), difference.get("high"))
                console.say(f"main model minus {name}: {ends} points")


def _ratio(value: Any, baseline: Any) -> str:
    value, baseline = finite(value), finite(baseline)
    return f"{value / baseline:.1f} times that" if value is not None and baseline else ""


def _style(suspicion: float | None) -> Style:
    if suspicion is None:
        return Style()
    colour = next((colour for bound, colour in reversed(SHADES) if suspicion >= bound), None)
    if colour is None:
        return Style()
    return Style(color="#000000", bgcolor=colour, underline=suspicion >= THRESHOLD, bold=suspicion >= THRESHOLD)


def _bracketed(text: str, suspicion: float | None, ascii_only: bool) -> str:
    """A token in brackets with the lower end of its band; below the first band as it is."""
    bound = max((bound for bound, _ in SHADES if suspicion is not None and suspicion >= bound), default=None)
    if bound is None:
        return text
    left, right = ("[[", "]]") if bound >= THRESHOLD else ("<", ">")
    if ascii_only:
        return f"{left}{text}{right}_{100 * bound:.0f}"
    left, right = ("⟦", "⟧") if bound >= THRESHOLD else ("‹", "›")
    return f"{left}{text}{right}{f'{100 * bound:.0f}'.translate(_SUBSCRIPT)}"


def _visible(text: str) -> str:
    """Replace control characters by their pictures (␛), so that a file cannot send commands to the terminal."""
    text = text.replace("\r\n", "\n")
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else "␡" if c == "\x7f" else c for c in text)


def _places(tokens: Sequence[tuple[str, float | None]]) -> list[dict[str, Any]]:
    places: list[dict[str, Any]] = []
    offset, line, column = 0, 1, 1
    for text, suspicion in tokens:
        score = finite(suspicion)
        places.append({"text": text, "suspicion": score, "offset": offset, "line": line, "column": column})
        offset += len(text)
        line += text.count("\n")
        column = len(text) - text.rfind("\n") if "\n" in text else column + len(text)
    return places
