"""Building and loading Transformers models: any encoder by its `model_type`, with an MLM or an RTD head.

Notable:
- no table of classes: `AutoConfig` names the shape, the Auto classes name the head;
- weights start from a seed of their own, whatever was drawn before; so does a head that a published encoder lacks;
- from disk: safetensors only, never remote code; keys of a `config.json` that could choose code are dropped.
"""

import difflib
import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
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
from fast_electra.models.export import LABELS
from fast_electra.models.inputs import positions_of
from fast_electra.models.norms import use_exact_norms
from fast_electra.models.rotary import use_fast_rotary
from fast_electra.models.shapes import ShapeConfig

LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)
"""what Transformers raises on a folder or name that it can't load"""
# A layer's stack and number in the name of a weight: bert.encoder.layer.1.…
_LAYER = re.compile(r"(\D*?)\.(\d+)\.")
BUILDING_ERRORS = (ValueError, TypeError, KeyError, AttributeError, AssertionError, ZeroDivisionError, IndexError)
"""what Transformers raises on a configuration that no model can be built of"""
Head = Literal["mlm", "rtd", "causal_lm", "seq2seq_lm"]

DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "hidden_dropout",
    "dropout",
    "classifier_dropout",
    "seq_classif_dropout",
)
# Names of the classes that came before the common ones.
_OTHER_NAMES = {"intermediate_size": "hidden_dim"}
# Keys that a class reads and its configuration doesn't declare: what makes a DeBERTa-v2 a v3.
_UNDECLARED = {
    "deberta-v2": ("position_buckets", "norm_rel_ebd", "share_att_key", "conv_kernel_size", "conv_groups", "conv_act")
}


