"""What other ELECTRA trainers got wrong, each as a promise of ours.

Named after the promise; behind it stands what went wrong elsewhere, as read in their code: Google's and NVIDIA's
ELECTRA, DeBERTa, electra-pytorch (lucidrains), electra_pytorch (richarddwang), torch-electra, ModernBERT, EuroBERT.
"""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fast_electra.config import load_config, preset_names
from fast_electra.config.tree import Config, TrainingConfig
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.masking import (
    Masked,
    WordPieces,
    mask_random_tokens,
    mask_spans,
    mask_whole_words,
    originals,
    span_lengths,
)
from fast_electra.corruption.replacement import OnTheFly
from fast_electra.data.batches import Batch
from fast_electra.models.linear_maps import LinearMap
from fast_electra.models.optimizers import AdamWOptimizer
from fast_electra.models.shapes import ModelConfig, ShapeConfig
from fast_electra.objectives.base import ParameterGroup, Prepared
from fast_electra.objectives.mlm import shown_ids
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import make_update
from fast_electra.training.optimizer import GroupOptimizer, learning_rate
from fast_electra.training.precision import Execution
from fast_electra.training.setup import start
from tests import tiny
from tests.tiny import SPECIAL, batch

CPU = Execution(torch.device("cpu"), "float32", torch.float32, 1)
VOCABULARY = 3000
# Three tokens in ten go on with a word, as in English text of a usual tokenizer.
PIECES = WordPieces(
    torch.rand(VOCABULARY, generator=torch.Generator().manual_seed(0)) < 0.3, torch.ones(VOCABULARY, dtype=torch.bool)
)
LENGTHS = span_lengths(3.0, 10)
MASKERS: dict[str, Callable[[Batch, int], Masked]] = {
    "random": lambda rows, seed: mask_random_tokens(rows, 0.15, seed),
    "whole_word": lambda rows, seed: mask_whole_words(rows, 0.15, seed, PIECES, 10),
    "span": lambda rows, seed: mask_spans(rows, 0.15, seed, LENGTHS),
}
GENERATOR = {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 24}
OBJECTIVES = {
    "mlm": {},
    "fast_electra": {},
    "electra, apart": {"objective__generator": GENERATOR, "objective__sharing": "none"},
    "electra, tied": {"objective__generator": GENERATOR, "objective__sharing": "tied"},
    "electra, disentangled": {"objective__generator": GENERATOR, "objective__sharing": "disentangled"},
    "electra, clipped jointly": {"objective__generator": GENERATOR, "objective__clip": "joint"},
}
kinds = pytest.mark.parametrize("kind", MASKERS)
objectives = pytest.mark.parametrize("name", OBJECTIVES)


def parts_of(name: str, shards, auxiliary, **changes):
    kind = name.partition(",")[0]
    config = tiny.settings(shards, kind, auxiliary if kind == "fast_electra" else None, **(OBJECTIVES[name] | changes))
    return config, assemble(config, CPU)


def is_masked(rows: Batch, masked: Masked) -> torch.Tensor:
    return torch.zeros_like(rows.eligible).scatter(1, masked.positions_BM, masked.valid_BM)


# Masking


@kinds
def test_counts_are_exact_and_without_replacement(kind):
    """Google, NVIDIA: drawn with replacement, so 13.8 % instead of 15 %."""
    rows = batch(rows=256, length=64, vocabulary=VOCABULARY, padding=9)
    masked = MASKERS[kind](rows, 1)
    for row in range(256):
        chosen = masked.positions_BM[row][masked.valid_BM[row]].tolist()
        assert len(chosen) == len(set(chosen)) == max(1, round(0.15 * int(rows.eligible[row].sum())))
        assert chosen == sorted(chosen)
        assert len(set(masked.positions_BM[row].tolist())) == masked.positions_BM.shape[1]  # unused slots, too


@kinds
def test_special_and_padding_tokens_are_never_masked(kind):
    """ModernBERT: [CLS] and [SEP] were masked, and [MASK] written over padding."""
    rows = batch(rows=256, length=64, vocabulary=VOCABULARY, padding=30)
    assert not (is_masked(rows, MASKERS[kind](rows, 0)) & ~rows.eligible).any()


def deviations(masker: Callable[[Batch, int], Masked], length: int = 32, draws: int = 40_000) -> torch.Tensor:
    """By position: how many standard deviations the share of rows that mask it is off."""
    rows = batch(rows=draws, length=length, vocabulary=VOCABULARY)
    chosen = is_masked(rows, masker(rows, 2))
    eligible = rows.eligible[0]
    expected = round(0.15 * int(eligible.sum())) / int(eligible.sum())
    assert not chosen[:, ~eligible].any()
    return (chosen[:, eligible].double().mean(0) - expected) / (expected * (1 - expected) / draws) ** 0.5


