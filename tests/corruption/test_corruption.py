import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fast_electra.corruption.augmentations import Difficulty, TemperatureAugmentation
from fast_electra.corruption.auxiliary import Candidates, MaskedLanguageModel
from fast_electra.corruption.masking import mask_random_tokens, masked_ids, originals
from fast_electra.corruption.replacement import OnTheFly
from fast_electra.corruption.schedules import ConstantSchedule, ScheduledCurriculum
from fast_electra.data.batches import Batch
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.optimizers import AdamWOptimizer
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.models.shapes import ModelConfig
from fast_electra.objectives.fast_electra import FastElectra
from tests.tiny import SPECIAL, batch

CANDIDATES = Candidates.of(torch.arange(320) < 5, torch.device("cpu"))


def masked_lm(seed: int = 0, vocabulary: int = 320) -> MaskedLM:
    shape = ModelConfig(layers=2, hidden_size=32, heads=2, intermediate_size=48)
    model = build_model(transformers_config(shape, vocabulary, SPECIAL, 32), "mlm", seed)
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform, so that samples say something
            parameter.mul_(3.0)
    return MaskedLM(model).freeze(torch.float32)


def test_only_masked_positions_change_and_labels_tell_which():
    rows = batch(rows=16, padding=5)
    masked = mask_random_tokens(rows, 0.3, seed=0)
    corrupted = OnTheFly(MaskedLanguageModel(masked_lm(), CANDIDATES, SPECIAL["mask"])).corrupt(
        rows, masked, Difficulty(1.0), seed=0
    )
    allowed = torch.zeros_like(rows.eligible).scatter(1, masked.positions_BM, masked.valid_BM)
    changed = corrupted.ids_BS != rows.ids
    assert torch.equal(changed, corrupted.replaced_BS)
    assert not (changed & ~allowed).any()
    assert not (changed & ~rows.eligible).any()  # special and padding tokens are never touched
    assert changed.any()


def test_the_share_of_replaced_tokens_is_the_expected_one():
    rows = batch(rows=512)
    masked = mask_random_tokens(rows, 0.15, seed=0)
    source = OnTheFly(MaskedLanguageModel(masked_lm(), CANDIDATES, SPECIAL["mask"]))
    for temperature in (0.3, 1.0):
        corrupted = source.corrupt(rows, masked, Difficulty(temperature), seed=0)
        count = int(masked.valid_BM.sum())
        replaced, expected = int(corrupted.replaced_BS.sum()), float(corrupted.expected_replaced)
        assert abs(replaced - expected) < 5 * (expected * (1 - expected / count)) ** 0.5 + 1


def test_replacements_do_not_depend_on_the_batch_around_a_row():
    rows = batch(rows=8)
    masked = mask_random_tokens(rows, 0.15, seed=0)
    source = OnTheFly(MaskedLanguageModel(masked_lm(), CANDIDATES, SPECIAL["mask"]))
    whole = source.corrupt(rows, masked, Difficulty(2.0), seed=5).ids_BS
    parts = [
        source.corrupt(b, m, Difficulty(2.0), seed=5).ids_BS
        for b, m in zip(rows.split(4), masked.split(4), strict=True)
    ]
    assert torch.equal(whole, torch.cat(parts))


def test_the_auxiliary_sees_masks_and_never_the_originals():
    rows = batch(rows=4)
    masked = mask_random_tokens(rows, 0.15, seed=0)
    seen = masked_ids(rows, masked, SPECIAL["mask"])
    assert (seen.gather(1, masked.positions_BM)[masked.valid_BM] == SPECIAL["mask"]).all()
    assert int((seen != rows.ids).sum()) == int(masked.valid_BM.sum())
    assert (originals(rows, masked)[masked.valid_BM] >= 5).all()


def test_the_auxiliary_gets_no_gradient_and_keeps_its_weights():
    rows = batch(rows=4)
    auxiliary = masked_lm()
    before = [p.clone() for p in auxiliary.parameters()]
    source = OnTheFly(MaskedLanguageModel(auxiliary, CANDIDATES, SPECIAL["mask"]))
    source.corrupt(rows, mask_random_tokens(rows, 0.15, 0), Difficulty(2.0), seed=0)
    assert all(p.grad is None and not p.requires_grad for p in auxiliary.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, auxiliary.parameters(), strict=True))


class Given:
    """A model whose logits are one row, the special tokens the likeliest."""

    def __init__(self, logits_V: torch.Tensor):
        self.logits_V = logits_V
        self.model = torch.nn.Identity()

    def masked_logits(self, batch, ids_BS, positions_BM):
        return self.logits_V.expand(positions_BM.numel(), -1).clone()


