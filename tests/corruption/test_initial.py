"""`corruption.schedule.initial=auto`: the temperature that a run starts at follows from its auxiliary's entropy."""

import json
from math import log

import numpy as np
import pytest
import torch

from fast_electra.cli.main import main
from fast_electra.config.loading import load_config
from fast_electra.config.printing import dump_config
from fast_electra.config.tree import Config
from fast_electra.corruption.adaptive import AdaptiveSchedule
from fast_electra.corruption.initial import (
    LARGEST_SHARE,
    TEMPERATURES,
    entropies,
    initial_temperature,
    where_entropy_is,
)
from fast_electra.corruption.masking import mask_random_tokens
from fast_electra.corruption.settings import CorruptionConfig
from fast_electra.errors import ConfigError
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.metrics import read_metrics
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import Interrupted
from tests import tiny
from tests.training.test_training import CPU, run, weights

V = 16_384


def settings(shards, auxiliary, schedule: dict | None = None, **corruption) -> Config:
    corruption["schedule"] = {"initial": "auto"} | (schedule or {"kind": "exponential", "tau": 0.5})
    tree = tiny.settings(shards, "fast_electra", auxiliary).model_dump()
    tree["corruption"] |= CorruptionConfig.model_validate(corruption).model_dump()
    return Config.model_validate(tree)


class Given:
    """An auxiliary whose logits are the same everywhere."""

    def __init__(self, logits_V: torch.Tensor):
        self.logits_V = logits_V

    def logits(self, batch, masked, difficulty):
        return self.logits_V.expand(masked.positions_BM.numel(), -1)

    def modules(self):
        return []


def zipf(exponent: float) -> torch.Tensor:
    """Logits of p ∝ rank^-exponent behind five special tokens."""
    logits_V = -exponent * torch.arange(-4, V - 4).clamp(min=1).double().log()
    logits_V[:5] = float("-inf")
    return logits_V


def chosen(logits_V: torch.Tensor) -> float:
    rows = tiny.batch(rows=2, padding=5)
    return initial_temperature(Given(logits_V), [(rows, mask_random_tokens(rows, 0.15, 0))], V - 5)


def test_the_entropies_are_the_plain_ones():
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(0)) * 3
    logits[:, :5] = float("-inf")
    plain = [0.0] * len(TEMPERATURES)
    for number, at in enumerate(TEMPERATURES):
        for row in logits[:, 5:].double().numpy() / at:
            p = np.exp(row) / np.exp(row).sum()
            plain[number] -= float((p * np.log(p)).sum())
    assert entropies(logits) == pytest.approx(plain, rel=1e-5)
    assert (np.diff(entropies(logits)) > 0).all()


@pytest.mark.parametrize(
    ("exponent", "entropy", "expected"),
    [
        # The entropy at T = 1, from a strong auxiliary's to one that knows little more than that tokens differ.
        (2.5, 1.02, 2.0),
        (2.0, 1.64, 1.98),
        (1.5, 3.12, 1.48),
        (1.1, 6.01, 1.09),
        (0.9, 7.72, 1.0),
    ],
)
def test_a_strong_auxiliary_starts_near_two_and_a_weak_one_just_above_one(exponent, entropy, expected):
    logits_V = zipf(exponent)
    assert entropies(logits_V[None])[0] == pytest.approx(entropy, abs=0.01)
    assert chosen(logits_V) == pytest.approx(expected, abs=0.011)


def test_the_entropy_at_the_start_is_the_stated_share_of_that_of_even_draws():
    for exponent in (1.2, 1.4, 1.7, 1.9):
        found = chosen(zipf(exponent))
        p = (zipf(exponent)[5:] / found).softmax(0)
        # Half of a hundredth in T, and what is lost by interpolation
        assert float(-(p * p.log()).sum()) / log(V - 5) == pytest.approx(LARGEST_SHARE, abs=0.005)


def test_even_draws_start_at_one_and_certain_ones_at_two():
    assert chosen(torch.zeros(V)) == 1.0
    certain = torch.zeros(V)
    certain[7] = 100.0
    assert chosen(certain) == 2.0
    assert where_entropy_is(1.5, TEMPERATURES) == 1.5


