import copy
import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

from fast_electra.errors import DataError, ModelError
from fast_electra.evaluation import fine_tuning
from fast_electra.evaluation.bugs.benchmark import BugBenchmark
from fast_electra.evaluation.bugs.task import bug_task
from fast_electra.evaluation.cells import make_cell
from fast_electra.evaluation.encoding import LengthBuckets, Padding, collate, encode, encode_task
from fast_electra.evaluation.fine_tuning import FineTuning, fine_tune, training_task
from fast_electra.evaluation.recipes import Recipe, recipe_for
from fast_electra.evaluation.tasks import Split, Task, make_task
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.classifier import (
    cut_table,
    load_classifier,
    load_encoder,
    load_task_tokenizer,
    longest_text,
    rate_factors,
    uses_segments,
)
from fast_electra.models.dropout import FastDropout, drop
from fast_electra.models.export import write_model
from fast_electra.models.linear_maps import LinearMap
from fast_electra.models.loading import load_model
from fast_electra.models.optimizers import AdamWOptimizer
from fast_electra.models.shapes import ModelConfig
from fast_electra.objectives.base import ParameterGroup, Terms
from fast_electra.training.optimizer import GroupOptimizer, learning_rate
from fast_electra.training.precision import Execution
from tests import tiny
from tests.tiny import SPECIAL

CPU = Execution(torch.device("cpu"), "float32", torch.float32, 1)
RECIPE = Recipe(name="bert", learning_rate=3e-3, epochs=5, batch_size=16, length=48, dropout=0.0)


def changed(**values) -> Recipe:
    """The recipe with other values."""
    return RECIPE.model_copy(update=values)


SHAPE = {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 48}
CLASSES = ("left", "right")


def shape(architecture: str, **options):
    config = ModelConfig(architecture=architecture, options=options, **SHAPE)
    return transformers_config(config, 320, SPECIAL, 64)


def sentence(draw: random.Random, extra: str, longest: int = 9) -> list[str]:
    words = [draw.choice(["value", "total", "count", "items", "name"]) for _ in range(draw.randint(2, longest))]
    words.insert(draw.randint(0, len(words)), extra)
    return words


def words_task(examples: int = 240, seed: int = 0, pairs: bool = False, **changes) -> Task:
    """Which of two words is there? In pairs: is it in both?"""
    draw = random.Random(seed)

    def split(count: int) -> Split:
        texts, labels = [], []
        for _ in range(count):
            sides = [draw.randrange(2) for _ in range(1 + pairs)]
            texts.append(tuple(" ".join(sentence(draw, CLASSES[side])) for side in sides))
            labels.append(sides[0])
        return Split(texts, labels)

    given = {"train": split(examples), "dev": {"dev": split(60)}, "test": {}} | changes
    return make_task("words", "classification", CLASSES, metrics=("accuracy", "matthews"), **given)


def values_task() -> Task:
    """How often is "left" there? In hundreds, on top of a thousand."""
    draw = random.Random(0)

    def split(count: int) -> Split:
        texts, labels = [], []
        for _ in range(count):
            number = draw.randrange(4)
            texts.append((" ".join(sentence(draw, "right") + ["left"] * number),))
            labels.append(1000.0 + 100.0 * number)
        return Split(texts, labels)

    return make_task("values", "regression", (), split(240), {"dev": split(60)}, {}, ("pearson", "spearman"))


TAGS = ("O", "B-side", "I-side")


def tokens_task(train: int = 160) -> Task:
    """Which words are "left" or "right"?"""
    draw = random.Random(0)

    def split(count: int) -> Split:
        sentences = [sentence(draw, draw.choice(CLASSES)) for _ in range(count)]
        return Split(
            [tuple(words) for words in sentences], [[int(word in CLASSES) for word in words] for words in sentences]
        )

    return make_task("tags", "tokens", TAGS, split(train), {"dev": split(40)}, {}, ("entity_f1", "token_accuracy"))


