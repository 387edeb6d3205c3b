import torch

from fast_electra.config.tree import ExponentialSchedule, ModelConfig, OptimizerConfig
from fast_electra.corruption.auxiliary import MaskedLanguageModel
from fast_electra.corruption.masking import mask_random_tokens, masked_ids, originals
from fast_electra.corruption.schedules import Difficulty, TemperatureCurriculum
from fast_electra.corruption.sources import OnTheFly
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.objectives.mlm import MLM
from tests.tiny import SPECIAL, batch


def masked_lm(seed: int = 0, vocabulary: int = 320) -> MaskedLM:
    shape = ModelConfig(layers=2, hidden_size=32, heads=2, intermediate_size=48)
    model = build_model(transformers_config(shape, vocabulary, SPECIAL, 32), "mlm", seed)
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform, so that samples say something
            parameter.mul_(3.0)
    return MaskedLM(model).freeze(torch.float32)


def test_the_mask_count_is_exact_and_positions_differ():
    rows = batch(rows=64, padding=9)
    masked = mask_random_tokens(rows, 0.15, seed=1)
    for row in range(64):
        chosen = masked.positions_BM[row][masked.valid_BM[row]].tolist()
        eligible = int(rows.eligible[row].sum())
        assert len(chosen) == len(set(chosen)) == max(1, round(0.15 * eligible))
        assert rows.eligible[row, chosen].all()


def test_at_least_one_token_is_masked_and_never_more_than_there_are():
    rows = batch(rows=2, length=32, padding=28)
    masked = mask_random_tokens(rows, 0.15, seed=1)
    assert masked.valid_BM[1].sum() == 1


def test_the_mask_probability_is_flat_over_positions():
    rows = batch(rows=4096, length=32)
    masked = mask_random_tokens(rows, 0.15, seed=2)
    counts = torch.zeros(32).scatter_add(
        0, masked.positions_BM[masked.valid_BM], torch.ones(int(masked.valid_BM.sum()))
    )
    eligible = rows.eligible[0]
    share = counts[eligible] / 4096
    expected = round(0.15 * int(eligible.sum())) / int(eligible.sum())
    spread = (expected * (1 - expected) / 4096) ** 0.5
    assert ((share - expected).abs() < 4.5 * spread).all()  # 29 positions: one in 5,000 runs would fail by chance
    assert counts[~eligible].sum() == 0


def test_masks_do_not_depend_on_the_batch_around_a_row():
    rows = batch(rows=8)
    whole = mask_random_tokens(rows, 0.15, seed=3)
    parts = [mask_random_tokens(part, 0.15, seed=3) for part in rows.split(2)]
    assert torch.equal(whole.positions_BM, torch.cat([p.positions_BM for p in parts]))


def test_only_masked_positions_change_and_labels_tell_which():
    rows = batch(rows=16, padding=5)
    masked = mask_random_tokens(rows, 0.3, seed=0)
    corrupted = OnTheFly(MaskedLanguageModel(masked_lm(), SPECIAL["mask"])).corrupt(
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
    source = OnTheFly(MaskedLanguageModel(masked_lm(vocabulary=320), SPECIAL["mask"]))
    for temperature in (0.3, 1.0):
        corrupted = source.corrupt(rows, masked, Difficulty(temperature), seed=0)
        count = int(masked.valid_BM.sum())
        replaced, expected = int(corrupted.replaced_BS.sum()), float(corrupted.expected_replaced)
        assert abs(replaced - expected) < 5 * (expected * (1 - expected / count)) ** 0.5 + 1


def test_replacements_do_not_depend_on_the_batch_around_a_row():
    rows = batch(rows=8)
    masked = mask_random_tokens(rows, 0.15, seed=0)
    source = OnTheFly(MaskedLanguageModel(masked_lm(), SPECIAL["mask"]))
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
    source = OnTheFly(MaskedLanguageModel(auxiliary, SPECIAL["mask"]))
    source.corrupt(rows, mask_random_tokens(rows, 0.15, 0), Difficulty(2.0), seed=0)
    assert all(p.grad is None and not p.requires_grad for p in auxiliary.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, auxiliary.parameters(), strict=True))


def test_a_curriculum_gives_the_schedules_temperature():
    assert TemperatureCurriculum(ExponentialSchedule()).difficulty(0.0) == Difficulty(2.0)


def test_berts_rule_shows_random_and_original_tokens_in_their_shares():
    rows = batch(rows=512)
    objective = MLM(
        masked_lm(),
        SPECIAL["mask"],
        lambda b, s: mask_random_tokens(b, 0.15, s),
        OptimizerConfig(learning_rate=1e-3),
        7,
        random=0.1,
        kept=0.1,
    )
    prepared = objective.prepare(rows, seed=0)
    seen = objective._seen(prepared, seed=0)
    masked, wanted = prepared.masked, originals(rows, prepared.masked)
    shown = seen.gather(1, masked.positions_BM)[masked.valid_BM]
    wanted = wanted[masked.valid_BM]
    count = len(shown)
    is_mask, is_original = shown == SPECIAL["mask"], shown == wanted
    assert abs(is_mask.sum() / count - 0.8) < 5 * (0.16 / count) ** 0.5
    assert abs(is_original.sum() / count - 0.1) < 5 * (0.09 / count) ** 0.5 + 0.01  # a random token may be the original
    assert (shown[~is_mask] >= 5).all()  # never a special one
    elsewhere = torch.ones_like(rows.eligible).scatter(1, masked.positions_BM, False)
    assert torch.equal(seen[elsewhere], rows.ids[elsewhere])
