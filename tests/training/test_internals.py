"""The figures from inside a model are what independent computations give, and their bands tell a broken model."""

import shutil
from typing import Any

import numpy as np
import pytest
import torch

from fast_electra.data.batches import Batch
from fast_electra.diagnosis.doctor import DoctorObserver, examine
from fast_electra.diagnosis.internal_checks import judge
from fast_electra.models.attention import watching_attention
from fast_electra.models.build import Head, build_model, transformers_config
from fast_electra.models.layers import layer_modules
from fast_electra.models.shapes import ShapeConfig
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.metrics import read_metrics
from fast_electra.training.assembly import assemble
from fast_electra.training.internals import (
    InternalsObserver,
    effective_rank,
    measure,
    measure_folder,
    weight_figures,
)
from fast_electra.training.precision import choose_execution
from fast_electra.training.telemetry import QuietObserver
from tests import tiny

LAYERS = 3
ARCHITECTURES = (
    *("modernbert", "electra", "bert", "roberta", "deberta-v2", "mpnet"),
    *("nomic_bert", "eurobert", "distilbert", "albert"),
)


def model_of(architecture: str, head: Head = "mlm"):
    shape = ShapeConfig(architecture=architecture, layers=LAYERS, hidden_size=32, heads=2, intermediate_size=48)
    return build_model(transformers_config(shape, 320, tiny.SPECIAL, 32), head, seed=0)


def rms(values: torch.Tensor) -> float:
    return float(values.detach().square().mean().sqrt())


# The figures


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_shows_every_layer(architecture):
    heads: tuple[Head, ...] = ("mlm", "rtd")
    for head in heads:
        figures = measure(model_of(architecture, head), tiny.batch(padding=3))
        layers = [str(number) for number in range(1, LAYERS + 1)]
        assert list(figures["hidden_rms"]) == ["embedding", *layers]
        assert list(figures["dead_units"]) == layers
        own = architecture in ("mpnet", "deberta-v2")  # they compute attention in a way of their own
        assert list(figures["attention_entropy"]) == ([] if own else layers)
        # A fresh model is sound: states on a norm's scale, attention spread, units alive.
        assert 0.01 < figures["hidden_ratio"] < 1.5
        assert all(value > 0.95 for value in figures["attention_entropy"].values())
        assert not any(figures["dead_units"].values())
        assert figures["layer_weights_rms"] == pytest.approx(0.02, rel=0.5)


def test_hidden_states_and_logits_are_transformers_own():
    model, batch = model_of("bert"), tiny.batch(rows=8)
    figures = measure(model, batch)
    with torch.no_grad():
        output = model.eval()(input_ids=batch.ids, output_hidden_states=True)
    for name, hidden_BSd in zip(figures["hidden_rms"], output.hidden_states, strict=True):
        middle = float(hidden_BSd.square().mean(-1).sqrt().flatten().median())
        assert figures["hidden_rms"][name] == pytest.approx(middle, rel=1e-5)
    logits = output.logits[:, ::8]
    logits = logits - logits.mean(-1, keepdim=True)
    assert figures["logits_rms"] == pytest.approx(rms(logits), rel=1e-4)
    assert figures["logits_largest"] == pytest.approx(float(logits.abs().max()), rel=1e-4)


