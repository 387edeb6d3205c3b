"""Every preset and every choice of the configuration, shrunk to a toy, trains ten updates.

The choices are read from the tree, so a new one has its run here without a line being added.
"""

import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from fast_electra.config import load_config, preset_names
from fast_electra.config.keys import keys
from fast_electra.config.loading import resolve
from fast_electra.config.tree import Config
from fast_electra.data.shard_building import build_shards
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.shapes import ModelConfig
from fast_electra.studies.bench.parts import build_part
from fast_electra.studies.bench.setup import prepare
from fast_electra.studies.cost import cost
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import make_update
from fast_electra.training.precision import Execution
from fast_electra.training.setup import start, validate
from tests import tiny

CPU = Execution(torch.device("cpu"), "float32", torch.float32, 1)
SHAPE = {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 48}
CHOICES = [
    *("objective.kind", "objective.sharing", "objective.clip"),
    *("corruption.masking.kind", "corruption.schedule.kind", "corruption.augmentation.kind", "auxiliary.kind"),
    *("main.embeddings", "main.start", "main.freeze", "data.attention", "optimizer.schedule", "optimizer.kind"),
]
BACKBONES = ["electra", "bert", "roberta", "modernbert", "deberta", "deberta-v2", "nomic_bert", "eurobert", "mpnet"]
OPTIONS = {"deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}}  # DeBERTaV3's


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Shards whose tokenizer has T5's sentinels, and an untrained auxiliary of each class with that tokenizer."""
    folder = tmp_path_factory.mktemp("toys")
    data = tiny.settings(folder).data
    texts = tiny.documents(80)
    tokenizer = tiny.train_tokenizer((document.text for document in texts), data.tokenizer, data.length)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<extra_id_{number}>" for number in range(8)]})
    build_shards(texts, tokenizer, folder / "shards", data)
    small = {"vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    causal = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, **small
    )
    both = T5Config(
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        feed_forward_proj="relu",
        **small,
    )
    masked = transformers_config(ModelConfig(**SHAPE), len(tokenizer), tiny.SPECIAL, 32)
    for name, model in {
        "masked_lm": build_model(masked, "mlm", 0),
        "causal_lm": LlamaForCausalLM(causal),
        "seq2seq": T5ForConditionalGeneration(both),
    }.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def shrunk(shape: dict[str, Any]) -> dict[str, Any]:
    """A shape of the same make: two layers of width 32, or as many layers as it describes one by one."""
    options = dict(shape["options"])
    if "embedding_size" in options:
        options["embedding_size"] = 16
    layers = len(options.get("layer_types", "12"))
    return shape | SHAPE | {"layers": layers, "options": options}


def toy(config: Config, toys) -> Config:
    """The configuration with small models, rows and batches, ten updates, and data and an auxiliary to run on."""
    tree = config.model_dump()
    tree["main"] = shrunk(tree["main"])
    if tree["objective"]["kind"] == "electra":
        tree["objective"]["generator"] = shrunk(tree["objective"]["generator"])
    if tree["objective"]["kind"] == "fast_electra":
        tree["auxiliary"]["model"] = str(toys / "masked_lm")
    tree["data"] |= {"shards": toys / "shards", "length": 32}
    tree["training"] |= {
        "updates": 10,
        "batch_size": 8,
        "micro_batch_size": None,
        "validation_sequences": 8,
    }
    tree["execution"] |= {"precision": "float32", "threads": 1}
    return Config.model_validate(tree)


def trained_ten_updates(config: Config) -> None:
    """Train; every loss is finite, weights have moved, and the measures are there."""
    parts = assemble(config, CPU)
    state, plan = start(config, parts, CPU)
    before = {name: tensor.clone() for name, tensor in state.tensors().items() if ".master." in name}
    for update in range(10):
        make_update(state, plan, parts.objective.prepare(parts.schedule.at(update), plan.seed), CPU)
    assert state.update == 10
    after = state.tensors()
    moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert len(moved) == len(before)
    assert all(tensor.isfinite().all() for tensor in after.values())
    found = validate(parts, CPU, state)
    assert found
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_trains_ten_updates_as_a_toy(name, toys):
    trained_ten_updates(toy(load_config(name), toys))


SMALL = ["main.hidden_size=32", "main.heads=2", "main.intermediate_size=48", "data.tokenizer.vocabulary_size=320"]
OVERRIDES = [
    *("main.layers=1", "main.layers=3", "main.layers=7", "data.length=8", "data.attention=document"),
    "main.architecture=bert",
]
NO_AUXILIARIES = [name for name in preset_names() if not name.endswith("auxiliary")]


def small(name: str, override: str) -> Config:
    layers = [] if override.startswith("main.layers") else ["main.layers=2"]
    return load_config(name, [*SMALL, *layers, override])


@pytest.mark.parametrize("override", OVERRIDES)
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_shown_and_built_with_a_small_override(name, override):
    config = small(name, override)
    resolve(config.model_dump(mode="json"))
    if types := config.main.options.get("layer_types"):
        assert len(types) == config.main.layers
        assert types[:4] == ["sliding_attention", "full_attention", "full_attention", "full_attention"][: len(types)]
    model = build_model(transformers_config(config.main, 320, tiny.SPECIAL, config.data.length), "mlm", 0)
    assert model.config.num_hidden_layers == config.main.layers


@pytest.mark.parametrize(
    ("name", "override"),
    [  # in the quick tests each preset and each override once
        pytest.param(name, override, marks=[] if (row - column) % len(OVERRIDES) == 0 else [pytest.mark.slow])
        for row, name in enumerate(NO_AUXILIARIES)
        for column, override in enumerate(OVERRIDES)
    ],
)
def test_every_preset_can_be_counted_with_a_small_override(name, override):
    config = small(name, override)
    found = cost(config, micro_batch=2)
    assert found["shape"]["main"]["layers"] == config.main.layers
    assert cost(config, micro_batch=2, auxiliary_layers=2)["shape"]["auxiliary"]["layers"] == 2


@pytest.mark.parametrize("name", NO_AUXILIARIES)
def test_every_preset_is_timed_for_an_update(name, tmp_path):
    execution = ["execution.precision=float32", "execution.threads=1"]
    config = load_config(name, [*SMALL, "main.layers=3", "data.length=16", *execution])
    training = config.training.model_copy(update={"batch_size": 4, "micro_batch_size": None})
    setup = prepare(config.model_copy(update={"training": training}), tmp_path)
    for part in ("online", "joint", "cached"):
        assert build_part(part, setup).run(0).updates == 0


@pytest.mark.parametrize(("key", "choice"), [(key, choice) for key in CHOICES for choice in keys()[key].choices])
def test_every_choice_trains_ten_updates(key, choice, toys):
    tree: dict[str, Any] = toy(tiny.settings(toys, "fast_electra"), toys).model_dump()
    section, name = key.rsplit(".", 1)
    if key.startswith("objective."):
        kind = choice if name == "kind" else "electra"
        tree["objective"] = {"kind": kind} | ({"generator": SHAPE} if kind == "electra" else {})
    if key == "main.freeze":
        tree["objective"] = {"kind": "mlm"}
    if key == "auxiliary.kind":
        folders = {"causal_lm": "causal_lm", "prefix_lm": "seq2seq", "span_corruption": "seq2seq"}
        counted = choice in ("unigram", "ngram", "uniform")
        tree["auxiliary"]["model"] = None if counted else str(toys / folders.get(choice, "masked_lm"))
    target = tree
    for part in section.split("."):
        if name == "kind" and part in ("schedule", "augmentation"):
            target[part] = {}  # settings of another kind
        target = target[part]
    target[name] = choice
    trained_ten_updates(Config.model_validate(tree))


@pytest.mark.parametrize("architecture", BACKBONES)
def test_every_backbone_trains_ten_updates(architecture, toys):
    tree = toy(tiny.settings(toys, "fast_electra"), toys).model_dump()
    tree["main"] |= {"architecture": architecture, "options": OPTIONS.get(architecture, {})}
    trained_ten_updates(Config.model_validate(tree))


def test_presets_of_published_runs_hold_the_published_figures():
    base, large = load_config("paper-base"), load_config("paper-large")
    for config, width, heads in ((base, 768, 12), (large, 1024, 16)):
        assert (config.main.hidden_size, config.main.heads, config.main.intermediate_size) == (width, heads, 4 * width)
        schedule = config.corruption.schedule
        assert (schedule.kind, schedule.initial, schedule.final, schedule.tau) == ("exponential", 2.0, 1.0, 0.1)  # type: ignore[union-attr]
    joint = load_config("electra-2020")
    generator = joint.objective.generator  # type: ignore[union-attr]
    assert generator.layers == joint.main.layers  # narrow, and as deep
    for name in ("hidden_size", "heads", "intermediate_size"):
        assert getattr(generator, name) * 4 == getattr(joint.main, name)
    assert joint.objective.model_dump(
        include={"kept", "random", "include_special", "sharing", "clip", "rtd_weight"}
    ) == {
        **{"kept": 0.15, "random": 0.0, "include_special": True, "sharing": "tied", "clip": "joint", "rtd_weight": 50.0}
    }
    assert not joint.optimizer.bias_correction
    assert joint.optimizer.warmup_multiplies
    assert joint.optimizer.warmup * joint.training.updates == 10_000  # type: ignore[operator]
