"""Samples against `softmax(l / T)`, by chi-square; the same test fails samplers that are wrong on purpose."""

import pytest
import torch
from scipy.stats import chisquare, entropy

from fast_electra.corruption.sampling import Samples, sample
from fast_electra.data.random import Stream, uniforms

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# Cells of a chi-square test: likely tokens have one each, the others share them with tokens of about their probability.
CELLS = 25


def draw(logits_V: torch.Tensor, temperature: float, sampler=sample, draws: int = 20_000) -> torch.Tensor:
    noise = uniforms(0, Stream.SAMPLING, torch.tensor(0), torch.arange(draws), torch.tensor(3)).to(logits_V.device)
    rows = logits_V[None, :].expand(draws, -1)
    originals = torch.zeros(draws, dtype=torch.int64, device=logits_V.device)
    size = max(1, 2_000_000 // len(logits_V))
    chunks = zip(rows.split(size), noise.split(size), originals.split(size), strict=True)
    return torch.cat([sampler(r, temperature, n, o).tokens_N for r, n, o in chunks]).cpu()


def p_value(tokens: torch.Tensor, logits_V: torch.Tensor, temperature: float) -> float:
    """Chi-square of draws against softmax(l / T), computed in float64; each cell expects ten draws or more."""
    probabilities, order = (logits_V.cpu().double() / temperature).softmax(0).sort(descending=True)
    draws = len(tokens)
    counts = tokens.bincount(minlength=len(order)).double()[order]
    cells = (probabilities.cumsum(0) * CELLS).long().clamp(max=CELLS - 1)
    alone = probabilities * draws >= 10
    cells[alone] = CELLS + torch.arange(int(alone.sum()))
    observed = torch.zeros(int(cells.max()) + 1).double().scatter_add(0, cells, counts)
    expected = torch.zeros_like(observed).scatter_add(0, cells, probabilities * draws)
    small = expected < 10  # the likely tokens' own stretches are empty but for what they left
    observed = torch.cat((observed[~small], observed[small].sum()[None]))
    expected = torch.cat((expected[~small], expected[small].sum()[None]))
    if expected[-1] < 10:  # what is left is too little to be judged
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    return float(chisquare(observed.numpy(), expected.numpy()).pvalue)


def logits_of(vocabulary: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    """Peaked, as a language model's are, with two tokens that are next to certain not to come."""
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 3
    logits[[3, vocabulary // 2]] = torch.tensor([-1e4, -300.0])
    return logits.to(dtype).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("vocabulary", "draws", "temperature"),
    [*((100, 20_000, t) for t in (0.5, 1.0, 2.0, 4.0)), *((50_000, 2_000, t) for t in (0.7, 2.0))],
)
def test_samples_follow_softmax_of_logits_over_temperature(vocabulary, draws, temperature, dtype, device):
    logits = logits_of(vocabulary, dtype, device)
    assert p_value(draw(logits, temperature, draws=draws), logits, temperature) > 1e-4


def slightly_hot(logits_NV, temperature, noise, originals) -> Samples:
    return sample(logits_NV, temperature * 1.15, noise, originals)


def temperature_squared(logits_NV, temperature, noise, originals) -> Samples:
    return sample(logits_NV, temperature**2, noise, originals)


def the_token_behind(logits_NV, temperature, noise, originals) -> Samples:
    right = sample(logits_NV, temperature, noise, originals)
    tokens_N = (right.tokens_N + 1) % logits_NV.shape[1]
    return Samples(tokens_N, right.original_probability_N, right.entropy_N)


def without_temperature(logits_NV, temperature, noise, originals) -> Samples:
    return sample(logits_NV, 1.0, noise, originals)


@pytest.mark.parametrize("wrong", [slightly_hot, temperature_squared, the_token_behind, without_temperature])
@pytest.mark.parametrize(("vocabulary", "draws"), [(100, 20_000), (50_000, 3_000)])
def test_a_wrong_sampler_fails_the_same_test(vocabulary, draws, wrong):
    logits = logits_of(vocabulary)
    assert p_value(draw(logits, 2.0, wrong, draws), logits, 2.0) < 1e-6


def test_extreme_logits_are_sampled_right():
    logits = torch.full((50_000,), -1e4)
    logits[[17, 49_999]] = torch.tensor([300.0, 300.0 - 2.0])
    tokens = draw(logits, 1.0, draws=500)
    assert set(tokens.unique().tolist()) == {17, 49_999}
    share = (tokens == 17).double().mean()
    expected = torch.tensor([2.0, 0.0]).softmax(0)[0]
    assert abs(share - expected) < 5 * (expected * (1 - expected) / 500) ** 0.5


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.full((600,), -torch.inf)
    logits[[5, 300, 599]] = 0.0
    assert set(draw(logits, 1.0, draws=1000).unique().tolist()) == {5, 300, 599}
    edges = torch.tensor([2.0**-54, 1 - 2.0**-53])  # the smallest and the largest uniform there is
    ends = sample(logits[None].expand(2, -1), 1.0, edges.double(), torch.zeros(2, dtype=torch.int64)).tokens_N
    assert ends.tolist() == [5, 599]


def test_low_temperature_is_arg_max_and_high_temperature_uniform():
    logits = torch.randn(64, generator=torch.Generator().manual_seed(2))
    assert (draw(logits, 1e-4, draws=500) == logits.argmax()).all()
    hot = draw(logits, 1e6)
    assert p_value(hot, torch.zeros(64), 1.0) > 1e-4


def test_probability_and_entropy_are_those_of_the_distribution():
    logits = torch.randn(40, 777, generator=torch.Generator().manual_seed(3)) * 4
    originals = torch.arange(40)
    noise = torch.full((40,), 0.5, dtype=torch.float64)
    before = 0.0
    for temperature in (0.7, 1.0, 2.0):
        samples = sample(logits, temperature, noise, originals)
        probabilities = (logits.double() / temperature).softmax(1)
        torch.testing.assert_close(
            samples.original_probability_N.double(), probabilities[originals, originals], rtol=1e-5, atol=1e-12
        )
        expected = torch.from_numpy(entropy(probabilities.numpy(), axis=1))
        torch.testing.assert_close(samples.entropy_N.double(), expected, rtol=1e-5, atol=1e-5)
        assert expected.mean() > before  # entropy rises with the temperature
        before = expected.mean()


def test_the_logits_are_not_written():
    logits = torch.randn(4, 300)
    copy = logits.clone()
    sample(logits, 2.0, torch.full((4,), 0.3, dtype=torch.float64), torch.zeros(4, dtype=torch.int64))
    assert torch.equal(logits, copy)