def test_attention_entropy_is_that_of_the_weights_over_what_is_visible():
    """Sharpened attention, in rows of two documents, beside a plain computation from Transformers' own weights."""
    model, batch = model_of("bert"), tiny.batch()
    with torch.no_grad():
        for layer in layer_modules(model):
            layer.attention.self.query.weight.mul_(100)  # type: ignore[union-attr]
    figures = measure(model, batch, by_document=True)
    seen: list[np.ndarray] = []
    with torch.no_grad(), watching_attention(lambda weights, _: seen.append(weights.numpy())):
        model.eval()(input_ids=batch.ids, attention_mask=batch.documents[:, None], position_ids=batch.positions)
    documents = batch.documents.numpy()
    for number, weights_BHSS in enumerate(seen, start=1):
        shares = []
        for row, heads in enumerate(weights_BHSS):
            for head in heads:
                for place, weights in enumerate(head):
                    visible = (documents[row] == documents[row, place]).sum()
                    assert weights[documents[row] != documents[row, place]].sum() == 0
                    entropy = -sum(w * np.log(w) for w in weights.astype(float) if w > 0)
                    shares.append(entropy / np.log(visible))
        assert figures["attention_entropy"][str(number)] == pytest.approx(np.mean(shares), rel=1e-4)
        assert figures["attention_entropy"][str(number)] < 0.95


def test_the_last_layer_is_seen_before_the_final_norm():
    model, batch = model_of("modernbert"), tiny.batch()
    last = layer_modules(model)[-1]
    with torch.no_grad():
        last.mlp.Wo.weight.mul_(2e5)  # type: ignore[union-attr]
    figures = measure(model, batch)
    with torch.no_grad():
        output = model.eval()(input_ids=batch.ids, output_hidden_states=True)
    assert rms(output.hidden_states[-1]) == pytest.approx(1.0, rel=0.05)  # what Transformers shows is the norm's output
    assert figures["hidden_rms"]["3"] > 20
    (finding,) = [f for f in judge(figures) if f.check == "hidden states"]
    assert finding.severity in ("warning", "problem")
    assert "layer 3" in finding.measured


def test_a_unit_that_is_cut_off_is_dead():
    model = model_of("bert")
    with torch.no_grad():
        for unit in range(12):  # a quarter of 48: what gelu gives far below zero is nothing
            layer_modules(model)[1].intermediate.dense.bias[unit] = -30.0  # type: ignore[union-attr,index]
    assert measure(model, tiny.batch())["dead_units"] == {"1": 0.0, "2": 0.25, "3": 0.0}


def test_effective_rank_counts_directions():
    draw = torch.Generator().manual_seed(0)
    full = torch.randn(20_000, 64, generator=draw)
    assert effective_rank(full) == pytest.approx(64, rel=0.02)
    flat = full[:, :7] @ torch.linalg.qr(torch.randn(64, 7, generator=draw))[0].T
    assert effective_rank(flat + 5.0) == pytest.approx(7, rel=0.02)  # a vector that all share doesn't count
    singular = np.linalg.svd((full * torch.logspace(0, -2, 64)).numpy(), compute_uv=False)
    expected = (singular**2).sum() ** 2 / (singular**4).sum()
    assert effective_rank(full * torch.logspace(0, -2, 64)) == pytest.approx(expected, rel=0.01)


def test_padding_changes_no_figure_and_the_model_is_left_as_it_was():
    model = model_of("bert").train()
    ids = tiny.batch().ids[:, :24]
    longer = torch.nn.functional.pad(ids, (0, 8), value=0)
    figures, padded = (measure(model, Batch.of(i, i == 0)) for i in (ids, longer))
    for name in ("hidden_rms", "attention_entropy", "dead_units"):
        assert padded[name] == pytest.approx(figures[name], rel=1e-4)
    assert padded["token_table_rank"] == pytest.approx(figures["token_table_rank"], rel=1e-4)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in layer_modules(model)[0].modules())


def test_of_a_long_row_the_first_thousand_tokens_are_looked_at():
    model, ids = model_of("nomic_bert"), tiny.batch(rows=1, length=1500).ids
    whole, cut = (measure(model, Batch.of(i, i == 0)) for i in (ids, ids[:, :1024]))
    assert whole == cut


# The bands


