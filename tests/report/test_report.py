import io
import json
import re
import subprocess
import sys

import pytest

from fast_electra.evaluation.comparison import Comparison
from fast_electra.evaluation.contests import Contest
from fast_electra.report.evaluation_charts import Dot, difference_chart, dot_chart, without_shared_folders
from fast_electra.report.figures import decimal, duration, interval, percent
from fast_electra.report.inspect import print_summary_table, render_terminal, to_json
from fast_electra.report.page import render_page
from fast_electra.report.plots import (
    Estimate,
    Series,
    interval_chart,
    line_chart,
    save_png,
    save_svg,
    series_of,
    smooth,
    theme,
    thin,
)
from fast_electra.report.summary_figures import bug_rows
from fast_electra.report.tokens import decode_pieces, display_tokens
from fast_electra.terminal import Terminal

HOSTILE = "<script>alert('owned')</script><img src=x onerror=alert(1)>\"'&</pre>"


def scores(pair: float) -> dict:
    return {"pair": pair, "low": pair - 0.02, "high": pair + 0.02, "n": 2000, "auc": 0.75, "top1": 0.2}


SUMMARY = {
    "auxiliary": {"masked_accuracy": 0.52, "unigram_accuracy": 0.19},
    "main": {"rtd_auc": 0.831, "rtd_auc_masked": 0.727, "replaced_fraction": 0.45},
    "downstream": {
        "operator": {
            "model": scores(0.642) | {"pair_whole_function": 0.61},
            "frequency_table": scores(0.471),
            "untrained": scores(0.48),
            "auxiliary": scores(0.684)
            | {"passes_per_function": 87.4, "n_every_token": 60, "model_auc_same_functions": 0.7},
            "model_minus_table": {"mean": 0.171, "low": 0.14, "high": 0.2},
        }
    },
    "temperature": {"first": 2.0, "last": 1.0},
    "timing": {"seconds": {"auxiliary": 170.0, "main": 250.0}, "tokens_per_second": {"main": 18400}},
}


def records(count: int = 60) -> list[dict]:
    training = [
        {
            "update": 10 * number,
            "loss": 1 / number,
            "temperature": 1 + 1 / number,
            "gradient_norm": 0.5,
            "clipped": number % 4 == 0,
            "timing": {"tokens_per_second": 18000 + number},
        }
        for number in range(1, count + 1)
    ]
    validation = {"rtd_auc": 0.8, "rtd_auc_masked": 0.7, "loss": 0.3, "unigram_accuracy": 0.2, "masked_accuracy": 0.5}
    looks = [{"update": u, "internals": {"main": {"hidden_rms": {"embedding": 1.0, "1": u / 100}}}} for u in (200, 400)]
    return [*training, *looks, {"update": 10 * count, "validation": validation}]


CONTENT = {
    "title": "Quickstart",
    "summary": SUMMARY,
    "auxiliary_metrics": records(),
    "main_metrics": [*records(), {"update": 610, "loss": float("nan")}],
    "stages": [{"name": "corpus", "seconds": 5.0, "found": HOSTILE}],
    "cost": [{"part": "main training", "flops": 1.3e14, "seconds": 221.0}],
    "snippets": [
        {
            "tokens": [
                {"text": HOSTILE, "masked": True, "replaced": True, "original": HOSTILE, "probability": 0.9},
                {"text": "\n\tx", "masked": True, "replaced": False, "original": "\n\tx", "probability": 0.2},
            ]
        }
    ],
    "bugs": [
        {
            "kind": "operator",
            "source": "package/module.py",
            "original": "<",
            "replacement": ">=",
            "tokens": [
                {"text": "a", "suspicion": 0.1, "changed": False},
                {"text": " >=", "suspicion": 0.6, "changed": True},
                {"text": " b", "suspicion": 0.8, "changed": False},
            ],
        }
    ],
    "sentences": {"most": [{"text": HOSTILE, "source": HOSTILE, "suspicion": -3.456}], "least": []},
    "usage_code": f"print({HOSTILE!r})",
    "config": "seed: 0",
    "environment": {"torch": HOSTILE},
}


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(CONTENT)


def without_scripts(page: str) -> str:
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    assert not re.search(r"<script\b[^>]*\ssrc=", page)
    loading = r"""<(?:link|img|iframe|source|object)\b[^>]*\s(?:src|href|data)=(?!["']?data:)"""
    assert not re.search(loading, without_scripts(page))
    assert not re.search(r"@import|url\(", without_scripts(page))
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", without_scripts(page))


def test_hostile_text_stays_text(page: str) -> None:
    visible = without_scripts(page)
    assert "<script" not in visible
    assert "<img" not in visible
    assert "&lt;script&gt;alert(" in visible
    assert len(re.findall(r"<script\b", page)) == 4  # the data, Vega, the page's own, the tables'


def test_the_embedded_data_are_valid_json_without_nan(page: str) -> None:
    match = re.search(r'<script type="application/json" id="embedded">(.*?)</script>', page, re.DOTALL)
    assert match
    charts = json.loads(match.group(1), parse_constant=pytest.fail)["charts"]
    assert {"pairs-operator", "main-loss", "main-auc", "temperature", "auxiliary-loss", "throughput"} <= set(charts)
    columns = charts["main-loss"]["spec"]["data"]["columns"]
    assert len({len(column) for column in columns.values()}) == 1


