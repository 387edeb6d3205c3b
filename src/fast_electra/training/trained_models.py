"""The models that a run trains: new ones in the configured shape, or continued from an existing model."""

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from fast_electra.config.reading import setting
from fast_electra.corruption.counted import unigram_log_probabilities
from fast_electra.data.tokenizer import fingerprint, load_tokenizer
from fast_electra.errors import ConfigError, ModelError
from fast_electra.models.build import Head, build_model, start_at_unigram, transformers_config
from fast_electra.models.inputs import longest_row
from fast_electra.models.layers import checkpoint_activations
from fast_electra.models.loading import continue_model
from fast_electra.models.shapes import ShapeConfig
from fast_electra.runs.models import resolve_model

if TYPE_CHECKING:
    from fast_electra.training.assembly import Inputs


def trained_model(inputs: "Inputs", head: Head) -> PreTrainedModel:
    """The main model with its head, new or continued; `main.freeze=encoder` freezes its encoder.

    Raises:
        ConfigError: freezing leaves nothing to train.
        ModelError: see `model_of`.
    """
    config = inputs.config
    model = model_of(inputs, config.main, "main", head, config.training.seed)
    if config.main.freeze == "encoder":
        # This also freezes an output layer that is tied to the token embeddings.
        cast(nn.Module, model.base_model).requires_grad_(False)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        if not trained:
            raise ConfigError(
                f"main.freeze=encoder leaves nothing to train: the {head} head of this {model.config.model_type} "
                "shares the weights of its token embeddings: set main.freeze=none."
            )
        inputs.notes.append(f"the encoder is frozen: only the head's {trained:,} weights are trained.")
    return model


def model_of(inputs: "Inputs", shape: ShapeConfig, key: str, head: Head, seed: int) -> PreTrainedModel:
    """The model that a section of the configuration describes: new in its shape, or continued from an existing model.

    The result is on the run's device already, because moving a model after another one shares its weights would
    separate them. The output bias of a new vocabulary head starts at the log unigram frequencies.

    Args:
        inputs: the run's inputs; its notes receive a sentence about what was loaded.
        shape: the section.
        key: the section's key, for error messages.
        head: what the model is trained for.
        seed: of new weights.

    Raises:
        ModelError: the existing model has another tokenizer than the shards, takes only shorter rows, or has too few
            embeddings.
    """
    shards = inputs.shards
    if shape.model is None:
        config = transformers_config(shape, shards.vocabulary_size, inputs.special, inputs.config.longest_row, key)
        model = build_model(config, head, seed)
    else:
        model = _continued(inputs, shape, shape.model, key, head, seed)
    if inputs.config.training.activation_checkpointing:
        checkpoint_activations(model)
    if head == "mlm":
        allowed_V = torch.ones(shards.vocabulary_size, dtype=torch.bool)
        allowed_V[list(shards.special_tokens.values())] = False
        start_at_unigram(model, unigram_log_probabilities(shards.split("train"), allowed_V))
    return model.to(inputs.execution.device)  # type: ignore[arg-type]


def _continued(inputs: "Inputs", shape: ShapeConfig, source: str, key: str, head: Head, seed: int) -> PreTrainedModel:
    shards, length = inputs.shards, inputs.config.longest_row
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
            f"{key}.model={source} has embeddings for {model.config.vocab_size} tokens, but its tokenizer has "
            f"{shards.vocabulary_size}: resize its embeddings in Transformers and save it first."
        )
    inputs.notes.append(note)
    return model
