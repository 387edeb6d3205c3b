"""Building and loading Transformers models: any encoder by its `model_type`, with an MLM or an RTD head.

Notable:
- no table of classes: `AutoConfig` names the shape, the Auto classes name the head;
- weights start from a seed of their own, whatever was drawn before;
- from disk: safetensors only, never remote code; keys of a `config.json` that could choose code are dropped.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from fast_electra.config.tree import ShapeConfig
from fast_electra.errors import ModelError
from fast_electra.models.attention import MATMUL_ATTENTION
from fast_electra.models.inputs import SHIFTED_POSITIONS
from fast_electra.models.rotary import use_fast_rotary

Head = Literal["mlm", "rtd"]

_DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "hidden_dropout",
    "classifier_dropout",
)


def transformers_config(
    shape: ShapeConfig, vocabulary_size: int, special_ids: dict[str, int], length: int
) -> PreTrainedConfig:
    """The Transformers configuration of a shape.

    Args:
        shape: the configuration's `main` section.
        vocabulary_size: of the tokenizer.
        special_ids: `pad`, `cls`, `sep`, `mask`.
        length: tokens of a row.

    Raises:
        ModelError: unknown architecture, or a shape that Transformers refuses.
    """
    if shape.architecture not in CONFIG_MAPPING:
        raise ModelError(
            f"main.architecture={shape.architecture} is not a model_type of Transformers; "
            "try modernbert, electra, bert, roberta or eurobert."
        )
    kind = CONFIG_MAPPING[shape.architecture]
    # Positions of these start at 1 or 2, and the table has a row for each number up to the last.
    positions = length + 2 if shape.architecture.startswith((*SHIFTED_POSITIONS, "mpnet")) else length
    values: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": positions,
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
        values |= {key: shape.dropout for key in _DROPOUT_KEYS if hasattr(defaults, key)}
        values |= shape.options
        unknown = [key for key in shape.options if not hasattr(defaults, key)]
        if unknown:
            raise ModelError(f"main.options.{unknown[0]} is not a key of the {shape.architecture} configuration.")
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ModelError(f"Transformers refuses this {shape.architecture} shape: {_one_line(error)}") from error


def build_model(config: PreTrainedConfig, head: Head, seed: int) -> PreTrainedModel:
    """A model with fresh weights drawn from `seed`, in float32 and training mode.

    Raises:
        ModelError: the architecture has no such head.
    """
    if head == "rtd":
        config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = _head_class(config, head).from_config(config, attn_implementation=MATMUL_ATTENTION)
        except ValueError as error:
            raise ModelError(f"{config.model_type} has no {head} head in Transformers: {_one_line(error)}") from error
    use_fast_rotary(model)
    return cast(PreTrainedModel, model.float().train())


def load_model(folder: str | Path, head: Head) -> PreTrainedModel:
    """Load a Transformers model for inference from a run, a folder or a hub name; float32, evaluation mode.

    Raises:
        ModelError: not a model, no such head, weights with NaN, or not in safetensors.
    """
    source = resolve_model(folder)
    local = Path(source)
    if local.is_dir() and not list(local.glob("*.safetensors")):
        raise ModelError(
            f"{local} has no *.safetensors file: only safetensors weights are read; "
            "save the model again with a current Transformers."
        )
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        for key in ("auto_map", "_attn_implementation_internal"):
            if hasattr(config, key):
                delattr(config, key)
        model, report = _head_class(config, head).from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            attn_implementation=MATMUL_ATTENTION,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"no {head} model can be loaded from {folder}: {_one_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder} has no weights for {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + f": it is not a {config.model_type} with an {head} head; give a model of that kind."
        )
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelError(f"{folder}: the weights {name} hold NaN or infinity; take an earlier checkpoint.")
    use_fast_rotary(model)
    return cast(PreTrainedModel, model.eval())


def resolve_model(source: str | Path) -> str:
    """A run folder stands for its exported `model/`; anything else stands for itself.

    Raises:
        ModelError: a folder without a model, or a path that doesn't exist.
    """
    path = Path(source)
    if (path / "config.yaml").exists() and not (path / "model" / "config.json").exists():
        raise ModelError(f"{path} is a run that has not finished: it has no model/ yet; resume it first.")
    if (path / "model" / "config.json").exists():
        return str(path / "model")
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ModelError(
                f"{path} holds no model: config.json is missing; give a run or a Transformers model folder."
            )
        return str(path)
    if not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", str(source)) or path.exists():
        raise ModelError(f"{source} is not a folder; give a run, a folder with a Transformers model, or a hub name.")
    return str(source)


def start_from(model: PreTrainedModel, auxiliary: PreTrainedModel, embeddings_only: bool) -> list[str]:
    """Start a model's weights from an auxiliary's, wherever the encoder has the same name and shape.

    Args:
        model: written in place.
        auxiliary: read.
        embeddings_only: copy the token embeddings alone.

    Returns:
        names of the encoder's parameters that were copied.

    Raises:
        ModelError: nothing fits.
    """
    with torch.no_grad():
        if embeddings_only:
            target = cast(nn.Embedding, model.get_input_embeddings()).weight
            source = cast(nn.Embedding, auxiliary.get_input_embeddings()).weight
            if target.shape != source.shape:
                raise ModelError(
                    f"main.embeddings=copied needs the auxiliary's width: its embeddings are {tuple(source.shape)}, "
                    f"the main model's {tuple(target.shape)}."
                )
            target.copy_(source)
            return ["embeddings"]
        own = dict(cast(nn.Module, model.base_model).named_parameters())
        copied = []
        for name, value in cast(nn.Module, auxiliary.base_model).named_parameters():
            if name in own and own[name].shape == value.shape:
                own[name].copy_(value)
                copied.append(name)
        if not copied:
            raise ModelError(
                f"main.start=auxiliary: no weight of the auxiliary ({auxiliary.config.model_type}, width "
                f"{auxiliary.config.hidden_size}) fits the main model; give both one architecture and width."
            )
        return copied


def weights_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all tensors in a folder's safetensors files."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in sorted(tensors.keys()):
                digest.update(name.encode())
                digest.update(tensors.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _head_class(config: PreTrainedConfig, head: Head) -> Any:
    if head == "mlm":
        return AutoModelForMaskedLM
    return AutoModelForPreTraining if config.model_type == "electra" else AutoModelForTokenClassification


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text[:300] + " …") if len(text) > 300 else text