@pytest.fixture(scope="session")
def tagger(tmp_path_factory, tokenizer):
    """A masked language model with fresh weights and its tokenizer, as a run exports them."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    write_model(build_model(shape("modernbert"), "mlm", 7), tokenizer, folder, "")
    return folder


@pytest.fixture(scope="session")
def learned(tagger):
    return fine_tune(tagger, words_task(), RECIPE, 0, CPU)


# Recipes


def test_recipes_are_those_of_their_papers():
    electra = {size: recipe_for("electra", width) for size, width in (("s", 256), ("b", 768), ("l", 1024))}
    assert [recipe.learning_rate for recipe in electra.values()] == [3e-4, 1e-4, 5e-5]
    assert [recipe.layerwise_decay for recipe in electra.values()] == [0.8, 0.8, 0.9]
    for recipe in electra.values():
        assert (recipe.batch_size, recipe.warmup, recipe.weight_decay, recipe.dropout) == (32, 0.1, 0.0, 0.1)
        assert [recipe.epochs_of(task, 50) for task in ("rte", "stsb", "mrpc", "mnli")] == [10, 10, 3, 3]
        assert recipe.swapped
        assert not recipe.bias_correction
    bert = recipe_for("bert", 768)
    assert (bert.epochs, bert.batch_size, bert.weight_decay, bert.layerwise_decay) == (3, 32, 0.01, 1.0)
    assert all(
        2e-5 <= recipe.learning_rate <= 5e-5 for recipe in (recipe_for("bert", width) for width in (256, 768, 1024))
    )
    assert recipe_for("fast", 256).train_examples == 10_000
    assert [recipe_for("fast", width).learning_rate for width in (128, 384, 1024)] == [4e-4, 1.3e-4, 5e-5]


def test_a_recipe_of_which_values_are_given_has_the_others_from_its_name_by_width_and_kind_of_task():
    assert Recipe().completed(256) == recipe_for("small", 256)
    assert Recipe().completed(768) == recipe_for("electra", 768)
    asked = Recipe(name="electra", clip=0.5, length=64)
    assert asked.completed(1024) == recipe_for("electra", 1024).model_copy(update={"clip": 0.5, "length": 64})
    words = Recipe(name="small", epochs=7).completed(256, "tokens")
    assert (words.rates, words.length, words.epochs) == ([3e-4, 1e-3], 256, 7)


def test_a_number_of_epochs_that_is_given_holds_for_every_task_and_however_few_the_examples_are():
    for name in ("small", "electra", "bert", "fast"):
        recipe = Recipe(name=name, epochs=5).completed(256)
        assert [recipe.epochs_of(task, batches) for task in ("rte", "sst2") for batches in (1, 100)] == [5] * 4
    assert Recipe(name="small", epochs=5, least_updates=40).completed(256).epochs_of("sst2", 4) == 10
    assert Recipe(name="small", epochs_by_task={"rte": 2}).completed(256).epochs_of("rte", 1) == 2


@pytest.mark.parametrize(
    ("name", "width", "rate", "cell"),
    [
        ("electra", 256, None, "rte-electra-0-1cc55f242c85"),
        ("electra", 1024, None, "rte-electra-0-c01d9615087f"),
        ("bert", 768, None, "rte-bert-0-02ba65d82f60"),
        ("fast", 256, None, "rte-fast-0-75ad878f5295"),
        ("small", 256, 3e-4, "rte-small-0-52a33e5042b3"),
    ],
)
def test_the_cells_of_an_unchanged_recipe_have_the_names_that_they_had_before_recipes_were_sections(
    name, width, rate, cell
):
    recipe = recipe_for(name, width)
    recipe = recipe.model_copy(update={"learning_rate": rate or recipe.learning_rate})
    assert make_cell("rte", "task", recipe.values(), 0, False, "model").name == cell
    changed = recipe.model_copy(update={"epochs": 9})
    assert make_cell("rte", "task", changed.values(), 0, False, "model").name != cell


def test_the_recipes_rate_is_the_loops():
    """ELECTRA's: (1 - update / updates) · min(1, (update + 1) / warm-up); Transformers' linear warm-up and fall."""
    electra, bert = recipe_for("electra", 256).optimizer(), recipe_for("bert", 256).optimizer()
    assert learning_rate(electra, 4, 100) == pytest.approx(3e-4 * 0.96 * 0.5)
    assert learning_rate(electra, 55, 100) == pytest.approx(3e-4 * 0.45)
    assert learning_rate(bert, 4, 100) == pytest.approx(5e-5 * 0.5)
    assert learning_rate(bert, 55, 100) == pytest.approx(5e-5 * 0.5)


def test_only_unordered_pairs_are_doubled_and_only_where_the_recipe_asks():
    task = replace(words_task(pairs=True), augment_swapped=True)
    doubled = training_task(task, changed(swapped=True)).train
    assert doubled.texts == task.train.texts + [(b, a) for a, b in task.train.texts]
    assert doubled.labels == [*task.train.labels, *task.train.labels]
    assert training_task(task, RECIPE) is task
    assert training_task(words_task(pairs=True), changed(swapped=True)).train.texts == task.train.texts


def test_a_cap_takes_the_same_examples_every_time():
    task = words_task()
    first, second = (training_task(task, changed(train_examples=50)).train for _ in range(2))
    assert first == second
    pairs = list(zip(task.train.texts, task.train.labels, strict=True))
    assert len(first) == 50
    assert all(pair in pairs for pair in zip(first.texts, first.labels, strict=True))


# Layer-wise decay: names and factors at decay 1/2, two layers, by hand


LAYERS = {"encoder.layer.0.": 0.25, "encoder.layer.1.": 0.5}
FACTORS = {
    "electra": {
        "electra.embeddings.": 0.125,
        "electra.embeddings_project.": 0.125,
        **{f"electra.{name}": factor for name, factor in LAYERS.items()},
        "classifier.": 1.0,
    },
    "bert": {
        "bert.embeddings.": 0.125,
        **{f"bert.{name}": factor for name, factor in LAYERS.items()},
        "bert.pooler.": 1.0,
        "classifier.": 1.0,
    },
    "modernbert": {
        "model.embeddings.": 0.125,
        "model.layers.0.": 0.25,
        "model.layers.1.": 0.5,
        "model.final_norm.": 1.0,
        "head.": 1.0,
        "classifier.": 1.0,
    },
    "mpnet": {
        "mpnet.embeddings.": 0.125,
        "mpnet.encoder.relative_attention_bias.": 0.125,
        **{f"mpnet.{name}": factor for name, factor in LAYERS.items()},
        "classifier.": 1.0,
    },
    "deberta-v2": {
        "deberta.embeddings.": 0.125,
        "deberta.encoder.rel_embeddings.": 0.125,
        "deberta.encoder.LayerNorm.": 0.125,
        **{f"deberta.{name}": factor for name, factor in LAYERS.items()},
        "pooler.": 1.0,
        "classifier.": 1.0,
    },
}
OPTIONS = {
    "electra": {"embedding_size": 16},
    "deberta-v2": {"relative_attention": True, "norm_rel_ebd": "layer_norm", "position_buckets": 8},
}


@pytest.mark.parametrize("architecture", FACTORS)
def test_every_parameter_has_the_rate_of_its_layer_and_is_in_exactly_one_group(architecture, tmp_path, tokenizer):
    """google-research/electra#51: the last layer had decay², and every layer below one power too much."""
    write_model(build_model(shape(architecture, **OPTIONS.get(architecture, {})), "mlm", 0), tokenizer, tmp_path, "")
    model = load_classifier(tmp_path, "sequence", CLASSES, 0, 0.1)
    factors = rate_factors(model, 0.5)
    used = set()
    for name, _ in model.named_parameters():
        (prefix,) = [prefix for prefix in FACTORS[architecture] if name.startswith(prefix)]
        used.add(prefix)
        assert factors[name] == FACTORS[architecture][prefix], name
    assert used == set(FACTORS[architecture])
    parameters = dict(model.named_parameters())
    optimizer = GroupOptimizer(ParameterGroup.of("main", model, RECIPE.optimizer(), rate_factors=factors))
    stepped = [id(p) for group in optimizer.adamw.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(master) for master in optimizer.masters.values())
    assert len(stepped) == len(parameters)


