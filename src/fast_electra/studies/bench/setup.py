"""Prepares a bench: shards, an auxiliary and a cache. Tokens and weights are random if the configuration names none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from fast_electra import distributed
from fast_electra.config import Config, resolve
from fast_electra.data.shard_building import build_shards
from fast_electra.data.shards import TokenShards, open_shards
from fast_electra.data.sources import Document
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.data.tokenizer_training import SPECIAL_TOKENS
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.export import save_weights
from fast_electra.models.loading import stored_config
from fast_electra.models.shapes import ShapeConfig
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.runs.models import resolve_model
from fast_electra.studies.bench.peer import plain_refusal, txtai_refusal
from fast_electra.studies.cost import auxiliary_shape
from fast_electra.training.assembly import special_ids
from fast_electra.training.compilation import choose_compilation
from fast_electra.training.precision import Execution, choose_execution

BATCHES = 8
"""number of batches that are made and used in turn; a cache holds the same"""
_WORDS = 300  # words in a document of random tokens


@dataclass(frozen=True)
class Bench:
    """The configurations of the parts, with device and precision."""

    online: Config
    joint: Config
    cached: Config
    execution: Execution
    skipped: dict[str, str]
    """reason for each part that cannot run"""


def prepare(config: Config, folder: Path) -> Bench:
    """Make data, an auxiliary and a cache for the parts in a folder, and return the parts' configurations."""
    shape = auxiliary_shape(config)
    config = _timed(config)
    execution = choose_execution(config.execution)
    config = with_settings(config, training={"compile": choose_compilation(config, execution)})
    folder.mkdir(parents=True, exist_ok=True)
    if config.data.shards is None:
        config = with_settings(config, data={"shards": str(_random_shards(config, folder / "shards"))})
    assert config.data.shards is not None
    shards = open_shards(config.data.shards, verify=False)
    if config.auxiliary.model is None:
        _random_auxiliary(shape, config, shards, folder / "auxiliary")
        config = with_settings(config, auxiliary={"model": str(folder / "auxiliary"), "layers": None})
    main, generator = (transformers_config_of(s, config, shards) for s in (config.main, shape))
    alike = _width(main) == _width(generator)
    joint = with_settings(
        config,
        main={"embeddings": "fresh"},
        auxiliary={"model": None, "layers": None},
        objective={
            "kind": "electra",
            "generator": shape.model_dump(mode="json", include=set(ShapeConfig.model_fields)),
            "sharing": "tied" if alike else "none",
        },
    )
    cached = with_settings(config, training={"updates": BATCHES})
    build_cache(cached, folder / "cache")
    cached = with_settings(cached, corruption={"cache": str(folder / "cache")})
    if config.main.embeddings == "fresh":
        cached = with_settings(cached, auxiliary={"model": None, "layers": None})
    skipped = {"peer_best": plain_refusal(generator), "peer_default": txtai_refusal()}
    if not alike:
        skipped["peer_default"] = "txtai shares the embeddings, and their widths differ in this shape"
    return Bench(config, joint, cached, execution, {name: why for name, why in skipped.items() if why})


def _timed(config: Config) -> Config:
    """A configuration for timing: a frozen auxiliary, a micro-batch per process, and schedules that do not change.

    The weights are new, which does not change the time. `main.embeddings=auxiliary_plus_delta` stays.
    """
    batch = config.training.rows_at_a_time
    budget = {"updates": 10**6, "tokens": None, "flops": None, "hours": None}
    rows = {"batch_size": batch * distributed.size(), "micro_batch_size": batch}
    training = {**rows, "validation_sequences": 8, **budget}
    is_delta = config.main.embeddings == "auxiliary_plus_delta"
    main = {"start": "fresh", "embeddings": config.main.embeddings if is_delta else "fresh"}
    return with_settings(config, training=training, main=main, objective={"kind": "fast_electra"})


def with_settings(config: Config, **sections: dict[str, Any]) -> Config:
    """A configuration with some settings of each section changed; the section `objective` is replaced as a whole."""
    tree = config.model_dump(mode="json")
    for name, changed in sections.items():
        tree[name] = changed if name == "objective" else tree[name] | changed
    return resolve(tree)


def _random_shards(config: Config, folder: Path) -> Path:
    """Write shards of random words that follow Zipf's law, with as many rows as the bench uses."""
    size = config.data.tokenizer.vocabulary_size
    special = {token: number for number, token in enumerate(SPECIAL_TOKENS.values())}
    words = {f"w{number}": number for number in range(len(special), size)}
    backend = Tokenizer(models.WordLevel({**special, **words}, unk_token=SPECIAL_TOKENS["unk"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=config.data.length,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in SPECIAL_TOKENS.items()},
    )
    frequencies = 1.0 / np.arange(1, len(words) + 1)
    # A tenth of the documents is held out for validation, so there must be some dozens.
    count = max(2 * BATCHES * config.training.batch_size * config.data.length, 100 * _WORDS)
    drawn = np.random.default_rng(0).choice(len(words), count, p=frequencies / frequencies.sum()) + len(special)
    documents = [
        Document(" ".join(f"w{number}" for number in drawn[start : start + _WORDS]), f"random {start}")
        for start in range(0, count, _WORDS)
    ]
    # In this process: starting others takes longer than these few tokens.
    build_shards(
        documents, tokenizer, folder, config.data.model_copy(update={"validation_fraction": 0.1, "workers": 1})
    )
    return folder


def _random_auxiliary(shape: ShapeConfig, config: Config, shards: TokenShards, folder: Path) -> None:
    tokenizer = load_tokenizer(shards.folder / "tokenizer")
    save_weights(build_model(transformers_config_of(shape, config, shards), "mlm", seed=0), folder)
    tokenizer.save_pretrained(str(folder))


def transformers_config_of(shape: ShapeConfig, config: Config, shards: TokenShards) -> PreTrainedConfig:
    """The Transformers configuration of a shape: that of its existing model, or a new one for the shards."""
    if shape.model is not None:
        return stored_config(resolve_model(shape.model))
    special = special_ids(load_tokenizer(shards.folder / "tokenizer"))
    return transformers_config(shape, shards.vocabulary_size, special, config.data.length)


def _width(config: PreTrainedConfig) -> int:
    return getattr(config, "embedding_size", config.hidden_size)


def generator_shape(config: Config) -> ShapeConfig:
    """The shape of the generator of joint ELECTRA."""
    shape = config.objective.generator_shape
    assert shape is not None
    return shape
