import json
from math import cos, exp, log, pi

import pytest
import torch

from fast_electra.cli.main import main
from fast_electra.config.loading import load_config
from fast_electra.corruption.augmentations import Difficulty, TemperatureAugmentation
from fast_electra.corruption.sampling import sample
from fast_electra.corruption.schedules import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    PolynomialSchedule,
    Schedule,
    ScheduledCurriculum,
    StepwiseSchedule,
)
from fast_electra.corruption.settings import CorruptionConfig
from fast_electra.data.random import Stream, uniforms
from fast_electra.errors import ConfigError
from fast_electra.models.optimizers import AdamWOptimizer
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.report.curves import planned
from fast_electra.runs.metrics import read_metrics
from fast_electra.training.optimizer import learning_rate
from tests import tiny

FALLING = [LinearSchedule, ExponentialSchedule, PolynomialSchedule, CosineSchedule]
SHARES = [u / 100 for u in range(101)]


def schedule(kind: str, **settings: object) -> Schedule:
    return Schedule.kinds[kind].model_validate({**settings})


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as found:
        load_config("quickstart", [f"corruption.{setting}" for setting in overrides])
    return str(found.value)


def test_the_exponential_schedule_is_the_papers():
    papers = ExponentialSchedule(initial=2.0, tau=0.1)
    assert papers.temperature(0.0) == 2.0
    assert papers.temperature(0.1) == pytest.approx(1 + exp(-1))
    assert papers.temperature(1.0) == pytest.approx(1 + exp(-10))


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("constant", {"initial": 1.5}, lambda u: 1.5),
        ("linear", {"initial": 3.0, "final": 1.2}, lambda u: 3.0 - 1.8 * u),
        ("exponential", {"initial": 3.0, "final": 1.2, "tau": 0.3}, lambda u: 1.2 + 1.8 * exp(-u / 0.3)),
        ("polynomial", {"initial": 3.0, "final": 1.2, "power": 3.0}, lambda u: 1.2 + 1.8 * (1 - u) ** 3),
        ("cosine", {"initial": 3.0, "final": 1.2}, lambda u: 1.2 + 0.9 * (1 + cos(pi * u))),
    ],
)
def test_every_schedule_is_its_equation(kind, settings, expected):
    made = schedule(kind, **settings)
    assert [made.temperature(u) for u in SHARES] == pytest.approx([expected(u) for u in SHARES], rel=1e-12)


def test_a_stepwise_schedule_steps_at_its_steps():
    steps = StepwiseSchedule(initial=2.0, steps=[(0.25, 1.5), (0.5, 1.0)])
    assert [steps.temperature(u) for u in (0.0, 0.2499, 0.25, 0.4999, 0.5, 1.0)] == [2.0, 2.0, 1.5, 1.5, 1.0, 1.0]
    assert StepwiseSchedule(initial=1.7, steps=[]).temperature(1.0) == 1.7


@pytest.mark.parametrize("made", [*FALLING, StepwiseSchedule])
def test_every_schedule_falls_from_its_initial_to_its_final_temperature(made):
    values = [made().temperature(u) for u in SHARES]
    assert values[0] == 2.0
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(1.0, abs=1e-4)  # exponential: exp(-10) above


@pytest.mark.parametrize("made", FALLING)
def test_a_temperature_may_rise_where_that_is_asked_for(made):
    values = [made(initial=0.5, final=2.0, falling=False).temperature(u) for u in SHARES]
    assert values == sorted(values)


def test_a_schedule_keeps_no_state_and_does_not_observe():
    curriculum = ScheduledCurriculum(ConstantSchedule(initial=1.5), TemperatureAugmentation())
    curriculum.observe({"rtd_loss_replaced": 9.0})
    assert not curriculum.observes
    assert curriculum.state_dict() == {}
    assert {curriculum.difficulty(u) for u in SHARES} == {Difficulty(1.5)}


@pytest.mark.parametrize(("kind", "field"), [("dropout", "dropout"), ("attention_dropping", "attention_dropping")])
@pytest.mark.parametrize(
    "made", [ConstantSchedule(initial=2.0), *(falling() for falling in FALLING), StepwiseSchedule()]
)
def test_a_strength_falls_as_the_temperature_above_one_does(kind, field, made):
    config = CorruptionConfig.model_validate({"schedule": made, "augmentation": {"kind": kind, "strength": 0.4}})
    curriculum = config.schedule.curriculum(config.augmentation)
    found = [curriculum.difficulty(u) for u in SHARES]
    assert {each.temperature for each in found} == {1.0}
    strengths = [getattr(each, field) for each in found]
    assert strengths[0] == pytest.approx(0.4)
    assert strengths == pytest.approx([0.4 * (made.temperature(u) - 1) for u in SHARES])  # T0 - 1 is 1
    assert curriculum.difficulty(0.0).logged() == {"temperature": 1.0, field: strengths[0]}
    assert Difficulty(1.0).logged() == {"temperature": 1.0}


