"""Building Transformers models with fresh weights: any encoder by its `model_type`, with an MLM or an RTD head.

`loading.py` reads weights from disk or the hub.

Notable:
- no table of classes: `AutoConfig` names the shape, the Auto classes name the head;
- fresh weights are drawn from a seed of their own, whatever was drawn before;
- a fresh model can start from an auxiliary's weights, and a fresh vocabulary head at the unigram frequencies.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from fast_electra.errors import ModelError
from fast_electra.models.attention import MATMUL_ATTENTION, use_document_masks
from fast_electra.models.inputs import positions_of
from fast_electra.models.norms import use_exact_norms
from fast_electra.models.rotary import use_fast_rotary
from fast_electra.models.shapes import ShapeConfig

Head = Literal["mlm", "rtd", "causal_lm", "seq2seq_lm"]

_DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "hidden_dropout",
    "dropout",
    "classifier_dropout",
    "classifier_dropout_prob",
    "seq_classif_dropout",
)
# Names that some older classes use instead of the common ones.
_OTHER_NAMES = {"intermediate_size": "hidden_dim"}
# Keys that a class reads but its configuration does not declare; with them a DeBERTa-v2 becomes a v3.
_UNDECLARED = {
    "deberta-v2": ("position_buckets", "norm_rel_ebd", "share_att_key", "conv_kernel_size", "conv_groups", "conv_act")
}


def transformers_config(
    shape: ShapeConfig, vocabulary_size: int, special_ids: dict[str, int], length: int, key: str = "main"
) -> PreTrainedConfig:
    """The Transformers configuration of a shape.

    Args:
        shape: a section of the program's configuration.
        vocabulary_size: vocabulary size of the tokenizer.
        special_ids: ids by name: `pad`, `cls`, `sep`, `mask`.
        length: tokens of a row.
        key: key of the section, for errors.

    Raises:
        ModelError: the architecture is unknown, or Transformers refuses the shape.
    """
    if shape.architecture not in CONFIG_MAPPING:
        raise ModelError(
            f"{key}.architecture={shape.architecture} is not a model_type of Transformers; "
            "try modernbert, electra, bert, roberta, deberta-v2, mpnet, nomic_bert, eurobert or distilbert."
        )
    kind = CONFIG_MAPPING[shape.architecture]
    values: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate_size,
        "pad_token_id": special_ids["pad"],
        "cls_token_id": special_ids["cls"],
        "sep_token_id": special_ids["sep"],
        "bos_token_id": special_ids["cls"],
        "eos_token_id": special_ids["sep"],
        "mask_token_id": special_ids["mask"],
    }
    try:
        defaults = kind()
        if hasattr(defaults, "num_key_value_heads"):
            values["num_key_value_heads"] = shape.heads
        if hasattr(defaults, "embedding_size"):
            values["embedding_size"] = shape.hidden_size
        if hasattr(defaults, "classifier_pooling"):  # in pre-training [CLS] has no loss, unlike the other tokens
            values["classifier_pooling"] = "mean"
        for name, other in _OTHER_NAMES.items():
            if hasattr(defaults, other) and not hasattr(defaults, name):
                values[other] = values.pop(name)
        values |= {key: shape.dropout for key in _DROPOUT_KEYS if hasattr(defaults, key)}
        values |= shape.options
        known = _UNDECLARED.get(shape.architecture, ())
        unknown = [name for name in shape.options if not hasattr(defaults, name) and name not in known]
        if unknown:
            close = difflib.get_close_matches(unknown[0], [*defaults.to_dict(), *known], n=1)
            remedy = f"did you mean {close[0]}?" if close else "leave it out."
            raise ModelError(
                f"{key}.options.{unknown[0]} is not a key of the {shape.architecture} configuration; {remedy}"
            )
        config = kind(**values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ModelError(f"Transformers refuses this {shape.architecture} shape: {one_line(error)}") from error
    if "max_position_embeddings" not in shape.options:
        # Some classes do not use the first rows of their table of positions.
        config.max_position_embeddings = length + positions_of(config).spent
    return config


def set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    """Set the one dropout rate of hidden states, attention and head, under all names that the class has for it."""
    for key in _DROPOUT_KEYS:
        if hasattr(config, key):
            setattr(config, key, dropout)


def build_model(config: PreTrainedConfig, head: Head, seed: int) -> PreTrainedModel:
    """Build a model with fresh weights that are drawn from `seed`.

    Returns:
        the model in float32 and training mode.

    Raises:
        ModelError: the architecture has no such head.
    """
    if head == "rtd":
        config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = head_class(config, head).from_config(config, attn_implementation=MATMUL_ATTENTION)
        except Exception as error:  # a wrong value can raise anything
            raise not_built(config, f"{head} head", error) from error
    return prepare_model(model).train()


def prepare_model(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model what our attention, norms and rotary positions need, in place; returns it in float32."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            # It looks for padding in the ids of a batch without a mask, and waits for a GPU each time. We decide on the
            # host whether there is padding.
            module.warn_if_padding_and_no_attention_mask = _no_warning  # type: ignore[method-assign]
    use_fast_rotary(model)
    use_document_masks(model)
    use_exact_norms(model)
    if model.config.model_type == "mpnet":
        # MPNet takes id 1 as padding, whatever the tokenizer says, and would never train this token.
        cast(nn.Embedding, model.get_input_embeddings()).padding_idx = model.config.pad_token_id
    return cast(PreTrainedModel, model.float())


def _no_warning(*_: Any) -> None:
    """Does nothing."""


@torch.no_grad()
def start_from(model: PreTrainedModel, auxiliary: PreTrainedModel, embeddings_only: bool) -> list[str]:
    """Copy an auxiliary's weights to a model's encoder, wherever both have the same name and shape.

    Args:
        model: changed in place.
        auxiliary: not changed.
        embeddings_only: copy only the token embeddings.

    Returns:
        names of the encoder's parameters that were copied.

    Raises:
        ModelError: no parameter fits.
    """
    if embeddings_only:
        target = cast(nn.Embedding, model.get_input_embeddings()).weight
        source = cast(nn.Embedding, auxiliary.get_input_embeddings()).weight
        if target.shape != source.shape:
            raise ModelError(
                f"main.embeddings=copied needs the auxiliary's width: its embeddings are {tuple(source.shape)}, "
                f"the main model's {tuple(target.shape)}; give both one width, or main.embeddings=fresh."
            )
        target.copy_(source)
        return ["embeddings"]
    theirs, own = (dict(cast(nn.Module, each.base_model).named_parameters()) for each in (auxiliary, model))
    copied = copy_fitting(theirs, own)
    if not copied:
        raise ModelError(
            f"main.start=auxiliary: no weight of the auxiliary ({auxiliary.config.model_type}, width "
            f"{auxiliary.config.hidden_size}) fits the main model; give both one architecture and width."
        )
    return copied


@torch.no_grad()
def copy_fitting(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> list[str]:
    """Copy the parameters that both sides have under one name and in one shape, in place; returns their names."""
    fitting = [name for name, value in source.items() if name in target and target[name].shape == value.shape]
    for name in fitting:
        target[name].copy_(source[name])
    return fitting


def start_at_unigram(model: PreTrainedModel, log_probabilities_V: Tensor) -> None:
    """Set the output bias of a new vocabulary head to the log unigram frequencies.

    This is the best prediction without context, so training need not learn it first.

    Args:
        model: with a vocabulary head. A bias that is not zero was trained, and is not changed.
        log_probabilities_V: log-probabilities of the tokens in the corpus, -inf for tokens that do not occur. The model
            may have more rows; ids that the tokenizer does not use get the smallest bias.
    """
    bias = getattr(model.get_output_embeddings(), "bias", None)
    # DeBERTa-v2's newer head calls another layer its output embeddings.
    if not isinstance(bias, Tensor) or len(bias) != model.config.vocab_size or bias.any():
        return
    least = log_probabilities_V[log_probabilities_V.isfinite()].min()
    with torch.no_grad():
        bias.fill_(least)
        bias[: len(log_probabilities_V)].copy_(log_probabilities_V.clamp(min=least))


def head_class(config: PreTrainedConfig, head: Head) -> Any:
    """The Auto class of Transformers that builds and loads a model with a head."""
    others = {"mlm": AutoModelForMaskedLM, "causal_lm": AutoModelForCausalLM, "seq2seq_lm": AutoModelForSeq2SeqLM}
    if head in others:
        return others[head]
    return AutoModelForPreTraining if config.model_type == "electra" else AutoModelForTokenClassification


def not_built(config: PreTrainedConfig, what: str, error: Exception) -> ModelError:
    """One sentence about an error of Transformers while building: the class has no such head, or a key is wrong."""
    if "Unrecognized configuration class" in str(error):
        return ModelError(
            f"{config.model_type} has no {what} in Transformers: take another architecture, such as modernbert or bert."
        )
    return ModelError(
        f"Transformers cannot build a {config.model_type} of this configuration ({type(error).__name__}: "
        f"{one_line(error, 120)}): change its shape or options."
    )


def one_line(error: Exception, longest: int = 300) -> str:
    """The message of an error on one line, cut after `longest` characters."""
    text = " ".join(str(error).split())
    return (text[:longest] + " …") if len(text) > longest else text
