"""The models that a run trains: fresh in the shape of the configuration, or continued from a checkpoint."""

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from fast_electra.config.loading import setting
from fast_electra.corruption.counted import unigram_log_probabilities
from fast_electra.data.tokenizer import fingerprint, load_tokenizer
from fast_electra.errors import ConfigError, ModelError
from fast_electra.models.build import Head, build_model, start_at_unigram, transformers_config
from fast_electra.models.inputs import longest_row
from fast_electra.models.loading import continue_model
from fast_electra.models.shapes import ShapeConfig
from fast_electra.runs.models import resolve_model

if TYPE_CHECKING:
    from fast_electra.training.assembly import Inputs


def trained_model(inputs: "Inputs", head: Head) -> PreTrainedModel:
    """The main model of the configuration, fresh or continued, with its head; the encoder frozen where asked."""
    config = inputs.config
    model = model_of(inputs, config.main, "main", head, config.training.seed)
    if config.main.freeze == "encoder":
        # An output layer that is tied to the token embeddings is frozen with them: they are the encoder's.
        cast(nn.Module, model.base_model).requires_grad_(False)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        if not trained:
            raise ConfigError(
                f"main.freeze=encoder leaves nothing to train: the {head} head of this {model.config.model_type} is "
                "its token embeddings again; give main.freeze=none."
            )
        inputs.notes.append(f"the encoder is frozen: {trained:,} weights of the head are trained.")
    return model


def model_of(inputs: "Inputs", shape: ShapeConfig, key: str, head: Head, seed: int) -> PreTrainedModel:
    """The model of a section of the configuration: fresh in its shape, or continued from a checkpoint.

    It is on the run's device: what it shares with another model would take a part of that one there alone.
    A vocabulary head's output bias starts at the log unigram frequencies, unless it is loaded.

    Args:
        inputs: takes note of what was loaded.
        shape: the section.
        key: its name, for errors.
        head: what the model is trained for.
        seed: of new weights.
    """
    shards = inputs.shards
    if shape.model is None:
        config = transformers_config(shape, shards.vocabulary_size, inputs.special, inputs.config.data.length, key)
        model = build_model(config, head, seed)
    else:
        model = _continued(inputs, shape, shape.model, key, head, seed)
    if head == "mlm":
        allowed_V = torch.ones(shards.vocabulary_size, dtype=torch.bool)
        allowed_V[list(shards.special_tokens.values())] = False
        start_at_unigram(model, unigram_log_probabilities(shards.split("train"), allowed_V))
    return model.to(inputs.execution.device)  # type: ignore[arg-type]


def _continued(inputs: "Inputs", shape: ShapeConfig, source: str, key: str, head: Head, seed: int) -> PreTrainedModel:
    shards, length = inputs.shards, inputs.config.data.length
    tokenizer = load_tokenizer(resolve_model(source))
    if fingerprint(tokenizer) != shards.tokenizer_fingerprint:
        raise ModelError(
            f"{key}.model={source} has another tokenizer than the shards {shards.folder}: build the shards with "
            f"{setting('data.tokenizer.path', resolve_model(source))}."
        )
    model, note = continue_model(resolve_model(source), head, seed, shape.dropout)
    longest = longest_row(model.config)
    if longest is not None and length > longest:
        raise ModelError(
            f"{key}.model={source} takes rows of {longest} tokens, fewer than data.length={length}: "
            f"set data.length={longest} or less."
        )
    if model.config.vocab_size < shards.vocabulary_size:
        raise ModelError(
            f"{key}.model={source} has embeddings for {model.config.vocab_size} tokens and a tokenizer of "
            f"{shards.vocabulary_size}: resize its embeddings in Transformers and save it first."
        )
    inputs.notes.append(note)
    return model