@pytest.mark.parametrize(
    "schedule",
    [
        {"kind": "exponential"},
        *(pytest.param({"kind": kind}, marks=pytest.mark.slow) for kind in ("linear", "polynomial", "cosine")),
        {"kind": "adaptive"},
    ],
)
def test_a_run_writes_the_number_into_its_configuration_and_repeats_by_it(schedule, tmp_path, shards, auxiliary):
    config = settings(shards, auxiliary, schedule)
    pretrain(config, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["requested"]["corruption"]["schedule"]["initial"] == "auto"
    resolved = load_config(tmp_path / "run" / "config.yaml")
    number = resolved.corruption.schedule.initial
    assert record["resolved"]["corruption"]["schedule"]["initial"] == number
    assert isinstance(number, float)
    assert 1.0 <= number <= 2.0
    assert number == round(number, 2)
    if schedule["kind"] != "adaptive":
        assert resolved.corruption.schedule.temperature(0.0) == pytest.approx(number)
    pretrain(resolved, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(tmp_path / "run")
    assert not pretrain(config, tmp_path / "run").fresh  # either configuration is the run's own
    assert not pretrain(resolved, tmp_path / "run").fresh


def test_a_resumed_run_goes_on_with_its_number_and_chooses_none(tmp_path, shards, auxiliary, monkeypatch):
    config = settings(shards, auxiliary)
    run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "parts", stop_after=5)
    monkeypatch.setattr("fast_electra.training.assembly.initial_temperature", lambda *_: 1.99)
    run(config, tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    whole, parts = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [record["temperature"] for record in parts] == [record["temperature"] for record in whole]


def test_a_cache_knows_the_number_that_its_auxiliary_gave(tmp_path, shards, auxiliary):
    config = settings(shards, auxiliary, sampler="race")
    build_cache(config, tmp_path / "cache")
    cached = settings(shards, None, cache=tmp_path / "cache")
    pretrain(cached, tmp_path / "cached")
    pretrain(config, tmp_path / "online")
    assert weights(tmp_path / "cached") == weights(tmp_path / "online")
    numbers = [load_config(tmp_path / n / "config.yaml").corruption.schedule.initial for n in ("cached", "online")]
    assert numbers[0] == numbers[1]
    narrow = settings(shards, auxiliary, sampler="race", race_interval=(1.0, 1.5))
    with pytest.raises(ConfigError, match=r"goes from 2 to .*outside of corruption.race_interval"):
        assemble(narrow, CPU)


def test_an_adaptive_schedule_keeps_it_between_its_bounds():
    for found, expected in ((1.2, 1.5), (1.7, 1.7), (1.9, 1.8)):
        config = CorruptionConfig(schedule=AdaptiveSchedule(initial="auto", lowest=1.5, highest=1.8))
        assert config.with_initial(found).schedule.initial == expected
    given = CorruptionConfig(schedule=AdaptiveSchedule(initial=1.6))
    assert given.with_initial(1.2) == given


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["kind=constant", "initial=auto"], "auto is possible only for schedules that fall to final"),
        (["kind=stepwise", "initial=auto"], "give a number here"),
        (["final=1.5", "initial=auto"], "give a final of at most 1, not 1.5"),
        (["initial=hot"], "corruption.schedule.initial must be a number or auto, not hot."),
    ],
)
def test_where_auto_can_not_be_it_is_refused_in_one_sentence(overrides, sentence):
    with pytest.raises(ConfigError) as found:
        load_config("electra-small", [f"corruption.schedule.{override}" for override in overrides])
    assert sentence in str(found.value)
    with pytest.raises(ConfigError, match=r"give schedule.initial \(T0\) as a number, not auto"):
        load_config("electra-small", ["corruption.schedule.initial=auto", "corruption.augmentation.kind=dropout"])


def test_commands_work_on_a_configuration_with_auto(tmp_path, shards, auxiliary, capsys):
    config = settings(shards, auxiliary)
    (tmp_path / "my.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "my.yaml") == config
    assert main(["config", "show", str(tmp_path / "my.yaml")]) == 0
    assert "initial: auto" in capsys.readouterr().out
    assert main(["config", "plot", str(tmp_path / "my.yaml"), "--json"]) == 0
    printed = capsys.readouterr()
    assert "chosen when the run starts" in printed.err
    assert set(json.loads(printed.out)["curves"][0]) == {"share", "update", "learning_rate"}
    assert main(["config", "plot", str(tmp_path / "my.yaml"), "--out", str(tmp_path / "a.svg")]) == 0
    assert main(["cost", str(tmp_path / "my.yaml"), "--json"]) == 0
    pretrain(config, tmp_path / "run")
    capsys.readouterr()
    assert main(["config", "plot", str(tmp_path / "run" / "config.yaml"), "--json"]) == 0
    assert "temperature" in json.loads(capsys.readouterr().out)["curves"][0]
    assert main(["doctor", str(tmp_path / "run")]) in (0, 1)