def test_a_factor_scales_the_step_and_the_decay():
    settings = AdamWOptimizer(learning_rate=0.1, epsilon=1e-12, weight_decay=0.5, clip=None)
    parameters = {name: nn.Parameter(torch.full((2, 2), 3.0)) for name in ("a", "b")}
    maps = {name: LinearMap(hidden=True) for name in parameters}
    optimizer = GroupOptimizer(ParameterGroup("main", parameters, settings, maps, rate_factors={"b": 0.25}))
    for parameter in parameters.values():
        parameter.grad = torch.full((2, 2), 7.0)
    tiny.step(optimizer, 0.1)
    # Adam's first step is the rate times the gradient's sign.
    assert parameters["a"][0, 0].item() == pytest.approx(3.0 * (1 - 0.1 * 0.5) - 0.1)
    assert parameters["b"][0, 0].item() == pytest.approx(3.0 * (1 - 0.025 * 0.5) - 0.025)


# Loading


def same_encoder(model, weights: dict[str, torch.Tensor], prefix: str) -> None:
    own = model.base_model.state_dict()
    shared = {key: weights[prefix + key] for key in own if prefix + key in weights}
    assert len(shared) == len(own)
    assert all(torch.equal(own[key], value) for key, value in shared.items())


def test_a_runs_encoder_is_loaded_whole_under_a_new_head(auxiliary):
    model = load_classifier(auxiliary / "model", "sequence", ("a", "b", "c"), 0, 0.1)
    stored = load_file(auxiliary / "model" / "model.safetensors")
    same_encoder(model, stored, "model.")
    assert model.classifier.out_features == 3
    # The vocabulary head's layer has the same name and shape as the classifier's, and another meaning.
    assert model.head.dense.weight.shape == stored["head.dense.weight"].shape
    assert not torch.equal(model.head.dense.weight, stored["head.dense.weight"])


