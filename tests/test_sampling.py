import pytest
import torch
from scipy.stats import chisquare, entropy

from fast_electra.corruption.sampling import sample
from fast_electra.data.random import Stream, uniforms

DRAWS = 20_000


def draw(logits_V: torch.Tensor, temperature: float, sampler=sample) -> torch.Tensor:
    noise = uniforms(0, Stream.SAMPLING, torch.tensor(0), torch.arange(DRAWS), torch.tensor(3))
    rows = logits_V[None, :].expand(DRAWS, -1)
    originals = torch.zeros(DRAWS, dtype=torch.int64)
    chunks = zip(rows.split(2_000), noise.split(2_000), originals.split(2_000), strict=True)
    return torch.cat([sampler(r, temperature, n, o).tokens_N for r, n, o in chunks])


def p_value(tokens: torch.Tensor, logits_V: torch.Tensor, temperature: float) -> float:
    """Chi-square of draws against softmax(l / T), computed in float64; rare tokens share a cell."""
    probabilities = (logits_V.double() / temperature).softmax(0)
    counts = tokens.bincount(minlength=len(probabilities)).double()
    common = probabilities * DRAWS >= 10
    observed = torch.cat((counts[common], counts[~common].sum()[None]))
    expected = torch.cat((probabilities[common], probabilities[~common].sum()[None])) * DRAWS
    if expected[-1] < 10:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    return float(chisquare(observed.numpy(), expected.numpy()).pvalue)


@pytest.mark.parametrize("vocabulary", [100, 1000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_follow_softmax_of_logits_over_temperature(vocabulary, temperature, dtype):
    logits = (torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    assert p_value(draw(logits, temperature), logits, temperature) > 1e-4


def test_a_wrong_sampler_fails_the_same_test():
    logits = torch.randn(100, generator=torch.Generator().manual_seed(1)) * 3

    def slightly_hot(logits_NV, temperature, noise, originals):
        return sample(logits_NV, temperature * 1.1, noise, originals)

    assert p_value(draw(logits, 1.0, slightly_hot), logits, 1.0) < 1e-6


def test_extreme_logits_are_sampled_right():
    logits = torch.full((50_000,), -1e4)
    logits[[17, 49_999]] = torch.tensor([300.0, 300.0 - 2.0])
    tokens = draw_few(logits, 2_000)
    assert set(tokens.unique().tolist()) == {17, 49_999}
    share = (tokens == 17).double().mean()
    expected = torch.tensor([2.0, 0.0]).softmax(0)[0]
    assert abs(share - expected) < 5 * (expected * (1 - expected) / 2_000) ** 0.5


def draw_few(logits_V: torch.Tensor, draws: int) -> torch.Tensor:
    noise = uniforms(0, Stream.SAMPLING, torch.tensor(0), torch.arange(draws), torch.tensor(3))
    parts = [
        sample(logits_V[None, :].expand(len(n), -1), 1.0, n, torch.zeros(len(n), dtype=torch.int64)).tokens_N
        for n in noise.split(500)
    ]
    return torch.cat(parts)


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.full((600,), -torch.inf)
    logits[[5, 300, 599]] = 0.0
    assert set(draw_few(logits, 1000).unique().tolist()) == {5, 300, 599}
    edges = torch.tensor([2.0**-54, 1 - 2.0**-53])  # the smallest and the largest uniform there is
    ends = sample(logits[None].expand(2, -1), 1.0, edges.double(), torch.zeros(2, dtype=torch.int64)).tokens_N
    assert ends.tolist() == [5, 599]


def test_low_temperature_is_arg_max_and_high_temperature_uniform():
    logits = torch.randn(64, generator=torch.Generator().manual_seed(2))
    assert (draw_few(logits / 1e-4, 500) == logits.argmax()).all()
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