@kinds
def test_the_mask_probability_is_flat_over_positions_up_to_the_ends(kind):
    """DeBERTa: the last 48 of 512 tokens were never masked."""
    found = deviations(MASKERS[kind])
    assert found.abs().max() < 4.2  # 29 positions of independent draws: one in 1,300 runs would fail by chance
    ends = found[[0, 1, 13, 14, 15, 16, -2, -1]]  # of the row and of its two documents
    assert ends.square().sum() < 35  # chi-square of 8: one in 40,000


def test_spans_placed_on_a_line_would_fail_there():
    def on_a_line(rows: Batch, seed: int) -> Masked:
        draw = torch.Generator().manual_seed(seed)
        begin = torch.randint(1, 30 - 4, (len(rows.ids), 1), generator=draw)
        positions = begin + torch.arange(4)
        return Masked(positions, rows.eligible.gather(1, positions))

    assert deviations(on_a_line).abs().max() > 30


@kinds
def test_masks_do_not_depend_on_the_batch_around_a_row_and_are_the_same_again(kind):
    """EuroBERT, ModernBERT: the random state of masks is in no checkpoint, so a resumed run masks otherwise."""
    rows = batch(rows=8, length=64, vocabulary=VOCABULARY)
    masker = MASKERS[kind]
    whole = masker(rows, 3)
    torch.manual_seed(1)
    parts = [masker(part, 3) for part in rows.split(2)]
    assert torch.equal(whole.positions_BM, torch.cat([p.positions_BM for p in parts]))
    assert torch.equal(whole.valid_BM, torch.cat([p.valid_BM for p in parts]))
    assert not torch.equal(whole.positions_BM, masker(rows, 4).positions_BM)
    epoch = Batch(
        *(getattr(rows, name) for name in ("ids", "documents", "positions", "eligible", "padding")),
        rows.epochs + 1,
        rows.indices,
        rows.samples,
    )
    assert not torch.equal(whole.positions_BM, masker(epoch, 3).positions_BM)


# Replacement


class OnlyTwoTokens:
    """An auxiliary that knows two tokens, far apart."""

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> torch.Tensor:
        logits_NV = torch.full((masked.positions_BM.numel(), VOCABULARY), float("-inf"))
        logits_NV[:, [10, 2000]] = 0.0
        return logits_NV

    def modules(self) -> list[nn.Module]:
        return []


@kinds
def test_unmasked_tokens_never_change_and_what_is_written_was_sampled(kind):
    """Google, NVIDIA: where a position was drawn twice, the mean of two ids was written. lucidrains: tokens outside the
    mask were replaced, and labelled as originals.
    """
    rows = batch(rows=64, length=64, vocabulary=VOCABULARY, padding=9)
    masked = MASKERS[kind](rows, 0)
    corrupted = OnTheFly(OnlyTwoTokens()).corrupt(rows, masked, Difficulty(1.0), seed=0)
    chosen = is_masked(rows, masked)
    assert torch.equal(corrupted.ids_BS[~chosen], rows.ids[~chosen])
    assert set(corrupted.ids_BS[chosen].tolist()) == {10, 2000}
    assert torch.equal(corrupted.replaced_BS, corrupted.ids_BS != rows.ids)


def test_berts_rule_shows_random_and_original_tokens_in_their_shares():
    """electra_pytorch: `if int(replace_prob) != 0` is false for 0.1, so random tokens never came. ModernBERT: random
    tokens could be special ones. lucidrains: unmasked tokens became random ones.
    """
    rows = batch(rows=512)
    prepared = Prepared(rows, mask_random_tokens(rows, 0.15, 0))
    seen = shown_ids(prepared, SPECIAL["mask"], seed=0, random=0.1, kept=0.1)
    masked, wanted = prepared.masked, originals(rows, prepared.masked)
    shown = seen.gather(1, masked.positions_BM)[masked.valid_BM]
    wanted = wanted[masked.valid_BM]
    count = len(shown)
    shows_mask, shows_original = shown == SPECIAL["mask"], shown == wanted
    assert abs(shows_mask.sum() / count - 0.8) < 5 * (0.16 / count) ** 0.5
    assert abs(shows_original.sum() / count - 0.1) < 5 * (0.09 / count) ** 0.5 + 0.01  # random may be the original
    assert (shown[~shows_mask] >= 5).all()  # never a special one
    elsewhere = ~is_masked(rows, masked)
    assert torch.equal(seen[elsewhere], rows.ids[elsewhere])