def test_an_electra_export_a_detector_and_a_bare_encoder_are_loaded_whole(tmp_path, tokenizer):
    electra = build_model(shape("electra"), "rtd", 1)
    write_model(electra, tokenizer, tmp_path / "electra", "")
    same_encoder(load_classifier(tmp_path / "electra", "sequence", CLASSES, 0, 0.1), electra.state_dict(), "electra.")
    detector = build_model(shape("modernbert"), "rtd", 1)
    write_model(detector, tokenizer, tmp_path / "detector", "")
    model = load_classifier(tmp_path / "detector", "token", CLASSES, 0, 0.1)
    same_encoder(model, detector.state_dict(), "model.")
    stored = load_file(tmp_path / "detector" / "model.safetensors")
    assert model.classifier.weight.shape == stored["classifier.weight"].shape  # two labels, but not these
    assert not torch.equal(model.classifier.weight, stored["classifier.weight"])
    assert model.config.id2label == {0: "left", 1: "right"}
    bare = load_encoder(tmp_path / "electra")
    bare.save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    same_encoder(load_classifier(tmp_path / "bare", "sequence", CLASSES, 0, 0.1), bare.state_dict(), "")


def test_heads_and_missing_poolers_come_from_the_seed_alone(tmp_path, tokenizer):
    write_model(build_model(shape("bert"), "mlm", 1), tokenizer, tmp_path, "")  # has no pooler
    torch.manual_seed(1)
    first = load_classifier(tmp_path, "sequence", CLASSES, 5, 0.1).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = load_classifier(tmp_path, "sequence", CLASSES, 5, 0.1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    other = load_classifier(tmp_path, "sequence", CLASSES, 6, 0.1).state_dict()
    differing = {key.rpartition(".")[0] for key in first if not torch.equal(first[key], other[key])}
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert differing == {"bert.pooler.dense", "classifier"}


def test_an_untrained_encoder_has_the_same_shape_and_other_weights(tagger):
    trained, untrained = (load_classifier(tagger, "sequence", CLASSES, 0, 0.1, untrained=u) for u in (False, True))
    first, second = trained.state_dict(), untrained.state_dict()
    assert {key: value.shape for key, value in first.items()} == {key: value.shape for key, value in second.items()}
    assert not torch.equal(first["model.layers.0.attn.Wqkv.weight"], second["model.layers.0.attn.Wqkv.weight"])


def test_dropout_is_the_recipes_whatever_the_model_was_trained_with(tagger):
    rates = {m.p for m in load_classifier(tagger, "sequence", CLASSES, 0, 0.25).modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.25}


def test_what_cannot_be_used_is_refused(tmp_path, tagger, tokenizer):
    weights = load_file(tagger / "model.safetensors")
    model = load_model(tagger, "mlm")
    broken = tmp_path / "broken"
    write_model(model, tokenizer, broken, "")
    tiny.unsealed(broken)
    save_file({k: v for k, v in weights.items() if "layers.1" not in k}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"broken has no weights for layers\.1\..* and \d+ more: its encoder is not a"):
        load_classifier(broken, "sequence", CLASSES, 0, 0.1)
    with pytest.raises(ModelError, match=r"broken has no weights for layers\.1\."):
        load_encoder(broken)
    save_file(weights | {"model.final_norm.weight": torch.full((32,), torch.nan)}, broken / "model.safetensors")
    with pytest.raises(ModelError, match="NaN"):
        load_encoder(broken)
    mute = tmp_path / "mute"
    model.save_pretrained(mute)
    with pytest.raises(DataError, match="mute holds no tokenizer: save the one that belongs to its model there"):
        fine_tune(mute, words_task(), RECIPE, 0, CPU)
    small = tmp_path / "small"
    write_model(
        build_model(transformers_config(ModelConfig(**SHAPE), 300, SPECIAL, 64), "mlm", 0), tokenizer, small, ""
    )
    with pytest.raises(ModelError, match="embeddings for 300 tokens and a tokenizer of 320"):
        load_task_tokenizer(small)


# Tokens and batches


def test_longer_texts_are_cut_and_counted(tokenizer):
    texts = [("value",), ("value total " * 40,), ("count",), ("name " * 60,)]
    found = encode(Split(texts, [0, 1, 0, 1]), "classification", tokenizer, 16)
    assert found.truncated == 2
    assert found.lengths.max() == 16
    for example in range(4):
        ids = found.ids[found.starts[example] : found.starts[example + 1]]
        assert (ids[0], ids[-1]) == (SPECIAL["cls"], SPECIAL["sep"])
    pairs = encode(Split([("value", "total " * 40)], [0]), "classification", tokenizer, 16)
    assert (pairs.ids == SPECIAL["sep"]).sum() == 2  # the longer text was cut, not the shorter one
    assert tokenizer.decode(pairs.ids[1:4].tolist()).startswith("value")


def test_no_text_is_longer_than_the_models_positions(tmp_path, tokenizer):
    for architecture in ("electra", "mpnet"):
        model = build_model(shape(architecture), "mlm", 0)
        write_model(model, tokenizer, tmp_path / architecture, "")
        tokenizer_ = load_task_tokenizer(tmp_path / architecture)
        tokenizer_.model_max_length = 1000
        longest = longest_text(model.config, tokenizer_, 128)
        assert longest == 64
        found = encode(Split([("value " * 200,)], [0]), "classification", tokenizer_, longest)
        batch = collate(found, np.array([0]), Padding(SPECIAL["pad"], longest, 1))
        assert batch.ids_BS.shape[1] == 64
        assert (
            load_classifier(tmp_path / architecture, "sequence", CLASSES, 0, 0.0)(**batch.inputs())
            .logits.isfinite()
            .all()
        )


def test_a_word_is_judged_at_its_first_token(tokenizer):
    words = ("function_7", "x", "", "total")
    found = encode(Split([words], [[1, 0, 1, 0]]), "tokens", tokenizer, 48)
    ids = found.ids.tolist()
    spans = [tokenizer.decode([ids[place]]).strip() if place >= 0 else None for place in found.words]
    assert spans[2] is None  # an empty word has no token
    for word, piece in zip(words, spans, strict=True):
        assert piece is None or word.startswith(piece)
    assert found.words[0] == 1
    batch = collate(found, np.array([0]), Padding(SPECIAL["pad"], 48, 1))
    places = found.words[found.words >= 0]
    assert batch.labels[0, places].tolist() == [1, 0, 0]
    cut = encode(Split([words * 10], [[1, 0, 1, 0] * 10]), "tokens", tokenizer, 12)
    assert cut.words.max() <= 10  # before [SEP]
    assert (cut.words[-4:] == -1).all()


def test_every_example_comes_once_an_epoch_in_batches_of_like_lengths(tokenizer):
    draw = random.Random(0)
    texts = [(" ".join(sentence(draw, "left", 35)),) for _ in range(1_003)]
    encoded = encode(Split(texts, [0] * 1_003), "classification", tokenizer, 48)
    padding = Padding(SPECIAL["pad"], 48, 8)
    buckets = LengthBuckets(encoded, 16, 3, padding)
    first, second = buckets.epoch(0), buckets.epoch(1)
    assert buckets.per_epoch == len(first) == 63
    for epoch in (first, second):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(1_003))
    assert [b.tolist() for b in first] != [b.tolist() for b in second]
    assert [b.tolist() for b in LengthBuckets(encoded, 16, 4, padding).epoch(0)] != [b.tolist() for b in first]
    # The smaller batch weighs its examples more: it must not be the longest ones that are left over.
    rest = [next(batch for batch in buckets.epoch(number) if len(batch) == 1_003 % 16) for number in range(20)]
    assert np.mean(encoded.lengths[np.concatenate(rest)]) == pytest.approx(encoded.lengths.mean(), rel=0.1)
    # A pure function of (seed, update), whatever was asked for before.
    other = LengthBuckets(encoded, 16, 3, padding)
    for update in (70, 0, 5, 62, 63):
        assert torch.equal(buckets.at(update).ids_BS, other.at(update).ids_BS)
    tokens = encoded.lengths.sum()
    in_order = sum(16 * encoded.lengths[start : start + 16].max() for start in range(0, 1_003, 16))
    assert tokens / in_order < 0.7
    # Within a window of 800 lengths up to 48 hardly differ between neighbours; rounding up to 8 loses half of 8.
    for multiple, filled in ((1, 0.95), (8, 0.8)):
        bucketed = LengthBuckets(encoded, 16, 3, Padding(SPECIAL["pad"], 48, multiple))
        batches = [bucketed.at(update) for update in range(63)]
        assert {batch.ids_BS.shape[1] % multiple for batch in batches} == {0}
        assert sum(batch.tokens for batch in batches) == tokens
        assert tokens / sum(batch.ids_BS.numel() for batch in batches) > filled


