import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fast_electra.corruption.race import RaceKey, gumbel_race


def key(rows: int, seed: int = 0) -> RaceKey:
    zero = torch.zeros(rows, dtype=torch.int64)
    return RaceKey(seed, zero, torch.arange(rows), zero + 3)


def p_value(tokens: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Chi-square test of draws against probabilities, rare tokens taken together."""
    count = np.bincount(tokens.numpy(), minlength=len(probabilities))
    expected = probabilities.double().numpy() * len(tokens)
    common = expected >= 5
    counts = np.append(count[common], count[~common].sum())
    expectations = np.append(expected[common], expected[~common].sum())
    kept = expectations > 0
    assert not counts[~kept].any()  # what can't be drawn wasn't
    return float(chisquare(counts[kept], expectations[kept] * counts.sum() / expectations[kept].sum()).pvalue)


DISTRIBUTIONS = {
    "flat": torch.zeros(100),
    "peaked": torch.tensor([9.0, 4.0] + [0.0] * 48),
    "spread": torch.randn(700, generator=torch.Generator().manual_seed(0)) * 2.5,
    "with impossible tokens": torch.cat((torch.randn(60), torch.full((70,), float("-inf")))),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_one_path_holds_a_sample_of_every_temperatures_distribution(name):
    logits = DISTRIBUTIONS[name]
    rows = 30_000
    path = gumbel_race(logits.expand(rows, -1), key(rows), low=0.8, high=3.0)
    for temperature in (0.8, 1.0, 1.7, 3.0):
        assert p_value(path.at(temperature), (logits / temperature).softmax(0)) > 1e-4
        wrong = (logits / (temperature * 1.3)).softmax(0)
        assert name == "flat" or p_value(path.at(temperature), wrong) < 1e-4  # the test can fail


def test_samples_at_two_temperatures_agree_as_often_as_in_the_dense_race():
    logits, rows = DISTRIBUTIONS["spread"], 30_000
    path = gumbel_race(logits.expand(rows, -1), key(rows), low=1.0, high=3.0)
    noise = -torch.log(-torch.log(torch.rand(rows, len(logits), generator=torch.Generator().manual_seed(1))))
    dense = ((logits / 1.0 + noise).argmax(1) == (logits / 3.0 + noise).argmax(1)).double().mean()
    raced = (path.at(1.0) == path.at(3.0)).double().mean()
    assert float((dense - raced).abs()) < 4 * (0.25 * 2 / rows) ** 0.5


def test_a_path_depends_on_logits_and_key_alone():
    logits = torch.randn(40, 500, generator=torch.Generator().manual_seed(2))
    whole = gumbel_race(logits, key(40), 1.0, 2.0)
    part_key = RaceKey(0, torch.zeros(5, dtype=torch.int64), torch.arange(20, 25), torch.full((5,), 3))
    part = gumbel_race(logits[20:25], part_key, 1.0, 2.0)
    for temperature in (1.0, 1.3, 2.0):
        assert torch.equal(part.at(temperature), whole.at(temperature)[20:25])
    other = gumbel_race(logits, key(40, seed=1), 1.0, 2.0)
    assert not torch.equal(other.at(1.0), whole.at(1.0))


def test_a_narrower_interval_gives_other_noise_but_the_same_distribution():
    logits, rows = DISTRIBUTIONS["spread"], 30_000
    path = gumbel_race(logits.expand(rows, -1), key(rows), low=1.0, high=1.0)
    assert path.tokens_NG.shape[1] == 1  # one temperature, one segment
    assert p_value(path.at(1.0), logits.softmax(0)) > 1e-4


def test_colder_samples_are_likelier_ones():
    logits = torch.randn(200, 300, generator=torch.Generator().manual_seed(3))
    path = gumbel_race(logits, key(200), 0.5, 4.0)
    chosen = logits.gather(1, path.tokens_NG)
    used = path.starts_NG < float("inf")
    assert ((chosen[:, 1:] > chosen[:, :-1]) | ~used[:, 1:]).all()
    assert (path.starts_NG[:, 1:] > path.starts_NG[:, :-1])[used[:, 1:]].all()


def test_a_temperature_outside_the_interval_is_refused():
    path = gumbel_race(torch.randn(2, 50), key(2), 1.0, 2.0)
    with pytest.raises(ValueError, match=r"2\.5 lies outside the path's 1 to 2"):
        path.at(2.5)
