"""The Triton kernel, in Triton's interpreter where there is no GPU, against the dense softmax and plain PyTorch."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: make test-extras does it")

from scipy.stats import entropy
from torch.utils.flop_counter import FlopCounterMode

from fast_electra.corruption import triton_sampling
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.auxiliary import Candidates, MaskedLanguageModel
from fast_electra.corruption.counted import Unigram
from fast_electra.corruption.masking import mask_random_tokens, originals
from fast_electra.corruption.replacement import OnTheFly
from fast_electra.corruption.triton_sampling import COLUMNS, OutputLayer, TritonSampling, sample_hidden
from fast_electra.errors import ConfigError, ModelError
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.shapes import ModelConfig
from fast_electra.pipelines.pretrain import pretrain
from tests import tiny
from tests.corruption.test_sampling import p_value
from tests.tiny import SPECIAL, batch

INTERPRETED = not torch.cuda.is_available()  # tests/conftest.py sees to it
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def given(rows, vocabulary, width=40, dtype=torch.float32, seed=0):
    """Hidden states, an output layer that excludes the first five tokens, noise, and originals."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=draw).to(DEVICE, dtype)
    weight = (torch.randn(vocabulary, width, generator=draw) * 0.4).to(DEVICE, dtype)
    bias = torch.randn(vocabulary, generator=draw).to(DEVICE)
    bias[:5] = float("-inf")
    first, second = torch.rand(2, rows, generator=draw, dtype=torch.float64).to(DEVICE)
    drawn = torch.randint(5, max(6, vocabulary), (rows,), generator=draw).to(DEVICE)
    return hidden, OutputLayer(weight, bias), (first, second), drawn


def dense(hidden, output, temperature):
    """Logits over temperature in float64, by one matrix product."""
    return (hidden.double() @ output.weight_Vd.double().T + output.bias_V.double()) / temperature


def emulated(logits_NV, noise):
    """The tokens of the same algorithm in float64: the tile by the first number, the place in it by the second."""
    tokens = []
    for row, first, second in zip(logits_NV.softmax(1), *noise, strict=True):
        tiles = row.split(COLUMNS)
        tile = int((torch.stack([t.sum() for t in tiles]).cumsum(0) <= first).sum())
        place = int((tiles[tile].cumsum(0) <= second * tiles[tile].sum()).sum())
        tokens.append(tile * COLUMNS + place)
    return torch.tensor(tokens)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "vocabulary", "width"), [(1, COLUMNS, 64), (70, 3 * COLUMNS + 77, 40)])