def test_a_batch_can_be_split_and_moved(tokenizer):
    for task in (words_task(), tokens_task()):
        encoded = encode_task(task, tokenizer, 48, False).train
        batch = collate(encoded, np.arange(10), Padding(SPECIAL["pad"], 48, 1))
        parts = batch.to("cpu").split(4)
        assert [len(part.labels) for part in parts] == [4, 4, 2]
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
        assert sum(part.tokens for part in parts) == batch.tokens


def test_every_value_is_counted_and_no_word_that_has_no_label(tagger, tokenizer):
    """-100 stands for "no label" among words, and is a value like others for a regression."""
    model = load_classifier(tagger, "sequence", (), 0, 0.0)
    batch = collate(
        encode_task(values_task(), tokenizer, 48, False).train, np.arange(8), Padding(SPECIAL["pad"], 48, 1)
    )
    batch.labels[:3] = -100.0
    assert FineTuning(model, "regression").counts(batch)["task"] == 8
    encoded = encode_task(tokens_task(), tokenizer, 48, False).train
    words = collate(encoded, np.arange(8), Padding(SPECIAL["pad"], 48, 1))
    assert (
        FineTuning(model, "tokens").counts(words)["task"] == encoded.starts[8] - 2 * 8
    )  # all tokens but [CLS] and [SEP]


