from math import exp

import pytest

from fast_electra.config.tree import ConstantSchedule, ExponentialSchedule, OptimizerConfig
from fast_electra.corruption.schedules import TemperatureCurriculum, temperature
from fast_electra.training.optimizer import learning_rate


def test_the_exponential_schedule_is_the_papers():
    schedule = ExponentialSchedule(initial=2.0, tau=0.1)
    assert temperature(schedule, 0.0) == 2.0
    assert temperature(schedule, 0.1) == pytest.approx(1 + exp(-1))
    assert temperature(schedule, 1.0) == pytest.approx(1 + exp(-10))
    values = [temperature(schedule, u / 100) for u in range(101)]
    assert values == sorted(values, reverse=True)


def test_the_constant_schedule_is_constant():
    curriculum = TemperatureCurriculum(ConstantSchedule(initial=1.5))
    assert {curriculum.difficulty(u / 10).temperature for u in range(11)} == {1.5}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "warmup_stable_decay"])
def test_the_learning_rate_warms_up_then_follows_its_schedule(schedule):
    settings = OptimizerConfig(learning_rate=1e-3, schedule=schedule, warmup=0.1, decay=0.2)
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
