"""A page compares runs; a plain run's page has its figures and example texts."""

import json
import re
import shutil

import pytest

from fast_electra.cli.main import main
from fast_electra.errors import CheckpointError, ConfigError
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.pipelines.run_page import write_page
from fast_electra.report.headlines import headlines
from fast_electra.report.run_content import report_content
from fast_electra.report.runs_page import runs_content
from fast_electra.runs.folder import load_run
from tests import tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shards, auxiliary):
    """Three finished runs: two main models with different rates, and a longer masked language model."""
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", 1e-3), ("fast", 3e-3)):
        config = tiny.settings(shards, "fast_electra", auxiliary, optimizer__learning_rate=rate)
        pretrain(config, folder / "rates" / name)
    pretrain(tiny.settings(shards, training__updates=16), folder / "mlm")
    return [folder / "rates" / "slow", folder / "rates" / "fast", folder / "mlm"]


def table(content, caption):
    (found,) = [each for each in content["overview"]["tables"] if each.caption.startswith(caption)]
    return {row[0]: dict(zip(found.columns[1:], row[1:], strict=True)) for row in found.rows}


def test_the_table_has_the_figures_of_each_run(runs):
    content = runs_content(runs)
    figures = table(content, "Runs")
    assert list(figures) == ["rates/slow", "rates/fast", "mlm"]
    for path, row in zip(runs, figures.values(), strict=True):
        run = load_run(path)
        last = run.metrics()[-1]
        assert row["updates"] == f"{run.updates} of {run.updates}"
        assert row["tokens"] == f"{last['tokens']:,}"
        assert row["FLOPs"] == f"{run.result['flops']:.1e}"
        for name, value in run.result["validation"].items():
            assert row[name] == f"{value:.4f}"
    assert figures["mlm"]["rtd_auc"] == "–"


def test_only_settings_that_differ_are_listed(runs):
    settings = table(runs_content(runs[:2]), "Settings")
    assert settings == {"optimizer.learning_rate": {"slow": "0.001", "fast": "0.003"}}
    assert table(runs_content(runs), "Settings")["training.updates"]["mlm"] == "16"


def test_every_measure_is_drawn_over_updates_tokens_computation_and_time(runs):
    curves = dict(runs_content(runs)["curves"])
    assert list(curves) == ["Over updates", "Over tokens", "Over FLOPs", "Over minutes of training"]
    for path, field in zip(runs, ("y0", "y1", "y2"), strict=True):
        run = load_run(path)
        for (heading, charts), axis in zip(curves.items(), ("update", "tokens", "flops", "minutes"), strict=True):
            chart = next(chart for chart in charts if chart.key == f"loss-{axis}")
            ends = [row["x"] for row in chart.specification["data"]["values"] if field in row][-1]
            last = run.metrics()[-1]
            wanted = {"update": run.updates, "tokens": last["tokens"], "flops": run.result["flops"]}
            assert axis == "minutes" or ends == wanted[axis], heading


def test_figures_that_cannot_be_compared_are_named(runs, shards, auxiliary, tmp_path):
    assert runs_content(runs)["overview"]["sentences"] == []
    pretrain(tiny.settings(shards, training__seed=1), tmp_path / "other-auxiliary")
    pretrain(tiny.settings(shards, "fast_electra", tmp_path / "other-auxiliary"), tmp_path / "other-main")
    (sentence,) = runs_content([runs[0], tmp_path / "other-main"])["overview"]["sentences"]
    assert "different auxiliaries" in sentence


def test_the_page_of_several_runs_is_written_beside_them(runs, tmp_path, capsys):
    assert main(["report", *map(str, runs)]) == 0
    file = runs[0].parent.parent / "runs.html"
    assert capsys.readouterr().out.strip() == str(file)
    page = file.read_text()
    assert all(name in page for name in ("rates/slow", "rates/fast", "optimizer.learning_rate"))
    assert not re.search(r"\b(src|href)=\"https?:", page)
    embedded = json.loads(re.search(r'id="embedded">(.*?)</script>', page, re.DOTALL)[1])
    assert len(embedded["charts"]) == len(re.findall('class="chart"', page))
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text() == page


def test_wrong_folders_are_named(runs, tmp_path):
    with pytest.raises(ConfigError, match="given twice"):
        write_page([runs[0], runs[1], runs[0].parent / "slow"])
    with pytest.raises(CheckpointError, match="is no run"):
        write_page([runs[0], tmp_path])
    with pytest.raises(ConfigError, match="needs a run"):
        write_page([])


def test_the_page_of_a_plain_run_has_its_figures_and_example_texts(runs, tmp_path):
    summary = report_content(runs[0])["summary"]
    shown = {headline["label"]: headline["value"] for headline in headlines(summary)}
    figures = ["ROC-AUC of replaced-token detection", "tokens seen", "of training", "of memory, without activations"]
    assert list(shown) == figures
    assert "–" not in shown.values()
    assert "masked tokens predicted" in {
        headline["label"] for headline in headlines(report_content(runs[2])["summary"])
    }
    page = write_page([runs[0]], tmp_path / "page.html").read_text()
    assert 'id="snippets"' in page
    assert 'id="snippets"' not in write_page([runs[2]], tmp_path / "mlm.html").read_text()


def test_a_page_without_the_auxiliary_of_its_run_says_so(runs, auxiliary, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(runs[0], copied)
    record = (copied / "run.json").read_text()
    assert str(auxiliary) in record
    hidden = auxiliary.rename(auxiliary.with_name("hidden"))
    said = []
    try:
        write_page([copied], tmp_path / "page.html", said.append)
    finally:
        hidden.rename(auxiliary)
    assert said[0].startswith("the page has no example texts: ")