def test_texts_that_were_cut_are_counted_once_where_examples_are_doubled(tagger):
    task = replace(words_task(40, pairs=True), augment_swapped=True)
    short = changed(epochs=1, length=12), changed(epochs=1, length=12, swapped=True)
    once, doubled = (fine_tune(tagger, task, recipe, 0, CPU) for recipe in short)
    assert 0 < once.truncated["train"] == doubled.truncated["train"] <= 40
    assert doubled.updates == 2 * once.updates - 1  # 40 and 80 examples by 16


@pytest.mark.parametrize("architecture", FACTORS)
def test_padding_and_company_change_no_logit_beyond_rounding(architecture, tmp_path, tokenizer):
    write_model(build_model(shape(architecture, **OPTIONS.get(architecture, {})), "mlm", 0), tokenizer, tmp_path, "")
    task = words_task(40)
    encoded = encode_task(task, tokenizer, 48, False).train
    objective = FineTuning(load_classifier(tmp_path, "sequence", CLASSES, 0, 0.0), "classification")
    together = objective.predict(encoded, Padding(SPECIAL["pad"], 48, 8), CPU)
    for example in (0, 7, 39):
        ids = encoded.ids[encoded.starts[example] : encoded.starts[example + 1]].astype(np.int64)
        alone = objective.model(input_ids=torch.from_numpy(ids)[None]).logits
        # float32, two layers of width 32
        np.testing.assert_allclose(alone.detach().numpy()[0], together[example], rtol=0, atol=2e-6)


def test_segments_are_given_where_tokenizer_and_model_know_them(tmp_path, tokenizer):
    knowing = copy.deepcopy(tokenizer)
    knowing.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    for architecture, given, expected in (
        ("bert", knowing, True),
        ("bert", tokenizer, False),
        ("modernbert", knowing, False),
        ("distilbert", knowing, False),
    ):
        model = build_model(shape(architecture), "mlm", 0)
        assert uses_segments(model.config, given) == expected
        cell_folder = tmp_path / f"{architecture}-{expected}"
        write_model(model, given, cell_folder, "")
        cell = fine_tune(cell_folder, words_task(40, pairs=True), changed(epochs=1), 0, CPU)
        assert cell.failed is None
    found = encode(Split([("value", "total count")], [0]), "classification", knowing, 48, segments=True)
    batch = collate(found, np.array([0]), Padding(SPECIAL["pad"], 48, 8))
    first_sep = batch.ids_BS[0].tolist().index(SPECIAL["sep"])
    assert batch.types_BS[0, : first_sep + 1].tolist() == [0] * (first_sep + 1)
    assert batch.types_BS[0, first_sep + 1 : batch.tokens].unique().tolist() == [1]


# Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_dropout_drops_the_share_that_is_asked_for_forward_and_backward(dtype):
    values = torch.ones(3, 333, 101, dtype=dtype, requires_grad=True)
    with FastDropout():
        found = nn.Dropout(0.1)(values)
        again = nn.functional.dropout(values, 0.1)
        assert nn.Dropout(0.1).eval()(values) is values
        assert nn.functional.dropout(values, 0.0) is not None
    found.sum().backward()
    kept = found != 0
    count = values.numel()
    assert abs(kept.double().mean() - 0.9) < 5 * (0.09 / count) ** 0.5  # five standard deviations
    assert abs(kept.double().mean(0).mean(0) - 0.9).max() < 5 * (0.09 / 999) ** 0.5  # nowhere more than elsewhere
    assert len(set(found[kept].tolist())) == 1
    assert found.max().item() == pytest.approx(1 / 0.9, rel=1e-5 if dtype == torch.float32 else 2**-8)
    assert torch.equal(values.grad, found.detach())
    assert not torch.equal(found, again)
    # Neighbours, of which four come from one number, are independent.
    pairs = kept.flatten()[: count // 4 * 4].view(-1, 4)
    for a, b in ((0, 1), (1, 2), (2, 3), (0, 3)):
        assert abs((pairs[:, a] & pairs[:, b]).double().mean() - 0.81) < 5 * (0.81 * 0.19 / len(pairs)) ** 0.5


def test_fast_dropout_is_a_function_of_the_seed():
    values = torch.randn(7, 13)
    torch.manual_seed(3)
    first = drop(values, 0.5)
    torch.manual_seed(3)
    assert torch.equal(drop(values, 0.5), first)
    assert not torch.equal(drop(values, 0.5), first)


# Learning


def test_a_toy_task_is_learned(learned):
    assert learned.failed is None
    assert learned.scores["dev"]["accuracy"] > 0.9
    assert learned.degenerate == []
    assert learned.updates == 5 * 15
    assert len(learned.predictions["dev"]) == learned.n_dev == 60
    assert learned.truncated == {"train": 0, "dev": 0, "test": 0}
    assert learned.timing["examples_per_second"] > 0


def test_the_same_seed_gives_the_same_predictions_and_another_seed_another_model(tagger, learned):
    recipe = changed(epochs=1, dropout=0.1)
    first, again, other = (fine_tune(tagger, values_task(), recipe, seed, CPU) for seed in (0, 0, 1))
    assert first.predictions == again.predictions
    assert first.predictions != other.predictions


def test_a_record_is_json_and_holds_what_repeats_it(learned, tagger):
    record = json.loads(json.dumps(learned.record()))
    assert record["recipe"]["learning_rate"] == 3e-3
    assert (record["task"], record["model"], record["seed"], record["n_train"]) == ("words", str(tagger), 0, 240)
    assert record["execution"]["precision"] == "float32"
    assert set(record["versions"]) == {"fast_electra", "torch", "transformers", "python"}
    assert record["digest"] == words_task().digest


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16_autocast"])
def test_bfloat16_learns_too(precision, tagger):
    execution = Execution(torch.device("cpu"), precision, torch.bfloat16, 1)
    assert fine_tune(tagger, words_task(), RECIPE, 0, execution).scores["dev"]["accuracy"] > 0.9


def test_values_are_learned_in_any_unit(tagger):
    cell = fine_tune(tagger, values_task(), changed(epochs=8), 0, CPU)
    assert cell.scores["dev"]["pearson"] > 0.8
    assert 1000 < np.mean(cell.predictions["dev"]) < 1300


def test_words_are_learned_and_cut_ones_are_outside(tagger):
    task = tokens_task()
    cell = fine_tune(tagger, task, changed(epochs=8), 0, CPU)
    assert cell.scores["dev"]["entity_f1"] > 0.9
    assert [len(found) for found in cell.predictions["dev"]] == [len(words) for words in task.dev["dev"].texts]
    short = fine_tune(tagger, task, changed(epochs=1, length=5), 0, CPU)
    assert short.truncated["dev"] > 20
    longest = max(range(40), key=lambda i: len(task.dev["dev"].texts[i]))
    assert short.predictions["dev"][longest][5:] == [0] * (len(task.dev["dev"].texts[longest]) - 5)


def test_cutting_the_token_table_changes_nothing(tagger, tmp_path, monkeypatch):
    recipe, task = changed(epochs=1, layerwise_decay=0.9), words_task()
    fine_tune(tagger, task, recipe, 0, CPU, save=tmp_path / "cut")
    monkeypatch.setattr(fine_tuning, "cut_table", lambda model, tokens: None)
    fine_tune(tagger, task, recipe, 0, CPU, save=tmp_path / "whole")
    cut, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "whole"))
    for key, value in whole.items():
        # The norm that gradients are clipped to sums in another order.
        torch.testing.assert_close(cut[key], value, rtol=0, atol=1e-5)
    tokenizer = load_task_tokenizer(tagger)
    never = sorted(set(range(320)) - set(encode_task(task, tokenizer, 48, False).tokens.tolist()))
    table = "model.embeddings.tok_embeddings.weight"
    assert len(never) > 100
    assert torch.equal(cut[table][never], load_file(tagger / "model.safetensors")[table][never])
    assert not torch.equal(cut[table], load_file(tagger / "model.safetensors")[table])


@pytest.mark.parametrize(
    "architecture", ["electra", "roberta", "mpnet", "deberta-v2", "distilbert", "nomic_bert", "eurobert"]
)
def test_a_cut_table_gives_the_same_logits(architecture, tmp_path, tokenizer):
    """RoBERTa and MPNet count their positions from the ids, so ids must stay what they are."""
    write_model(build_model(shape(architecture), "mlm", 0), tokenizer, tmp_path, "")
    encoded = encode_task(words_task(20), tokenizer, 48, False)
    model = load_classifier(tmp_path, "sequence", CLASSES, 0, 0.0).eval()
    batch = collate(encoded.train, np.arange(20), Padding(SPECIAL["pad"], 48, 1))
    before = model(**batch.inputs()).logits
    cut_table(model, torch.unique(torch.cat((encoded.tokens, torch.tensor([SPECIAL["pad"]])))))
    assert model.get_input_embeddings().weight.shape[0] < 100
    assert torch.equal(model(**batch.inputs()).logits, before)


def test_a_saved_model_predicts_the_same_in_transformers_alone(tagger, tmp_path):
    for task, auto in (
        (words_task(), AutoModelForSequenceClassification),
        (values_task(), AutoModelForSequenceClassification),
        (tokens_task(), AutoModelForTokenClassification),
    ):
        folder = tmp_path / task.name
        cell = fine_tune(tagger, task, changed(epochs=2), 0, CPU, save=folder)
        model, tokenizer = auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert "fast_electra" not in (folder / "config.json").read_text()
        for example in (0, 1, 2):
            text = task.dev["dev"].texts[example]
            inputs = tokenizer(" ".join(text), return_tensors="pt")
            logits = model(**inputs).logits[0].detach()
            expected = cell.predictions["dev"][example]
            if task.kind == "regression":
                assert logits.item() == pytest.approx(expected, abs=1e-2)  # of about 1,000, in float32
            elif task.kind == "classification":
                assert logits.argmax().item() == expected
                assert model.config.id2label[expected] == CLASSES[expected]
            else:
                assert logits.argmax(1)[1].item() == expected[0]