def test_the_kernel_draws_the_token_of_the_same_noise(rows, vocabulary, width, dtype):
    hidden, output, noise, drawn = given(rows, vocabulary, width, dtype)
    found = sample_hidden(hidden, output, 1.3, noise, drawn)
    logits = dense(hidden, output, 1.3).cpu()
    # float32 sums may move a boundary between two tokens: by 1e-6 of the probability, so hardly ever over such a number
    assert (found.tokens_N.cpu() == emulated(logits, [n.cpu() for n in noise])).float().mean() > 0.98
    probabilities = logits.softmax(1)
    expected = probabilities.gather(1, drawn.cpu()[:, None])[:, 0]
    torch.testing.assert_close(found.original_probability_N.cpu().double(), expected, rtol=1e-4, atol=1e-9)
    expected = torch.from_numpy(entropy(probabilities.numpy(), axis=1))
    torch.testing.assert_close(found.entropy_N.cpu().double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_its_draws_follow_softmax_of_logits_over_temperature(temperature, monkeypatch):
    monkeypatch.setattr(
        triton_sampling, "ROWS", 1024 if INTERPRETED else triton_sampling.ROWS
    )  # for the interpreter's speed
    (hidden, output, _, _), draws = given(1, 2 * COLUMNS + 50), 4_000
    first, second = torch.rand(2, draws, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(DEVICE)
    originals_N = torch.full((draws,), 7, device=DEVICE)
    rows = hidden.expand(draws, -1)
    found = sample_hidden(rows, output, temperature, (first, second), originals_N)
    logits = dense(hidden, output, 1.0)[0, 5:].float()
    assert (found.tokens_N >= 5).all()
    assert p_value(found.tokens_N.cpu() - 5, logits, temperature) > 1e-4
    assert p_value(found.tokens_N.cpu() - 5, logits, 1.2 * temperature) < 1e-6


def test_no_rows_give_no_samples():
    hidden, output, noise, drawn = given(0, 300)
    found = sample_hidden(hidden, output, 1.0, noise, drawn)
    assert found.tokens_N.shape == found.entropy_N.shape == found.original_probability_N.shape == (0,)
    assert found.tokens_N.dtype == torch.int64


def test_a_token_of_probability_zero_is_never_drawn():
    output = given(1, 5 * COLUMNS)[1]
    output.bias_V[:] = float("-inf")
    output.bias_V[[5, 2 * COLUMNS, 5 * COLUMNS - 1]] = 0.0  # two tiles have no token
    edges = torch.tensor([2.0**-54, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    first, second = (numbers.flatten().to(DEVICE) for numbers in torch.meshgrid(edges, edges, indexing="ij"))
    zeros = torch.zeros(9, 40, device=DEVICE)
    tokens = sample_hidden(zeros, output, 1.0, (first, second), torch.zeros(9, dtype=torch.int64, device=DEVICE))
    assert tokens.tokens_N.tolist() == [5] * 3 + [2 * COLUMNS] * 3 + [5 * COLUMNS - 1] * 3
    assert (tokens.original_probability_N == 0).all()


def test_huge_logits_are_sampled_right_and_infinite_ones_give_a_token_of_the_vocabulary():
    hidden, output, noise, drawn = given(40, 300)
    output.bias_V[5:] = -1e4
    output.bias_V[[17, 299]] = torch.tensor([3e4, 3e4 - 1.0], device=DEVICE)
    found = sample_hidden(hidden * 0, output, 1.0, noise, drawn)
    assert set(found.tokens_N.tolist()) == {17, 299}
    assert torch.isfinite(found.entropy_N).all()
    hidden[0], hidden[1] = float("nan"), float("inf")
    found = sample_hidden(hidden, output, 1.0, noise, drawn)
    assert (found.tokens_N >= 0).all()
    assert (found.tokens_N < 300).all()
    assert not torch.isfinite(found.entropy_N[:2]).any()  # so the update counts as not finite


def test_a_disallowed_original_is_not_drawn():
    hidden, output, noise, drawn = given(50, 200)
    drawn[:] = 9
    output.bias_V[9] = 20.0  # the most likely token by far
    assert (sample_hidden(hidden, output, 1.0, noise, drawn).tokens_N == 9).all()
    found = sample_hidden(hidden, output, 1.0, noise, drawn, disallow_correct=True)
    assert (found.tokens_N != 9).all()
    assert (found.original_probability_N == 0).all()


def test_shapes_that_do_not_fit_are_refused_before_the_kernel_reads_memory():
    hidden, output, noise, drawn = given(4, 200)
    for wrong in (
        (hidden[:, :-1], output, noise, drawn),
        (hidden, OutputLayer(output.weight_Vd, output.bias_V[:-1]), noise, drawn),
        (hidden, output, noise, drawn[:-1]),
        (hidden, output, (noise[0], noise[1][:-1]), drawn),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            sample_hidden(wrong[0], wrong[1], 1.0, wrong[2], wrong[3])


def test_its_operations_are_counted():
    hidden, output, noise, drawn = given(6, 200, width=40)
    with FlopCounterMode(display=False) as counter:
        sample_hidden(hidden, output, 1.0, noise, drawn)
    assert counter.get_total_flops() == 2 * 6 * 200 * 40


def language_model(architecture="electra", vocabulary=320):
    shape = ModelConfig(architecture=architecture, layers=2, hidden_size=32, heads=2, intermediate_size=48)
    model = build_model(transformers_config(shape, vocabulary, SPECIAL, 32), "mlm", 0)
    candidates = Candidates.of(torch.arange(vocabulary) < 5, DEVICE)
    return MaskedLanguageModel(MaskedLM(model).to(DEVICE).freeze(torch.float32), candidates, SPECIAL["mask"])


@pytest.mark.parametrize("architecture", ["electra", "bert", "roberta", "modernbert", "deberta-v2", "mpnet"])
def test_an_auxiliary_without_its_output_layer_gives_the_same_logits(architecture):
    rows = batch(rows=4)
    masked = mask_random_tokens(rows, 0.15, seed=0)
    rows, masked = rows.to(DEVICE), masked.to(DEVICE)
    plain, fused = language_model(architecture), language_model(architecture)
    expected = plain.logits(rows, masked, Difficulty(1.0))
    source = TritonSampling.of(fused)
    torch.testing.assert_close(fused.logits(rows, masked, Difficulty(1.0)), expected)
    found = source.corrupt(rows, masked, Difficulty(1.5), seed=3)
    other = OnTheFly(plain).corrupt(rows, masked, Difficulty(1.5), seed=3)
    torch.testing.assert_close(found.expected_replaced, other.expected_replaced, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.entropy, other.entropy, rtol=1e-4, atol=1e-4)
    # The place of a token comes from another number, its tile (of a size of its own) from the same one.
    assert torch.equal(found.ids_BS.gather(1, masked.positions_BM) < 5, other.ids_BS.gather(1, masked.positions_BM) < 5)
    again = source.corrupt(rows, masked, Difficulty(1.5), seed=3)
    assert torch.equal(found.ids_BS, again.ids_BS)
    halves = [source.corrupt(b, m, Difficulty(1.5), 3) for b, m in zip(rows.split(2), masked.split(2), strict=True)]
    assert torch.equal(found.ids_BS, torch.cat([half.ids_BS for half in halves]))
    disallowed = TritonSampling(fused, source.output, disallow_correct=True).corrupt(rows, masked, Difficulty(1.5), 3)
    drawn = disallowed.ids_BS.gather(1, masked.positions_BM)
    assert (drawn != originals(rows, masked))[masked.valid_BM].all()


def test_an_auxiliary_that_the_kernel_cannot_serve_is_refused(monkeypatch):
    counted = Unigram(torch.zeros(320))
    with pytest.raises(ConfigError, match="needs a masked language model"):
        TritonSampling.of(counted)
    model = language_model().model
    doubled = model.model.get_submodule("generator_lm_head").register_forward_hook(
        lambda module, inputs, output: 2 * output
    )
    with pytest.raises(ModelError, match="sampler=inverse_cdf"):
        model.take_output_layer()
    doubled.remove()
    if INTERPRETED:
        monkeypatch.setattr(triton_sampling.triton.knobs.runtime, "interpret", False)
        with pytest.raises(ConfigError, match="needs a CUDA GPU, and the device is cpu"):
            TritonSampling.of(language_model())


def test_a_run_trains_with_it(shards, auxiliary, tmp_path):
    execution = {"execution__device": DEVICE.type, "training__updates": 3}
    config = tiny.settings(shards, "fast_electra", auxiliary, corruption__sampler="triton", **execution)
    result = pretrain(config, tmp_path / "run")
    assert 0 < result.validation["replaced_fraction"] < 1
    fraction = result.validation["replaced_fraction_expected"]
    assert result.validation["replaced_fraction"] == pytest.approx(fraction, abs=0.15)