def transformers_config(
    shape: ShapeConfig, vocabulary_size: int, special_ids: dict[str, int], length: int, key: str = "main"
) -> PreTrainedConfig:
    """The Transformers configuration of a shape.

    Args:
        shape: the section of the configuration that holds it.
        vocabulary_size: of the tokenizer.
        special_ids: `pad`, `cls`, `sep`, `mask`.
        length: tokens of a row.
        key: of that section, for errors.

    Raises:
        ModelError: unknown architecture, or a shape that Transformers refuses.
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
        if hasattr(defaults, "classifier_pooling"):  # no loss reaches [CLS] in pre-training, every other token has one
            values["classifier_pooling"] = "mean"
        for name, other in _OTHER_NAMES.items():
            if hasattr(defaults, other) and not hasattr(defaults, name):
                values[other] = values.pop(name)
        values |= {key: shape.dropout for key in DROPOUT_KEYS if hasattr(defaults, key)}
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
        raise ModelError(f"Transformers refuses this {shape.architecture} shape: {_one_line(error)}") from error
    if "max_position_embeddings" not in shape.options:
        # Where positions start at 1 or 2, the table has a row for each number up to the last.
        config.max_position_embeddings = length + positions_of(config).spent
    return config


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
        except BUILDING_ERRORS as error:
            raise not_built(config, f"{head} head", error) from error
    return prepare_model(model).train()


def load_model(folder: str | Path, head: Head) -> PreTrainedModel:
    """Load a Transformers model for inference from a folder or a hub name; float32, evaluation mode.

    Raises:
        ModelError: not a model, no such head, weights with NaN, or not in safetensors.
    """
    config = stored_config(str(folder))
    model, report = _read(str(folder), config, head)
    missing = sorted(report["missing_keys"]) + sorted(name for name, *_ in report["mismatched_keys"])
    refuse_holes(folder, config, [name for name in missing if name.startswith(model.base_model_prefix + ".")])
    if missing:
        raise ModelError(
            f"{folder} has no weights for {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + f": it is not a {config.model_type} with an {head} head; give a model of that kind"
            + (", or fit a head with objective.kind=mlm main.freeze=encoder." if head == "mlm" else ".")
        )
    return model.eval()


def refuse_holes(source: str | Path, config: PreTrainedConfig, holes: Sequence[str]) -> None:
    """ModelError where weights of an encoder, by their sorted names, are not in its checkpoint."""
    if holes:
        raise ModelError(
            f"{source} has no weights for {holes[0]}"
            + (f" and {len(holes) - 1} more" if len(holes) > 1 else "")
            + f": its encoder is not a whole {config.model_type}; give another checkpoint."
        )


def continue_model(source: str | Path, head: Head, seed: int, dropout: float) -> tuple[PreTrainedModel, str]:
    """A model to go on training: encoder weights from a checkpoint, its head where it has this one, else a new one.

    A detector that this program exported has two labels, "original" being zero; its head becomes one logit again. Any
    other token classifier's output layer means something else, and is left out even where its shape fits.

    Args:
        source: a folder or a hub name.
        head: what the model is trained for.
        seed: of new weights: those that `build_model` gives a fresh model.
        dropout: on hidden states and attention, whatever the checkpoint was trained with.

    Returns:
        the model in float32 and training mode, and a sentence that says what was loaded, what is new and what of the
        checkpoint is not used.

    Raises:
        ModelError: as `load_model`, and where the encoder itself is not all there.
    """
    name = str(source)
    config = stored_config(name)
    ours = head == "rtd" and dict(config.id2label or {}) == LABELS
    if head == "rtd" and config.model_type != "electra":
        config.num_labels = 2 if ours else 1
    for key in DROPOUT_KEYS:
        if hasattr(config, key):
            setattr(config, key, dropout)
    stored, report = _read(name, config, head)
    absent = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    encoder = stored.base_model_prefix + "."
    refuse_holes(source, config, sorted(key for key in absent if key.startswith(encoder)))
    state = stored.state_dict()
    if head == "rtd" and config.model_type != "electra":
        head_rows = {key: len(value) for key, value in state.items() if not key.startswith(encoder) and value.ndim}
        output = {key: state[key] for key, rows in head_rows.items() if rows == config.num_labels}
        if ours:
            state |= {key: value[1:] - value[:1] for key, value in output.items()}
        else:
            absent |= set(output)
    model = build_model(config, head, seed)
    model.load_state_dict({key: value for key, value in state.items() if key not in absent}, strict=False)
    parameters = [key for key, _ in model.named_parameters() if not key.startswith(encoder)]
    new = [key for key in parameters if key in absent]
    unused = sorted({key.removeprefix(encoder).split(".")[0] for key in report["unexpected_keys"]})
    label = {"mlm": "vocabulary head", "rtd": "RTD head"}[head]
    loaded = "loaded with it" if not new else f"new, from seed {seed}" if len(new) == len(parameters) else "partly new"
    note = (
        f"{source}: the encoder is loaded ({config.model_type}, {config.num_hidden_layers} layers of width "
        f"{config.hidden_size}), the {label} is {loaded}"
        + (f" ({', '.join(new)})" if loaded == "partly new" else "")
        + (f"; not used: {', '.join(unused)}" if unused else "")
        + "."
    )
    return model, note


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
                    f"the main model's {tuple(target.shape)}; give both one width, or main.embeddings=fresh."
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


def start_at_unigram(model: PreTrainedModel, log_probabilities_V: Tensor) -> None:
    """Set a new vocabulary head's output bias, which is zero, to the log unigram frequencies.

    That is the best prediction without context, so training need not learn it first.

    Args:
        model: with a vocabulary head; a bias that is not zero was trained, and stays.
        log_probabilities_V: of the tokens of the corpus; -inf for what never occurs. The model's table may be longer:
            the bias of ids that no token has is the least of all.
    """
    bias = getattr(model.get_output_embeddings(), "bias", None)
    # DeBERTa-v2's newer head calls another layer its output embeddings.
    if not isinstance(bias, Tensor) or len(bias) != model.config.vocab_size or bias.any():
        return
    least = log_probabilities_V[log_probabilities_V.isfinite()].min()
    with torch.no_grad():
        bias.fill_(least)
        bias[: len(log_probabilities_V)].copy_(log_probabilities_V.clamp(min=least))


def weights_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of all tensors in a folder's safetensors files.

    Raises:
        ModelError: a file is damaged.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                for name in sorted(tensors.keys()):
                    digest.update(name.encode())
                    digest.update(tensors.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes())
        except SafetensorError as error:
            raise ModelError(f"{file} is damaged or incomplete ({error}); fetch or export it again.") from error
    return digest.hexdigest()


def refuse_no_model(source: str | Path) -> None:
    """ModelError where a name is neither a folder with a model nor the name of a model on the hub."""
    path = Path(source)
    if path.is_dir():
        if (path / "config.json").exists():
            return
        if (path / "adapter_config.json").exists():
            raise ModelError(
                f"{path} holds a PEFT adapter alone: merge it into its base model (merge_and_unload) and save that."
            )
        raise ModelError(f"{path} holds no model: config.json is missing; give a run or a Transformers model folder.")
    if not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", str(source)) or path.exists():
        raise ModelError(f"{source} is not a folder; give a run, a folder with a Transformers model, or a hub name.")


def stored_config(source: str) -> PreTrainedConfig:
    """The configuration beside a model's weights, without the keys that could choose code.

    Args:
        source: a folder or a hub name, as `runs.models.resolve_model` returns it.

    Raises:
        ModelError: there is none, it needs code of its own, or its weights are not in safetensors.
    """
    refuse_no_model(source)
    local = Path(source)
    if local.is_dir() and not list(local.glob("*.safetensors")):
        other = next((name for name in ("pytorch_model.bin", "tf_model.h5") if list(local.glob(f"{name}*"))), None)
        raise ModelError(
            f"{local} has no *.safetensors file"
            + (f", only {other}" if other else "")
            + ": only safetensors weights are read, for other formats can run code; "
            "save the model again with a current Transformers."
        )
    for file in sorted(local.glob("*.safetensors")) if local.is_dir() else ():
        _refuse_damaged(file)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            raise ModelError(
                f"{source} needs code that comes with it, and such code is never run: take a model whose class "
                "Transformers has itself."
            ) from error
        raise not_loaded(source, error) from error
    for key in ("auto_map", "_attn_implementation_internal"):
        if hasattr(config, key):
            delattr(config, key)
    return config


def _read(source: str, config: PreTrainedConfig, head: Head) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model with a head from a checkpoint, and Transformers' report of keys missing, mismatched and unexpected."""
    try:
        model, report = _head_class(config, head).from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            attn_implementation=MATMUL_ATTENTION,
        )
    except LOADING_ERRORS as error:
        raise not_loaded(source, error, head) from error
    refuse_unread_weights(source, model, report)
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelError(f"{source}: the weights {name} hold NaN or infinity; take an earlier checkpoint.")
    return prepare_model(model), report