# Training


@objectives
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_trainable_parameter_is_in_exactly_one_optimizer_group_and_moves(name, optimizer, shards, auxiliary):
    """lucidrains: no bias and no norm was in the optimizer. torch-electra: the discriminator's parameters weren't.
    simpletransformers: only the generator's loss was optimised.
    """
    config, parts = parts_of(name, shards, auxiliary, optimizer__kind=optimizer)
    trainable = {
        id(parameter): f"{model}.{key}"
        for model, module in parts.objective.models().items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    grouped = [id(p) for group in parts.objective.parameter_groups() for p in group.parameters.values()]
    assert sorted(grouped) == sorted(trainable)
    for group in parts.objective.parameter_groups():
        assert set(group.linear_maps) <= set(group.parameters)
        assert group.name == "shared" or group.linear_maps  # tables alone are shared
    state, plan = start(config, parts, CPU)
    for optimizer in state.optimizers:
        stepped = [id(p) for group in optimizer.adamw.param_groups for p in group["params"]]
        stepped += [id(optimizer.masters[name]) for name in optimizer._owned]
        assert sorted(stepped) == sorted(id(master) for master in optimizer.masters.values())
    before = [{key: master.clone() for key, master in optimizer.masters.items()} for optimizer in state.optimizers]
    make_update(state, plan, parts.objective.prepare(parts.schedule.at(0), 0), CPU)
    for old, optimizer in zip(before, state.optimizers, strict=True):
        still = [key for key, master in optimizer.masters.items() if torch.equal(old[key], master)]
        assert not still


def test_biases_norms_and_embeddings_are_not_decayed(shards):
    """EuroBERT: weight decay on every parameter."""
    _, parts = parts_of("electra, apart", shards, None, main__architecture="electra")
    for group in parts.objective.parameter_groups():
        optimizer = GroupOptimizer(group)
        names = {id(master): name for name, master in optimizer.masters.items()}
        decayed, others = ([names[id(p)] for p in g["params"]] for g in optimizer.adamw.param_groups)
        assert decayed
        assert not [name for name in decayed if "norm" in name.lower() or "bias" in name or "embedding" in name]
        assert not [name for name in others if "dense.weight" in name]


@objectives
def test_labels_are_never_among_a_models_inputs(name, shards, auxiliary):
    """torch-electra: the labels were passed as token types, and the discriminator was told the answer."""
    _, parts = parts_of(name, shards, auxiliary)
    seen: list[dict] = []
    for model in parts.objective.models().values():
        model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    prepared = parts.objective.prepare(parts.schedule.at(0), 0)
    parts.objective.terms(prepared, 0.0, 0)
    assert len(seen) == len(parts.objective.models())
    for inputs in seen:
        assert set(inputs) <= {"input_ids", "attention_mask", "position_ids"}
    if name == "mlm":  # what is to be predicted stands nowhere
        (inputs,) = seen
        assert (inputs["input_ids"].gather(1, prepared.masked.positions_BM)[prepared.masked.valid_BM] == 4).all()


@objectives
def test_a_seed_fixes_everything_whatever_was_drawn_before(name, shards, auxiliary):
    """NVIDIA: `--seed` fixed the order of the data alone."""
    found = []
    for noise in (1, 2):
        random.seed(noise)
        np.random.seed(noise)  # noqa: NPY002  # the global state is what is meant
        torch.manual_seed(noise)
        config, parts = parts_of(name, shards, auxiliary, main__dropout=0.1)
        state, plan = start(config, parts, CPU)
        for update in range(2):
            torch.rand(noise)
            make_update(state, plan, parts.objective.prepare(parts.schedule.at(update), plan.seed), CPU)
        found.append(state.tensors())
    assert all(torch.equal(tensor, found[1][key]) for key, tensor in found[0].items())


def test_resuming_in_the_middle_sees_the_batches_and_masks_of_an_unbroken_run(shards):
    """Google: no position in the data is in a checkpoint. NVIDIA: every epoch repeats the first one's order."""
    _, parts = parts_of("mlm", shards, None)
    _, again = parts_of("mlm", shards, None)
    per_epoch = -(-parts.schedule.rows.count // 8)
    unbroken = [parts.objective.prepare(parts.schedule.at(update), 0) for update in range(per_epoch + 3)]
    for update in (1, per_epoch + 2):  # asked for first, in the first epoch and in the next
        resumed = again.objective.prepare(again.schedule.at(update), 0)
        assert torch.equal(resumed.batch.ids, unbroken[update].batch.ids)
        assert torch.equal(resumed.masked.positions_BM, unbroken[update].masked.positions_BM)
    first = [parts.schedule.order(update)[0] for update in range(per_epoch)]
    second = [parts.schedule.order(update + per_epoch)[0] for update in range(per_epoch)]
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


def test_adam_without_bias_correction_is_the_published_formula():
    """electra_pytorch's README: needed to replicate ELECTRA. With decay apart from the gradient (AdamW)."""
    settings = AdamWOptimizer(
        learning_rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-6, weight_decay=0.1, clip=None, bias_correction=False
    )
    draw = np.random.default_rng(0)
    start_matrix, start_bias = draw.normal(size=(3, 4)), draw.normal(size=4)
    parameters = {
        "layer.weight": nn.Parameter(torch.tensor(start_matrix, dtype=torch.float32)),
        "layer.bias": nn.Parameter(torch.tensor(start_bias, dtype=torch.float32)),
    }
    maps = {"layer.weight": LinearMap(hidden=True)}
    optimizer = GroupOptimizer(ParameterGroup("main", parameters, settings, maps))
    expected = {"layer.weight": start_matrix.copy(), "layer.bias": start_bias.copy()}
    first = {name: np.zeros_like(value) for name, value in expected.items()}
    second = {name: np.zeros_like(value) for name, value in expected.items()}
    for update in range(30):
        rate = 0.01 * (30 - update) / 30
        for name, value in expected.items():
            gradient = draw.normal(size=value.shape) * 10.0 ** draw.integers(-6, 2)
            parameters[name].grad = torch.tensor(gradient, dtype=torch.float32)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            decay = 0.1 if name == "layer.weight" else 0.0
            expected[name] = value - rate * (first[name] / (np.sqrt(second[name]) + 1e-6) + decay * value)
        tiny.step(optimizer, rate, update)
    for name, value in expected.items():
        # float32 against float64 over thirty steps
        np.testing.assert_allclose(parameters[name].detach().numpy(), value, rtol=2e-5, atol=2e-6)


def test_the_first_step_without_bias_correction_is_the_smaller_one():
    """Corrected, the first step is the learning rate; uncorrected it is (1 - b1) / sqrt(1 - b2) of it."""
    steps = []
    for corrected in (True, False):
        weight = nn.Parameter(torch.zeros(2, 2))
        settings = AdamWOptimizer(learning_rate=0.1, beta2=0.999, epsilon=1e-12, bias_correction=corrected)
        weight.grad = torch.ones(2, 2)
        tiny.step(GroupOptimizer(ParameterGroup("main", {"weight": weight}, settings, {})), 0.1)
        steps.append(-weight[0, 0].item())
    assert steps[0] == pytest.approx(0.1, rel=1e-5)
    assert steps[1] == pytest.approx(0.1 * 0.1 / 0.001**0.5, rel=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_warm_up_multiplies_the_decay_where_asked(schedule):
    """electra_pytorch's README: in ELECTRA's code the decay begins at the first update, not behind the warm-up."""
    settings = AdamWOptimizer(learning_rate=5e-4, schedule=schedule, warmup=0.1, warmup_multiplies=True)
    for update in range(1000):
        fall = 1 - update / 1000 if schedule == "linear" else 0.5 * (1 + np.cos(np.pi * update / 1000))
        expected = 5e-4 * min(1.0, (update + 1) / 100) * fall
        assert learning_rate(settings, update, 1000) == pytest.approx(expected, rel=1e-12)


# Defaults


def test_no_default_belongs_to_another_models_size():
    """Google: the learning rate and mask rate of the small model stay active when the size is set to base or large."""
    for section, names in {
        ShapeConfig: ("layers", "hidden_size", "heads", "intermediate_size"),
        ModelConfig: ("layers", "hidden_size", "heads", "intermediate_size"),
        TrainingConfig: ("updates", "tokens", "flops", "hours"),
    }.items():
        assert all(section.model_fields[name].default is None for name in names)
    assert AdamWOptimizer.model_fields["learning_rate"].is_required()
    assert TrainingConfig.model_fields["batch_size"].is_required()
    assert Config.model_fields["main"].is_required()
    shapes = {}
    for name in preset_names():
        config = load_config(name)
        for shape in (config.main, getattr(config.objective, "generator", config.main)):
            assert None not in (shape.layers, shape.hidden_size, shape.heads, shape.intermediate_size)
        shapes[name] = (config.main.layers, config.main.hidden_size, config.optimizer.learning_rate)
    assert shapes["paper-base"][:2] == (12, 768)
    assert shapes["paper-large"][:2] == (24, 1024)
    assert shapes["paper-large"][2] < shapes["paper-base"][2]  # not the smaller model's