def test_a_final_temperature_above_one_leaves_a_strength():
    config = CorruptionConfig.model_validate(
        {
            "schedule": {"kind": "linear", "initial": 3.0, "final": 1.5},
            "augmentation": {"kind": "dropout", "strength": 0.4},
        }
    )
    assert config.schedule.curriculum(config.augmentation).difficulty(1.0).dropout == pytest.approx(0.4 * 0.5 / 2.0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            "schedule.initial=0",
            "override corruption.schedule.initial=0: corruption.schedule.initial must be greater than 0 or auto, "
            "not 0.",
        ),
        (
            "schedule.kind=linear schedule.final=-1",
            "override corruption.schedule.final=-1: corruption.schedule.final must be greater than 0, not -1.",
        ),
        (
            "schedule.initial=.inf",
            "override corruption.schedule.initial=.inf: .inf is not a finite number; give a finite one.",
        ),
        (
            "schedule.kind=linear schedule.final=3",
            "override corruption.schedule.final=3: corruption.schedule: the temperature would rise from initial "
            "(2.0) to final (3.0); give falling: false if you want this.",
        ),
        (
            "schedule.kind=stepwise schedule.steps=[[0.5,1.5],[0.2,1.2]]",
            "override corruption.schedule.steps=[[0.5,1.5],[0.2,1.2]]: corruption.schedule: the progress of the steps "
            "must increase, and is 0.5, 0.2.",
        ),
        (
            "schedule.kind=stepwise schedule.steps=[[0.1,1.5],[0.2,1.7]]",
            "override corruption.schedule.steps=[[0.1,1.5],[0.2,1.7]]: corruption.schedule: the temperature would "
            "rise from initial through the steps (2.0, 1.5, 1.7); give falling: false if you want this.",
        ),
        (
            "schedule.kind=stepwise schedule.steps=[[0.1,0]]",
            "override corruption.schedule.steps=[[0.1,0]]: corruption.schedule: the temperatures of the steps must be "
            "greater than 0, and are 0.0.",
        ),
        (
            "schedule.kind=stepwise schedule.steps=[[1.5,1]]",
            "override corruption.schedule.steps=[[1.5,1]]: corruption.schedule: the progress of the steps must lie "
            "between 0 and 1, and is 1.5.",
        ),
        (
            "schedule.kind=adaptive schedule.initial=5",
            "override corruption.schedule.initial=5: corruption.schedule: initial (5.0) must lie between lowest (1.0) "
            "and highest (4.0).",
        ),
        (
            "schedule.tau=0",
            "override corruption.schedule.tau=0: corruption.schedule.tau must be greater than 0, not 0.",
        ),
        (
            "schedule.kind=constant schedule.initial=1 augmentation.kind=dropout",
            "override corruption.schedule.initial=1: corruption: dropout has the share (T - 1) / (T0 - 1) of its "
            "strength at the start: give a schedule.initial (T0) above 1, not 1.0.",
        ),
        (
            "schedule.kind=linear schedule.initial=2 schedule.final=0.5 augmentation.kind=attention_dropping",
            "override corruption.schedule.initial=2: corruption: attention_dropping has the share (T - 1) / (T0 - 1) "
            "of its strength at the start: give temperatures between 1 and schedule.initial (2.0), not 0.5.",
        ),
    ],
)
def test_a_schedule_that_can_not_be_is_refused_in_one_sentence(settings, sentence):
    assert refusal(*settings.split()) == sentence


def test_an_adaptive_schedule_steers_the_temperature_alone():
    assert "corruption: adaptive controls only the temperature; give dropout another schedule.kind" in (
        refusal("schedule.kind=adaptive", "augmentation.kind=dropout")
    )


# The temperature's limits, through the sampler.


def draw(temperature: float, draws: int = 4_000) -> torch.Tensor:
    """Samples of 64 normal logits; the largest, 2.6, is 0.4 above the second."""
    logits = torch.randn(64, generator=torch.Generator().manual_seed(2))
    noise = uniforms(0, Stream.SAMPLING, torch.tensor(0), torch.arange(draws), torch.tensor(3))
    return sample(logits.expand(draws, -1), temperature, noise, torch.zeros(draws, dtype=torch.int64)).tokens_N


def test_the_temperatures_limits_are_arg_max_and_uniform():
    most_likely = torch.randn(64, generator=torch.Generator().manual_seed(2)).argmax()
    for low in (1e-2, 1e-4, 1e-8):
        assert (draw(low) == most_likely).all()
    for high in (1e4, 1e8):
        counts = draw(high).bincount(minlength=64).double()
        statistic = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        assert statistic < 130  # chi-square, 63 degrees of freedom: p = 1e-6


