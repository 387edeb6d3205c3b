"""Rows, batches and updates with nothing to predict, since the tokenizer knows none of their text."""

import json
import math
import random

import pytest
import torch

from fast_electra.cli.main import main
from fast_electra.corruption.adaptive import AdaptiveCurriculum, AdaptiveSchedule
from fast_electra.data import shard_report
from fast_electra.data.shard_building import build_shards
from fast_electra.data.sources import Document
from fast_electra.errors import DataError
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.metrics import read_metrics
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import make_update
from fast_electra.training.precision import Execution
from fast_electra.training.setup import start
from tests import tiny

CPU = Execution(torch.device("cpu"), "float32", torch.float32, 1)
WORDS = [f"w{number}" for number in range(60)]
GENERATOR = {"layers": 1, "hidden_size": 32, "heads": 1, "intermediate_size": 24}


def _build(folder, known: int):
    """Shards of long documents, of which `known` are words of the tokenizer and the others are not."""
    draw = random.Random(0)
    documents = [
        Document(" ".join(draw.choice(WORDS) if n < known else f"x{n}y{i}" for i in range(70)), f"d{n}")
        for n in range(60)
    ]
    draw.shuffle(documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_report, "LARGEST_UNKNOWN", 1.0)
        build_shards(documents, tiny.word_tokenizer(WORDS), folder, tiny.settings(folder).data)
    return folder


@pytest.fixture(scope="module")
def half_unknown(tmp_path_factory):
    return _build(tmp_path_factory.mktemp("half") / "shards", known=30)


@pytest.fixture(scope="module")
def its_auxiliary(half_unknown, tmp_path_factory):
    folder = tmp_path_factory.mktemp("half") / "auxiliary"
    pretrain(_settings(half_unknown, "mlm"), folder)
    return folder


def _settings(shards, kind, auxiliary=None, **changes):
    more = {"training__batch_size": 1, "training__updates": 14, "training__log_every": 1} | changes
    return tiny.settings(shards, kind, auxiliary, **more)


def _masking(kind):
    return {"corruption__masking": {"kind": kind}}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mlm", {"objective__random": 0.1, "objective__kept": 0.1}),
        ("mlm", _masking("whole_word")),
        ("mlm", _masking("span")),
        ("electra", {"objective__generator": GENERATOR}),
        ("fast_electra", {}),
        ("fast_electra", {"objective__corrective_weight": 1.0, "data__attention": "document"}),
        ("fast_electra", {"corruption__schedule": {"kind": "adaptive"}}),
        (
            "fast_electra",
            {"corruption__sampler": "race", "corruption__schedule": {"kind": "linear", "initial": "auto"}},
        ),
        ("fast_electra", {"auxiliary__kind": "ngram"}),
    ],
)
def test_an_update_with_nothing_to_predict_is_no_error(half_unknown, its_auxiliary, tmp_path, kind, changes):
    auxiliary = its_auxiliary if kind == "fast_electra" and "auxiliary__kind" not in changes else None
    result = pretrain(_settings(half_unknown, kind, auxiliary, **changes), tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = [record["loss"] for record in records]
    assert 3 < losses.count(0.0) < len(losses) - 3  # rows of unknown text, and rows of known text
    assert all(math.isfinite(value) for record in records for value in record.values() if isinstance(value, float))
    assert all(math.isfinite(value) for value in result.validation.values())


def test_a_row_with_nothing_to_predict_changes_nothing_for_the_others(half_unknown):
    """The gradient of a batch is that of its rows which have something to predict."""
    parts = assemble(_settings(half_unknown, "mlm", training__batch_size=8, training__updates=4), CPU)
    whole = parts.schedule.at(0)
    empty_B = ~whole.eligible.any(1)
    assert 0 < empty_B.sum() < 8
    gradients = []
    for batch in (whole, parts.schedule.rows.rows(whole.indices[~empty_B], whole.epochs[~empty_B])):
        prepared = parts.objective.prepare(batch, parts.seed)
        (loss, count), *_ = parts.objective.terms(prepared, 0.0, parts.seed).losses.values()
        model = parts.objective.models()["main"]
        model.zero_grad()
        (loss / count).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    # Another number of rows multiplies in another order.
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_an_update_with_nothing_to_predict_has_no_gradient(half_unknown, its_auxiliary):
    config = _settings(half_unknown, "fast_electra", its_auxiliary, training__batch_size=2)
    parts = assemble(config, CPU)
    state, plan = start(config, parts, CPU)
    rows = parts.schedule.rows.rows(torch.arange(parts.schedule.rows.count))
    empty = rows.indices[~rows.eligible.any(1)][:2]
    make_update(state, plan, parts.objective.prepare(parts.schedule.rows.rows(empty), plan.seed), CPU)
    assert state.sums["loss"].tolist() == [0.0, 1.0]
    assert state.sums["gradient_norm"].tolist() == [0.0, 1.0]


def test_an_adaptive_curriculum_learns_nothing_from_an_update_without_masked_tokens():
    curriculum = AdaptiveCurriculum(AdaptiveSchedule())
    before = curriculum.state_dict()
    curriculum.observe({"rtd": 0.3})
    assert curriculum.state_dict() == before


def test_a_cache_may_hold_rows_with_nothing_to_predict(half_unknown, its_auxiliary, tmp_path):
    config = _settings(half_unknown, "fast_electra", its_auxiliary)
    assert build_cache(config, tmp_path / "cache").finished
    online = _settings(half_unknown, "fast_electra", its_auxiliary, corruption__sampler="race")
    cached = _settings(half_unknown, "fast_electra", its_auxiliary, corruption__cache=tmp_path / "cache")
    losses = []
    for name, settings in (("online", online), ("cached", cached)):
        pretrain(settings, tmp_path / name)
        losses.append([record["loss"] for record in read_metrics(tmp_path / name / "metrics.jsonl")])
    assert losses[0] == losses[1]


def test_evaluate_warns_of_texts_that_the_models_tokenizer_does_not_know(its_auxiliary, tmp_path, capsys):
    pairs = [{"sentence_good": f"w{n} w1 x{n}", "sentence_bad": f"w{n} x{n} w1"} for n in range(6)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    options = ["--tasks", "blimp", "--data", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(its_auxiliary), *options]) == 0
    assert "warning: 33% of the tokens of blimp are [UNK]" in capsys.readouterr().err


def test_shards_with_nothing_to_predict_are_refused_before_training(its_auxiliary, tmp_path):
    shards = _build(tmp_path / "shards", known=0)
    for kind, changes in (("mlm", {}), ("electra", {"objective__generator": GENERATOR}), ("fast_electra", {})):
        config = _settings(shards, kind, its_auxiliary if kind == "fast_electra" else None, **changes)
        with pytest.raises(DataError, match=r"no token to predict, only special tokens such as \[UNK\]: build"):
            pretrain(config, tmp_path / kind)
        assert not (tmp_path / kind).exists()
    with pytest.raises(DataError, match="no token to predict"):
        build_cache(_settings(shards, "fast_electra", its_auxiliary), tmp_path / "cache")