@pytest.mark.parametrize("sampler", ["inverse_cdf", "race"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_are_those_of_a_dense_softmax_without_special_tokens(sampler, temperature):
    logits_V = torch.randn(40, generator=torch.Generator().manual_seed(0))
    logits_V[:5] = 3.0  # as likely as all others together, and never to be drawn
    expected_V = (logits_V[5:].double() / temperature).softmax(0)
    candidates = Candidates.of(torch.arange(40) < 5, torch.device("cpu"))
    auxiliary = MaskedLanguageModel(Given(logits_V), candidates, SPECIAL["mask"])  # type: ignore[arg-type]
    rows = batch(rows=2000, vocabulary=40)
    masked = mask_random_tokens(rows, 0.15, seed=0)
    source = OnTheFly(auxiliary, race_interval=(1.0, 3.0) if sampler == "race" else None)
    corrupted = source.corrupt(rows, masked, Difficulty(temperature), seed=0)
    drawn = corrupted.ids_BS.gather(1, masked.positions_BM)[masked.valid_BM]
    assert (drawn >= 5).all()
    counts = drawn.bincount(minlength=40)[5:].numpy()
    assert chisquare(counts, expected_V.numpy() * counts.sum()).pvalue > 1e-3
    count = int(masked.valid_BM.sum())
    entropy = float(-(expected_V * expected_V.log()).sum())
    assert corrupted.entropy is not None
    assert float(corrupted.entropy) / count == pytest.approx(entropy, rel=1e-5)
    kept = expected_V[originals(rows, masked)[masked.valid_BM] - 5].mean()
    assert float(corrupted.expected_replaced) / count == pytest.approx(float(1 - kept), rel=1e-5)


def test_no_special_token_is_drawn_where_the_original_is_disallowed():
    rows = batch(rows=64)
    masked = mask_random_tokens(rows, 0.3, seed=0)
    for interval in (None, (1.0, 3.0)):
        source = OnTheFly(MaskedLanguageModel(masked_lm(), CANDIDATES, SPECIAL["mask"]), True, interval)
        ids_BS = source.corrupt(rows, masked, Difficulty(2.0), seed=0).ids_BS
        drawn = ids_BS.gather(1, masked.positions_BM)[masked.valid_BM]
        assert (drawn >= 5).all()
        assert (drawn != originals(rows, masked)[masked.valid_BM]).all()


def detector(architecture: str = "electra") -> ReplacedTokenDetector:
    shape = ModelConfig(architecture=architecture, layers=2, hidden_size=32, heads=2, intermediate_size=48)
    return ReplacedTokenDetector(build_model(transformers_config(shape, 320, SPECIAL, 32), "rtd", 0).eval())


def objective(main: ReplacedTokenDetector, include_special: bool = False) -> FastElectra:
    return FastElectra(
        main,
        OnTheFly(MaskedLanguageModel(masked_lm(), CANDIDATES, SPECIAL["mask"])),
        ScheduledCurriculum(ConstantSchedule(), TemperatureAugmentation()),
        lambda rows, seed: mask_random_tokens(rows, 0.3, seed),
        AdamWOptimizer(learning_rate=1e-3),
        include_special,
    )


@pytest.mark.parametrize("include_special", [False, True])
def test_labels_and_loss_are_the_plain_loop_in_numpy(include_special):
    rows, main = batch(rows=6, padding=7), detector("modernbert")
    found = objective(main, include_special)
    prepared = found.prepare(rows, seed=0)
    terms = found.terms(prepared, 0.0, seed=0)
    corrupted = found.source.corrupt(rows, prepared.masked, Difficulty(1.0), seed=0)
    with torch.no_grad():
        logits = main.logits(rows, corrupted.ids_BS).double().numpy()
    before, after, padding = rows.ids.numpy(), corrupted.ids_BS.numpy(), rows.padding.numpy()
    total, count, replaced = 0.0, 0, 0
    for row in range(6):
        for position in range(32):
            is_special = before[row, position] < 5
            if padding[row, position] or (is_special and not include_special):
                continue
            label = 1.0 if after[row, position] != before[row, position] else 0.0
            assert bool(corrupted.replaced_BS[row, position]) == bool(label)
            p = 1.0 / (1.0 + np.exp(-logits[row, position]))
            total -= label * np.log(p) + (1.0 - label) * np.log(1.0 - p)
            count, replaced = count + 1, replaced + int(label)
    loss, scored = terms.losses["rtd"]
    assert int(scored) == count == int(found.counts(prepared)["rtd"])
    assert int(terms.metrics["replaced_fraction"][0]) == replaced > 0
    assert loss.item() == pytest.approx(total, rel=1e-5)  # float32 against float64


def test_the_loss_is_that_of_transformers_own_class_where_there_are_no_special_tokens():
    rows, main = batch(rows=6), detector()
    rows = Batch.of(rows.ids.clamp(min=5), rows.padding, ~rows.padding)
    found = objective(main)
    prepared = found.prepare(rows, seed=0)
    corrupted = found.source.corrupt(rows, prepared.masked, Difficulty(1.0), seed=0)
    total, count = found.terms(prepared, 0.0, seed=0).losses["rtd"]
    main.model.set_attn_implementation("eager")
    theirs = main.model(input_ids=corrupted.ids_BS, labels=corrupted.replaced_BS.long()).loss
    assert (total / count).item() == pytest.approx(theirs.item(), rel=1e-5)
