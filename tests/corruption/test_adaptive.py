import json
import random
from math import exp, log
from pathlib import Path

import pytest

from fast_electra.corruption.adaptive import AdaptiveCurriculum, AdaptiveSchedule
from fast_electra.corruption.settings import CorruptionConfig
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.report.curves import schedule_chart
from fast_electra.runs.metrics import read_metrics
from fast_electra.training.loop import Interrupted
from tests import tiny

Metrics = dict[str, float]


class Plant:
    """A main model that learns: difficulty level(k) · T^-sensitivity, observed with noise on few tokens."""

    def __init__(self, sensitivity: float, learning: float, seed: int = 0, level: float = 1.2, masked: int = 150):
        self.sensitivity, self.learning, self.level, self.masked = sensitivity, learning, level, masked
        self.draw = random.Random(seed)

    def difficulty(self, update: int, temperature: float) -> float:
        """Without noise; the first updates are of an untrained model, too hard at any temperature."""
        level = self.level * exp(-self.learning * update) + exp(-update / 10)
        return level * temperature**-self.sensitivity

    def metrics(self, update: int, temperature: float) -> Metrics:
        """What the objective would log: replaced tokens are the hard ones, and at high temperatures nearly all."""
        replaced = sum(self.draw.random() < 1 - 0.375 * temperature**-3 for _ in range(self.masked))
        found = {"replaced_fraction": replaced / self.masked}
        for name, share, count in (("replaced", 1.96, replaced), ("kept", 0.04, self.masked - replaced)):
            if count:
                noise = self.draw.gauss(0, 0.8 / count**0.5)  # 7 % of d at 150 tokens, as measured
                found[f"rtd_loss_{name}"] = share * self.difficulty(update, temperature) * exp(noise)
        return found


def follow(plant: Plant, updates: int, **settings: object) -> tuple[list[float], list[float]]:
    """Temperatures and true difficulties of a run."""
    curriculum = AdaptiveCurriculum(AdaptiveSchedule.model_validate(settings))
    temperatures, difficulties = [], []
    for update in range(updates):
        temperatures.append(curriculum.difficulty(update / updates).temperature)
        difficulties.append(plant.difficulty(update, temperatures[-1]))
        curriculum.observe(plant.metrics(update, temperatures[-1]))
    return temperatures, difficulties


def windows(values: list[float], size: int = 50) -> list[float]:
    """Means of consecutive stretches."""
    return [sum(values[k : k + size]) / size for k in range(0, len(values) - size + 1, size)]


@pytest.mark.parametrize("sensitivity", [0.4, 0.7, 1.0, 1.5])
@pytest.mark.parametrize("learning", [0.0, 0.0005, 0.002])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_target_is_held_within_five_percent_wherever_a_temperature_in_bounds_can_reach_it(
    sensitivity, learning, seed
):
    plant = Plant(sensitivity, learning, seed)
    temperatures, difficulties = follow(plant, 600, target=0.75)
    judged = 0
    for first in range(100, 600, 50):  # settled after 100 updates
        span = range(first, first + 50)
        if all(plant.difficulty(k, 4.0) <= 0.75 <= plant.difficulty(k, 1.0) for k in span):
            assert sum(difficulties[first : first + 50]) / 50 == pytest.approx(0.75, rel=0.05)
            judged += 1
    assert judged >= 2
    assert all(1.0 <= t <= 4.0 for t in temperatures)


def test_a_target_out_of_reach_ends_at_a_bound_and_winds_nothing_up():
    easy, _ = follow(Plant(0.7, 0.01), 400, target=0.7)  # soon learnt: as hard as it gets
    assert easy[-1] == 1.0
    hard = Plant(0.7, 0.0, level=9.0)
    curriculum = AdaptiveCurriculum(AdaptiveSchedule(target=0.7))
    for update in range(500):
        curriculum.observe(hard.metrics(update, curriculum.difficulty(0).temperature))
    assert curriculum.difficulty(0).temperature == 4.0
    hard.level = 0.5
    for update in range(500, 530):  # log 4 at a rate of 0.1 · 0.4 takes 35 updates, were the average there at once
        curriculum.observe(hard.metrics(update, curriculum.difficulty(0).temperature))
    assert curriculum.difficulty(0).temperature < 2.0


def test_a_falling_temperature_never_rises():
    temperatures, difficulties = follow(Plant(0.7, 0.001), 600, target=0.7, falling=True)
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[0] == 2.0
    # Until T = 1 is reached, after update 500, learning takes it along; what chance lowered too far it makes good.
    assert windows(difficulties)[1:10] == pytest.approx([0.7] * 9, rel=0.05)


@pytest.mark.parametrize("memory", [0.0, 0.8, 0.95, 0.99])
def test_no_memory_makes_it_oscillate(memory):
    temperatures, _ = follow(Plant(0.7, 0.0), 3000, target=0.75, memory=memory)
    expected = (1.2 / 0.75) ** (1 / 0.7)
    assert windows(temperatures, 200)[5:] == pytest.approx([expected] * 10, rel=0.05)