@pytest.mark.parametrize(
    ("change", "check", "severity"),
    [
        ({}, "", ""),
        ({"hidden_ratio": 9.0, "hidden_rms": {"embedding": 1.0, "1": 9.0}}, "", ""),
        ({"hidden_ratio": 12.0, "hidden_rms": {"embedding": 1.0, "1": 12.0}}, "hidden states", "warning"),
        ({"hidden_ratio": 76.0, "hidden_rms": {"embedding": 1.0, "1": 76.0}}, "hidden states", "problem"),
        ({"token_table_rank": 1.2}, "token table", "warning"),
        ({"attention_entropy": {"1": 0.04}}, "attention", "warning"),
        ({"dead_units": {"1": 0.5}}, "dead units", "warning"),
        ({"layer_weights_rms": 0.3}, "weights' size", "warning"),
        ({"logits_largest": 90.0}, "logits", "warning"),
    ],
)
def test_a_figure_out_of_its_band_is_told_by_its_check_alone(change, check, severity):
    model, batch = model_of("modernbert"), tiny.batch()
    figures = measure(model, batch, start=weight_figures(model, batch)) | change
    found = {f.check: f.severity for f in judge(figures) if f.severity != "ok"}
    assert found == ({check: severity} if check else {})
    assert len(judge(figures)) == 6
    assert all(bool(f.remedy) == (f.severity != "ok") for f in judge(figures))


# In a run


class Told(QuietObserver):
    """Keeps what it is shown."""

    def __init__(self):
        self.records = []

    def logged(self, record):
        self.records.append(record)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny.make_shards(tmp_path_factory.mktemp("data") / "shards")


def without_clock(folder):
    return [{k: v for k, v in record.items() if k != "timing"} for record in read_metrics(folder / "metrics.jsonl")]


def test_a_run_looks_at_every_twentieth_and_resumed_it_writes_the_same(shards, tmp_path):
    from fast_electra.training.loop import Interrupted

    config = tiny.settings(shards, training__updates=40, training__log_every=1, training__checkpoint_every=14)
    pretrain(config, tmp_path / "whole")
    looks = [r["update"] for r in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "internals" in r]
    assert looks == list(range(2, 41, 2))
    count = iter(range(1000))
    with pytest.raises(Interrupted):
        pretrain(config, tmp_path / "broken", stop=lambda: next(count) == 19)
    pretrain(config, tmp_path / "broken")
    assert without_clock(tmp_path / "broken") == without_clock(tmp_path / "whole")
    # And measured from outside they are the exported model's, but for what the start was.
    parts = assemble(config, choose_execution(config.execution))
    last = read_metrics(tmp_path / "whole" / "metrics.jsonl")[-1]["internals"]["main"]
    again = measure_folder(tmp_path / "whole", parts.validation[0].batch.ids[:32])
    for name, value in again.items():
        assert last[name] == pytest.approx(value, rel=1e-4), name
    assert last["start"]["layer_weights_rms"] != last["layer_weights_rms"]


def test_both_models_of_a_joint_run_are_looked_at(shards, tmp_path):
    generator = {"layers": 1, "hidden_size": 32, "heads": 2, "intermediate_size": 24}
    pretrain(tiny.settings(shards, "electra", objective__generator=generator), tmp_path / "run")
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["internals"]
    assert list(last["main"]["hidden_rms"]) == ["embedding", "1", "2"]
    assert list(last["generator"]["hidden_rms"]) == ["embedding", "1"]
    checked = [f for f in examine(tmp_path / "run") if f.check == "hidden states"]
    assert [("generator" in f.measured, "main" in f.measured) for f in checked] == [(False, True), (True, False)]


def test_an_older_run_is_judged_by_its_exported_model(shards, tmp_path):
    run = tmp_path / "run"
    pretrain(tiny.settings(shards), run)
    figures = next(f for f in examine(run) if f.check == "hidden states")
    tiny.as_version_0_1(run)
    exported = next(f for f in examine(run) if f.check == "hidden states")
    assert exported.measured == figures.measured.replace("update 12", "its exported model")
    shutil.rmtree(run / "model")
    assert not [f for f in examine(run) if f.check == "hidden states"]


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix whose singular values are one, by twelve steps of a cubic iteration."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    x = matrix / matrix.norm()
    for _ in range(12):
        x = 1.5 * x - 0.5 * (x @ x.T) @ x
    return x