def test_every_chart_is_readable_without_scripts_and_with_a_screen_reader(page: str) -> None:
    figures = re.findall(r'<figure class="chart".*?</figure>', page, re.DOTALL)
    assert len(figures) == 10
    for figure in figures:
        assert "<svg" in figure
        assert re.search(r'aria-label="[^"]{20,}"', figure)
    assert "from 1 to 0.01667" in page  # the spoken line of a loss: its first and last value
    assert "Hidden states by layer: after update 200 from 1 to 2; after update 400 from 1 to 4." in page


def test_white_space_of_tokens_is_kept_and_ranks_are_counted(page: str) -> None:
    assert ">\n\tx</span></pre>" in page
    assert "rank 2 of 3 tokens by suspicion" in page
    assert "mean logit −3.46" in page
    assert "1 of 1 replaced tokens detected, 0 false alarms" in page


def test_a_page_of_nothing_but_a_title_has_no_empty_parts() -> None:
    page = render_page({"title": "Half a run"})
    visible = without_scripts(page)
    assert "<section id=" not in visible
    assert 'class="headlines"' not in visible


def test_charts_render_to_svg_and_png_with_plain_colours(tmp_path) -> None:
    chart = line_chart(
        [series_of(records(), "loss", "training"), series_of(records(), "validation.loss", "held-out text")],
        y_title="nats",
        smoothing=0.05,
        logarithmic=True,
        reference={"chance": 0.7},
    )
    save_svg(chart, tmp_path / "chart.svg")
    svg = (tmp_path / "chart.svg").read_text()
    assert "held-out text" in svg
    assert "chance" in svg
    assert "var(--" not in svg
    assert "NaN" not in svg
    rows = interval_chart([Estimate("b", 2.0, 1.0, 3.0), Estimate("a", 1.0)], x_title="s", percent=False)
    save_png(rows, tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_specifications_hold_no_colour_and_the_page_theme_only_variables() -> None:
    chart = line_chart([Series("a", [1, 2], [1.0, 2.0])], y_title="y")
    assert not re.search(r"#[0-9a-f]{6}", json.dumps(chart))
    assert not re.search(r"#[0-9a-f]{6}", json.dumps(theme(page=True)))


def test_rows_stand_in_the_order_given() -> None:
    chart = interval_chart([Estimate("z", 0.6), Estimate("a", 0.5)], x_title="pairs")
    assert chart["layer"][0]["encoding"]["y"]["sort"] == ["z", "a"]


def test_thinning_keeps_ends_and_spikes() -> None:
    y = [0.0] * 10_000
    y[5_432] = 7.0
    x, kept = thin(list(range(10_000)), y, 100)
    assert len(x) <= 100
    assert (x[0], x[-1], max(kept)) == (0, 9_999, 7.0)


def test_smoothing_neither_lags_nor_bends_a_constant() -> None:
    assert smooth([2.0, None, 2.0, 2.0], 3) == [pytest.approx(2.0), None, pytest.approx(2.0), pytest.approx(2.0)]
    middle = smooth([float(value) for value in range(101)], 5)[50]
    assert middle == pytest.approx(50.0, abs=0.05)  # symmetric, but for what the two ends cut off (0.5 ** 10 of it)


def test_display_tokens_cover_the_text_exactly() -> None:
    text = " naïve  ☃x\n"
    offsets = [(0, 0), (1, 6), (8, 9), (8, 9), (9, 10), (0, 0)]  # the snowman's bytes are in two tokens
    pieces = display_tokens(text, offsets, [0.9, 0.1, 0.2, 0.7, 0.3, 0.9])
    assert "".join(piece.text for piece in pieces) == text
    assert pieces == [(" ", None), ("naïve", 0.1), ("  ", None), ("☃", 0.7), ("x", 0.3), ("\n", None)]
    assert display_tokens("abc", [], []) == [("abc", None)]
    assert display_tokens("", [], []) == []


def test_decoded_pieces_cover_the_decoded_text_exactly() -> None:
    data = "a☃ b".encode()
    pieces = decode_pieces(list(data), lambda ids: bytes(ids).decode(errors="replace"))
    assert len(pieces) == len(data)
    assert "".join(pieces) == "a☃ b"
    assert pieces == ["a", "", "", "☃", " ", "b"]
    assert decode_pieces([], lambda ids: "") == []


def test_suspicious_tokens_are_marked_without_colour_where_there_is_none() -> None:
    output = io.StringIO()
    render_terminal([("if a ", 0.1), (">=", 0.93), (" b\x1b[2J\n", None)], Terminal(file=output, width=80))
    text = output.getvalue()
    assert "‹if a ›₁₀⟦>=⟧₉₀ b␛[2J" in text  # and no file can send commands to the terminal
    assert "\x1b" not in text
    assert "93.0" in text
    assert "line 1, column 6" in text


def test_bands_of_suspicion_are_readable_without_colour(monkeypatch) -> None:
    tokens = [("a", 0.05), ("b", 0.3), ("c", 0.6), ("d", 0.8)]
    monkeypatch.setenv("NO_COLOR", "1")
    output = io.StringIO()
    render_terminal(tokens, Terminal(file=output, width=80, force_terminal=True, color_system="truecolor"))
    assert "a‹b›₂₅⟦c⟧₅₀⟦d⟧₇₅\n" in output.getvalue()
    assert "⟦ ⟧: classified as replaced" in output.getvalue()
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    render_terminal(tokens, Terminal(file=output, width=80))
    output.flush()
    assert b"a<b>_25[[c]]_50[[d]]_75\n" in output.buffer.getvalue()


def test_shaded_text_in_a_terminal_keeps_every_character() -> None:
    output = io.StringIO()
    tokens = [("def f(a):\n    return ", 0.05), ("[bold]a", 0.8), (" - 1\n", 0.3)]
    render_terminal(tokens, Terminal(file=output, width=80, force_terminal=True, color_system="truecolor"))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())
    assert plain.startswith("def f(a):\n    return [bold]a - 1\n")