def test_updates_without_replaced_or_without_kept_tokens_are_borne():
    curriculum = AdaptiveCurriculum(AdaptiveSchedule(target=0.5))
    curriculum.observe({"replaced_fraction": 1.0, "rtd_loss_replaced": 0.4})  # nothing known of kept ones yet
    assert curriculum.difficulty(0).temperature < 2.0
    curriculum.observe({"replaced_fraction": 0.5, "rtd_loss_replaced": 0.4, "rtd_loss_kept": 0.1})
    state = curriculum.state_dict()
    curriculum.observe({"replaced_fraction": 1.0, "rtd_loss_replaced": 0.4})
    after = curriculum.state_dict()
    means = [each["kept_loss"] / each["kept_count"] for each in (state, after)]
    assert means[0] == pytest.approx(0.1)
    assert means[1] == pytest.approx(0.1)  # what was known of kept tokens stands
    curriculum.observe({"replaced_fraction": 0.0, "rtd_loss_kept": 0.1})
    assert curriculum.state_dict()["replaced_loss"] > 0


def test_few_tokens_count_as_few():
    curriculum = AdaptiveCurriculum(AdaptiveSchedule(target=0.5))
    for _ in range(20):
        curriculum.observe({"replaced_fraction": 0.5, "rtd_loss_replaced": 0.9, "rtd_loss_kept": 0.1})
    before = curriculum.difficulty(0).temperature
    curriculum.observe({"replaced_fraction": 0.99, "rtd_loss_replaced": 0.9, "rtd_loss_kept": 9.0})
    # 0.2 · 0.01 of the weight beside 0.8 · 0.5: the average of kept tokens moves by 0.5 % of the distance.
    assert log(curriculum.difficulty(0).temperature / before) == pytest.approx(0.1 * 0.0222 / 0.5, rel=0.2)


def test_only_an_adaptive_curriculum_observes():
    config = CorruptionConfig.model_validate({"schedule": {"kind": "adaptive", "initial": 3.0}})
    adaptive = config.schedule.curriculum(config.augmentation)
    assert adaptive.observes
    assert adaptive.difficulty(0.7).temperature == 3.0


def test_its_state_goes_through_json_bit_for_bit():
    plant = Plant(0.7, 0.001)
    curriculum = AdaptiveCurriculum(AdaptiveSchedule())
    for update in range(30):
        curriculum.observe(plant.metrics(update, curriculum.difficulty(0).temperature))
    again = AdaptiveCurriculum(AdaptiveSchedule())
    again.load_state_dict(json.loads(json.dumps(curriculum.state_dict())))
    for update in range(30, 60):
        metrics = plant.metrics(update, curriculum.difficulty(0).temperature)
        curriculum.observe(metrics)
        again.observe(metrics)
        assert again.difficulty(0) == curriculum.difficulty(0)


def adaptive_run(folder: Path, shards: Path, auxiliary: Path, stop_after: int | None = None) -> list[dict]:
    config = tiny.settings(
        shards, "fast_electra", auxiliary, training__updates=12, training__log_every=1, training__micro_batch_size=4
    )
    corruption = CorruptionConfig.model_validate({"schedule": {"kind": "adaptive", "target": 0.6}})
    asked = iter(range(100))
    pretrain(
        config.model_copy(update={"corruption": corruption}),
        folder,
        stop=(lambda: next(asked) + 1 >= stop_after) if stop_after else (lambda: False),
    )
    return [{k: v for k, v in r.items() if k != "timing"} for r in read_metrics(folder / "metrics.jsonl")]


def test_a_killed_run_goes_on_with_the_same_temperatures_bit_for_bit(tmp_path, shards, auxiliary):
    whole = adaptive_run(tmp_path / "whole", shards, auxiliary)
    for cut in (3, 5):
        with pytest.raises(Interrupted):
            adaptive_run(tmp_path / "parts", shards, auxiliary, stop_after=cut)
    parts = adaptive_run(tmp_path / "parts", shards, auxiliary)
    assert [r["temperature"] for r in parts] == [r["temperature"] for r in whole]
    assert parts == whole
    assert len({r["temperature"] for r in whole}) > 6  # it moved
    assert whole[0]["temperature"] == 2.0  # a record holds the temperature that its update was made with
    curriculum = AdaptiveCurriculum(AdaptiveSchedule(target=0.6))
    for record in whole:
        assert record["temperature"] == pytest.approx(curriculum.difficulty(0).temperature, rel=1e-6)
        curriculum.observe(record)
    # The run's curve can be drawn: temperature, difficulty with its target, learning rate.
    config = tiny.settings(shards, "fast_electra", auxiliary)
    adaptive = CorruptionConfig.model_validate({"schedule": {"kind": "adaptive"}})
    chart = schedule_chart({"tiny": config.model_copy(update={"corruption": adaptive})}, whole)
    assert len(chart["vconcat"]) == 3
    assert "target" in json.dumps(chart)