def test_an_intermediate_task_gives_its_encoder_and_not_its_head(tagger, tmp_path):
    saved = tmp_path / "words"
    fine_tune(tagger, words_task(), RECIPE, 0, CPU, save=saved)
    recipe = changed(epochs=1, learning_rate=1e-4)
    plain, started = (fine_tune(tagger, words_task(seed=1), recipe, 0, CPU, start=s) for s in (None, saved))
    assert (plain.start, started.start) == (None, str(saved))
    assert started.scores["dev"]["accuracy"] > 0.9 > plain.scores["dev"]["accuracy"]
    model = load_classifier(saved, "sequence", CLASSES, 0, 0.0)
    stored = load_file(saved / "model.safetensors")
    same_encoder(model, stored, "model.")
    assert not torch.equal(model.classifier.weight, stored["classifier.weight"])


# Failures


def test_one_update_that_is_not_finite_is_a_failure_also_if_later_ones_are(tagger, monkeypatch):
    terms, calls = FineTuning.terms, iter(range(1, 1000))

    def broken(self, prepared, progress, seed):
        found = terms(self, prepared, progress, seed)
        loss, count = found.losses["task"]
        return Terms({"task": (loss * (float("nan") if next(calls) == 7 else 1.0), count)})

    monkeypatch.setattr(FineTuning, "terms", broken)
    cell = fine_tune(tagger, words_task(), changed(epochs=1), 0, CPU)
    assert cell.failed.startswith("diverged: loss or gradient was not finite at update 7 of ")


def test_a_run_that_diverges_is_recorded_with_its_reason(tagger):
    cell = fine_tune(tagger, words_task(), changed(learning_rate=1e38), 0, CPU)
    assert re.fullmatch(
        r"diverged: (loss or gradient was not finite at update \d+ of 75|predictions are .*)", cell.failed
    )
    assert (cell.scores, cell.predictions) == ({}, {})
    json.dumps(cell.record(), allow_nan=False)


def test_a_run_that_names_one_class_only_is_called_degenerate(tagger):
    blank = Split([("value",)] * 40, [0, 1] * 20)
    cell = fine_tune(tagger, words_task(train=blank, dev={"dev": blank}), changed(epochs=1), 0, CPU)
    assert len(set(cell.predictions["dev"])) == 1
    assert cell.degenerate == ["dev"]
    assert cell.scores["dev"]["matthews"] == 0.0


def test_test_splits_are_predicted_and_not_scored(tagger):
    unlabelled = Split([("left",), ("right total",)], [])
    cell = fine_tune(tagger, words_task(test={"test": unlabelled}), RECIPE, 0, CPU)
    assert cell.test_predictions == {"test": [0, 1]}
    assert set(cell.scores) == {"dev"}


# The bug-finding benchmark


def test_bugs_come_in_pairs_that_stay_together():
    train = tiny.documents(240, seed=1)
    held_out = [*tiny.documents(30, seed=2), *train[:10]]
    task = bug_task(BugBenchmark(train, held_out), train_functions=50, dev_functions=60)
    assert task.labels == ("clean", "changed")
    for split in (task.train, task.dev["dev"]):
        assert split.labels == [0, 1] * (len(split) // 2)
        for (clean,), (changed,) in zip(split.texts[::2], split.texts[1::2], strict=True):
            assert clean != changed
            assert clean.splitlines()[0].split("(")[0] == changed.splitlines()[0].split("(")[0]
            assert max(len(clean), len(changed)) <= 260
    assert len(task.train) == 100
    assert not set(task.train.texts) & set(task.dev["dev"].texts)  # the ten functions that both have
    assert len(set(task.train.texts)) == 100
    assert bug_task(BugBenchmark(train, held_out), train_functions=50, dev_functions=60).digest == task.digest
    with pytest.raises(DataError, match="the held-out texts have no function"):
        bug_task(BugBenchmark(train, []))


def test_a_decoder_without_a_padding_id_is_judged_by_its_last_token_whatever_its_padding(tmp_path, tokenizer):
    small = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2)
    assert small.pad_token_id is None
    GPT2LMHeadModel(small).save_pretrained(tmp_path)
    tokenizer.save_pretrained(str(tmp_path))
    assert fine_tune(tmp_path, words_task(), RECIPE, 0, CPU, save=tmp_path / "tuned").failed is None
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned").eval()
    one, two = ([2, *range(10, end), 3] for end in (14, 20))
    padded = torch.tensor([one + [tokenizer.pad_token_id] * 6, two])
    with torch.no_grad():
        together = model(padded, attention_mask=(padded != tokenizer.pad_token_id).long()).logits
        alone = model(torch.tensor([one])).logits
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)