def test_the_settings_that_drowned_the_embeddings_are_told_during_training(shards):
    """The quickstart's first settings, whatever the optimizer does today: Muon as Jordan et al. have it, with a rate of
    0.03, a momentum of 0.95 and a decay of 0.01, and Adam at 1e-3 for the rest; the rate rises over 6 % of the run and
    falls to zero."""
    updates, rate, decay, momentum, warmup = 600, 0.03, 0.01, 0.95, 36
    shape: dict[str, Any] = {"main__layers": 4, "main__hidden_size": 48, "main__intermediate_size": 96}
    config = tiny.settings(shards, training__batch_size=4, training__log_every=10, **shape)
    parts = assemble(config, choose_execution(config.execution))
    model = parts.objective.models()["main"]
    said: list[str] = []
    watcher = InternalsObserver(
        {"main": model}, parts.validation[0].batch, False, 10, choose_execution(config.execution)
    )
    doctor = DoctorObserver(config, said.append)
    for observer in (watcher, doctor):
        observer.started(0, updates)
    matrices = [p for layer in layer_modules(model) for p in layer.parameters() if p.ndim == 2]  # type: ignore[arg-type]
    inside = {id(p) for p in matrices}
    adam = torch.optim.AdamW([p for p in model.parameters() if id(p) not in inside], lr=1e-3, weight_decay=0.0)
    buffers = [torch.zeros_like(p) for p in matrices]
    update = 0
    while update < updates and not any(": hidden states:" in sentence for sentence in said):
        prepared = parts.objective.prepare(parts.schedule.at(update), 0)
        total, count = parts.objective.terms(prepared, 0.0, 0).losses["mlm"]
        (total / count).backward()
        now = min(1.0, (update + 1) / warmup, (updates - update) / (updates - warmup))
        with torch.no_grad():
            for matrix, buffer in zip(matrices, buffers, strict=True):
                assert matrix.grad is not None
                buffer.lerp_(matrix.grad, 1 - momentum)
                step = orthogonal(matrix.grad.lerp(buffer, momentum)) * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - rate * now * decay).sub_(rate * now * step)
                matrix.grad = None
        adam.param_groups[0]["lr"] = 1e-3 * now
        adam.step()
        adam.zero_grad()
        update += 1
        if update % 10 == 0:
            record = {"update": update, "tokens": 128 * update, "loss": float(total.detach() / count)}
            for observer in (watcher, doctor):
                observer.logged(record)
    assert update < updates / 2
    sentence = next(s for s in said if ": hidden states:" in s)
    assert sentence.startswith("warning: hidden states: layer 4: root mean square 1")
    assert "lower optimizer.learning_rate or raise optimizer.weight_decay" in sentence


@pytest.mark.slow
def test_a_real_run_with_too_large_steps_is_told_before_it_ends(shards, tmp_path):
    said: list[tuple[int, str]] = []
    changes: dict[str, Any] = {"main__layers": 4, "main__hidden_size": 64, "main__intermediate_size": 128}
    changes |= {"optimizer__learning_rate": 3e-2, "optimizer__weight_decay": 0.0}
    changes |= {"training__updates": 400, "training__checkpoint_every": 400, "training__log_every": 10}
    config = tiny.settings(shards, **changes)
    told = Told()
    doctor = DoctorObserver(config, lambda sentence: said.append((told.records[-1]["update"], sentence)))
    pretrain(config, tmp_path / "run", observers=[told, doctor])
    (update,) = [update for update, sentence in said if ": hidden states:" in sentence]
    assert update < 200
    assert "hidden states" in {f.check for f in examine(tmp_path / "run") if f.severity in ("warning", "problem")}