def test_json_tokens_concatenate_and_know_their_places() -> None:
    found = json.loads(to_json([("a\nb", 0.5), ("c", float("nan"))]), parse_constant=pytest.fail)
    assert "".join(token["text"] for token in found["tokens"]) == "a\nbc"
    assert found["tokens"][1] == {"text": "c", "suspicion": None, "offset": 3, "line": 2, "column": 2}


def test_the_table_prints_missing_values_as_a_dash() -> None:
    output = io.StringIO()
    console = Terminal(file=output, width=120)
    print_summary_table({}, console)
    print_summary_table({"downstream": {"operator": {"model": {"pair": None, "n": 5}}}}, console)
    assert output.getvalue().count("–") >= 10
    assert "None" not in output.getvalue()
    assert "nan" not in output.getvalue()


def test_the_table_shows_the_figures_with_their_baselines() -> None:
    output = io.StringIO()
    print_summary_table(SUMMARY, Terminal(file=output, width=120))
    text = output.getvalue().replace("\u00a0", " ")
    for figure in (
        "52.0 %",
        "19.0 %",
        "2.7 times",
        "0.831",
        "64.2 %",
        "[62.2, 66.2]",
        "47.1 %",
        "87",
        "7 min 00 s",
        "18,400",
    ):
        assert figure in text


def test_figures_are_written_one_way() -> None:
    assert percent(0.6234) == "62.3\u00a0%"
    assert percent(float("nan")) == percent(None) == percent("x") == "–"
    assert decimal(18400.4, 0) == "18,400"
    assert interval(0.541, None) == "–"
    assert [duration(value).replace("\u00a0", " ") for value in (3.44, 59.7, 492, 3900)] == [
        "3.4 s",
        "1 min 00 s",
        "8 min 12 s",
        "1 h 05 min",
    ]
    assert next(row.name for row in bug_rows(SUMMARY, "operator")) == "main model"


def test_names_in_charts_leave_out_the_folders_that_all_share() -> None:
    assert without_shared_folders(["/tmp/runs/a", "/tmp/runs/b/c"]) == ["a", "b/c"]
    assert without_shared_folders(["runs/a", "google/electra"]) == ["runs/a", "google/electra"]
    assert without_shared_folders(["a", "a"]) == ["a", "a"]


def test_axes_of_scores_and_differences_do_not_exaggerate() -> None:
    close = dot_chart([Dot("task", "a", 70.0), Dot("task", "b", 70.4)], ["a", "b"])
    low, high = close["encoding"]["x"]["scale"]["domain"]
    assert high - low == 10
    far = dot_chart([Dot("task", "a", 50.0), Dot("task", "b", 70.4)], ["a", "b"])
    assert "domain" not in far["encoding"]["x"]["scale"]
    one = Comparison("x/a", "x/b", "accuracy", 0.4, -0.2, 1.0, None, (1, 1), True, 100)
    contest = Contest("task", "small", "dev", "accuracy", [None, None], [[0.5], [0.6]], {(0, 1): one})
    chart = difference_chart([contest])
    assert chart is not None
    (row,) = chart["data"]["values"]
    assert (row["name"], row["value"], row["low"], row["high"], row["kind"]) == ("a − b", 0.4, -0.2, 1.0, "beside it")
    scales = [layer["encoding"]["x"]["scale"] for layer in chart["layer"] if "field" in layer["encoding"]["x"]]
    assert all(scale["domain"] == [-5.5, 5.5] for scale in scales)
    assert difference_chart([]) is None


def test_a_report_of_a_run_waits_for_no_import_that_it_does_not_need(auxiliary, tmp_path):
    program = (
        "import sys; from fast_electra.cli.main import main; "
        f"main(['report', {str(auxiliary)!r}, '--out', {str(tmp_path / 'page.html')!r}]); "
        "print(sorted({'torch', 'sklearn', 'scipy.stats', 'seqeval', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "page.html").exists()