def refuse_unread_weights(source: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """ModelError where a checkpoint's weights have other names than the model's, or there are more layers of them.

    Args:
        source: a folder or a hub name.
        model: as it was read.
        report: Transformers', of keys missing and unexpected.
    """
    unread = sorted(report["unexpected_keys"])
    missing = min(report["missing_keys"], default=None)
    wrapped = next((key for key in unread if missing and key.endswith(f".{missing}")), None)
    if wrapped and missing:
        prefix = wrapped.removesuffix(missing).removesuffix(f"{model.base_model_prefix}.")
        files = sorted(Path(source).glob("*.safetensors")) or [Path()]  # none of a hub name
        rename = (
            "from safetensors.torch import load_file, save_file; "
            f"f = {json.dumps(str(files[0]))}; "
            f'save_file({{k.removeprefix("{prefix}"): v for k, v in load_file(f).items()}}, f, {{"format": "pt"}})'
        )
        raise ModelError(
            f"{source}: the names of its weights begin with {prefix}, for the model was saved inside a wrapper "
            "(torch.compile, DistributedDataParallel, a trainer's module): save the model that is inside"
            + (
                f", or take the prefix off by {shlex.join(['python', '-c', rename])}."
                if files[0].name and len(files) == 1
                else "."
            )
        )
    encoder = f"{model.base_model_prefix}."

    def layer(key: str) -> tuple[str, ...] | None:
        found = _LAYER.match(key.removeprefix(encoder))
        return found.groups() if found else None

    layers = {found for key in model.state_dict() if (found := layer(key))}
    stacks = {stack for stack, _ in layers}
    further = [key for key in unread if (found := layer(key)) and found[0] in stacks and found not in layers]
    if further:
        raise ModelError(
            f"{source} has weights of more layers than its config.json says ({further[0]}"
            + (f" and {len(further) - 1} more" if len(further) > 1 else "")
            + "): set the number of layers there to theirs; auxiliary.layers uses the first ones alone."
        )


def _refuse_damaged(file: Path) -> None:
    """ModelError where a safetensors file is a pointer to one, or is not as long as its header says."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        if start == b"version ":
            raise ModelError(
                f"{file} is a Git LFS pointer and not the weights: run `git lfs pull` in its folder, or fetch the file "
                "itself."
            )
        header = int.from_bytes(start, "little")
        try:
            if len(start) < 8 or header > size:
                raise ValueError
            tensors = json.loads(opened.read(header))
            whole = (
                8 + header + max((t["data_offsets"][1] for n, t in tensors.items() if n != "__metadata__"), default=0)
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{file} is no whole safetensors file: fetch or export it again.") from error
    if size != whole:
        raise ModelError(f"{file} has {size:,} bytes and should have {whole:,}: fetch or export it again.")


def not_loaded(source: str, error: Exception, head: Head | None = None) -> ModelError:
    """What Transformers raised while loading, as one sentence with the way out."""
    what = f"{head} model" if head else "model"
    if Path(source).is_dir():
        return ModelError(f"no {what} can be loaded from {source}: {_one_line(error)}")
    return ModelError(
        f"{source} is no folder here, and the Hugging Face hub gives no such {what} ({_one_line(error, 120)}): without "
        f"network, fetch it elsewhere by `hf download {shlex.quote(source)} --local-dir FOLDER` and name the folder."
    )


def not_built(config: PreTrainedConfig, what: str, error: Exception) -> ModelError:
    """What Transformers raised while building, as one sentence: the class has no such head, or a key is wrong."""
    if "Unrecognized configuration class" in str(error):
        return ModelError(
            f"{config.model_type} has no {what} in Transformers: take another architecture, such as modernbert or bert."
        )
    return ModelError(
        f"Transformers builds no {config.model_type} of this configuration ({type(error).__name__}: "
        f"{_one_line(error, 120)}): mend its shape or options."
    )


def prepare_model(model: PreTrainedModel) -> PreTrainedModel:
    """In float32, with what our attention needs of the class."""
    use_fast_rotary(model)
    use_document_masks(model)
    use_exact_norms(model)
    if model.config.model_type == "mpnet":
        # MPNet takes id 1 for padding whatever the tokenizer says, and would never train that token.
        cast(nn.Embedding, model.get_input_embeddings()).padding_idx = model.config.pad_token_id
    return cast(PreTrainedModel, model.float())


def _head_class(config: PreTrainedConfig, head: Head) -> Any:
    others = {"mlm": AutoModelForMaskedLM, "causal_lm": AutoModelForCausalLM, "seq2seq_lm": AutoModelForSeq2SeqLM}
    if head in others:
        return others[head]
    return AutoModelForPreTraining if config.model_type == "electra" else AutoModelForTokenClassification


def _one_line(error: Exception, longest: int = 300) -> str:
    text = " ".join(str(error).split())
    return (text[:longest] + " …") if len(text) > longest else text