def test_entropy_is_monotone_in_the_temperature_and_ends_at_zero_and_the_uniforms():
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(3)) * 4
    noise, originals = torch.full((50,), 0.5, dtype=torch.float64), torch.zeros(50, dtype=torch.int64)
    temperatures = [1e-4, *(2.0 ** (k / 4) for k in range(-12, 33)), 1e6]
    entropies = torch.stack([sample(logits, t, noise, originals).entropy_N for t in temperatures])
    assert (entropies.diff(dim=0) > -2e-6).all()  # float32's rounding, where a row's entropy is at its end
    assert (entropies[0] < 1e-3).all()
    assert entropies[-1] == pytest.approx(torch.full((50,), log(300)), abs=1e-4)


def test_replacements_entropy_falls_with_every_falling_schedule():
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(3)) * 4
    noise, originals = torch.full((50,), 0.5, dtype=torch.float64), torch.zeros(50, dtype=torch.int64)
    for made in FALLING:
        values = [made().temperature(u / 10) for u in range(11)]
        means = [float(sample(logits, t, noise, originals).entropy_N.mean()) for t in values]
        assert means == sorted(means, reverse=True)


# The curves of a configuration.


def test_a_plan_is_what_a_run_logs(tmp_path, shards, auxiliary):
    config = tiny.settings(shards, "fast_electra", auxiliary, training__log_every=1)
    pretrain(config, tmp_path / "run")
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")
    plan = planned(config, [u / 12 for u in range(12)])
    for name in ("update", "temperature", "learning_rate"):
        assert [record[name] for record in plan] == [record[name] for record in logged]


def test_a_plan_has_what_the_objective_has(shards):
    config = tiny.settings(shards, "fast_electra", training__updates=None, training__tokens=32 * 8 * 7)
    assert config.known_updates == 7
    assert tiny.settings(shards, training__updates=None, training__hours=1.0).known_updates is None
    dropout = config.model_copy(
        update={"corruption": CorruptionConfig.model_validate({"augmentation": {"kind": "dropout"}})}
    )
    adaptive = config.model_copy(
        update={"corruption": CorruptionConfig.model_validate({"schedule": {"kind": "adaptive"}})}
    )
    always = {"share", "update", "learning_rate"}
    assert set(planned(config, [0.0])[0]) == always | {"temperature"}
    assert set(planned(dropout, [0.0])[0]) == always | {"temperature", "dropout"}
    assert set(planned(adaptive, [0.0])[0]) == always
    assert set(planned(tiny.settings(shards), [0.0])[0]) == always


def test_plot_prints_a_table_and_draws_a_file(tmp_path, capsys):
    preset = ["config", "plot", "quickstart", "corruption.schedule.initial=2.0"]
    assert main([*preset, "training.updates=50", "--json"]) == 0
    curves = json.loads(capsys.readouterr().out)["curves"]
    assert (curves[0]["update"], curves[-1]["update"]) == (1, 50)
    assert curves[0]["temperature"] == 2.0
    assert main(preset) == 0
    assert "learning rate" in capsys.readouterr().out
    drawn = [*preset, "--beside", "corruption.schedule.kind=cosine optimizer.warmup=0.2"]
    for suffix, start in ((".svg", b"<svg"), (".png", b"\x89PNG")):
        assert main([*drawn, "--out", str(tmp_path / f"curves{suffix}")]) == 0
        assert (tmp_path / f"curves{suffix}").read_bytes().startswith(start)
    svg = (tmp_path / "curves.svg").read_text()
    for text in ("temperature", "learning rate", "quickstart", "kind=cosine, optimizer.warmup=0.2"):
        assert text in svg


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--out", "curves.pdf"], "must end in .svg or .png"),
        (["--beside", "corruption.schedule.kind=linear"], "give --out"),
        (["--run", "nowhere", "--out", "a.svg"], "nowhere is no run"),
        (["--out", "a.svg", "--beside", "corruption.schedule.kind=lineal"], "did you mean linear?"),
    ],
)
def test_wrong_use_of_plot_is_one_sentence(arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["config", "plot", "quickstart", *arguments]) == 2
    assert part in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "warmup_stable_decay"])
def test_the_learning_rate_warms_up_then_follows_its_schedule(schedule):
    settings = AdamWOptimizer(learning_rate=1e-3, schedule=schedule, warmup=0.1, decay=0.2)
    rates = [learning_rate(settings, update, 100) for update in range(100)]
    assert rates[:10] == pytest.approx([1e-4 * k for k in range(1, 11)])
    assert max(rates) == pytest.approx(1e-3)
    assert all(rate > 0 for rate in rates)  # every update moves
    if schedule == "constant":
        assert rates[-1] == 1e-3
    else:
        assert rates[-1] < 1e-4
    if schedule == "warmup_stable_decay":
        assert rates[79] == 1e-3
        assert rates[80:] == pytest.approx([1e-3 * (100 - u) / 20 for u in range(80, 100)])
