"""Loading Transformers models from a folder or the hub: with a head, to continue training, or as a bare encoder.

`build.py` makes models with fresh weights; `classifier.py` puts an encoder under the head of a task.

Notable:
- files are checked against the seal that this program's exports have (`data.seals`);
- only safetensors are read, and never remote code: keys of a `config.json` that could choose code are dropped;
- a checkpoint is refused, with the way out, where a file is damaged, a name does not fit, a weight is missing, NaN or
  infinite;
- a head that a published encoder lacks is drawn from a seed of its own.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from fast_electra.data.files import canonical_digest
from fast_electra.data.seals import refuse_broken_seal
from fast_electra.errors import ModelError
from fast_electra.models.attention import MATMUL_ATTENTION
from fast_electra.models.build import Head, build_model, head_class, one_line, prepare_model, set_dropout
from fast_electra.models.export import LABELS
from fast_electra.models.folder_checks import refuse_absurd, refuse_weights

# Keys of a config.json that change nothing: weights are always read in float32, and the class is chosen by its use.
_NO_FUNCTION = {"transformers_version", "dtype", "torch_dtype", "architectures"}
# A layer's stack and number in the name of a weight: bert.encoder.layer.1.…
_LAYER = re.compile(r"(\D*?)\.(\d+)\.")


def load_model(folder: str | Path, head: Head) -> PreTrainedModel:
    """Load a Transformers model for inference from a folder or a hub name.

    Returns:
        the model in float32 and evaluation mode.

    Raises:
        ModelError: it is not a model, has no such head, has weights with NaN, or is not in safetensors.
    """
    config = stored_config(str(folder))
    model, absent, _ = read_checkpoint(str(folder), config, head_class(config, head), f"{head} model")
    missing = sorted(absent)
    refuse_missing(folder, config, [name for name in missing if name.startswith(model.base_model_prefix + ".")])
    if missing:
        raise ModelError(
            f"{folder} has no weights for {_first_of(missing)}: it is not a {config.model_type} with an {head} head; "
            "give a model of that kind"
            + (", or fit a head with objective.kind=mlm main.freeze=encoder." if head == "mlm" else ".")
        )
    return model.eval()


def continue_model(source: str | Path, head: Head, seed: int, dropout: float) -> tuple[PreTrainedModel, str]:
    """Load a model to continue its training. The head is the checkpoint's if it has the same kind, otherwise new.

    A main model that this program exported has two labels, where the row of "original" is zero; its head becomes one
    logit again. The output layer of any other token classifier has another meaning, so it is not used even if its shape
    fits.

    Args:
        source: a folder or a hub name.
        head: the head to train.
        seed: seed of new weights, which equal those of a fresh model from `build_model`.
        dropout: rate for hidden states and attention, whatever the checkpoint was trained with.

    Returns:
        the model in float32 and training mode; and a sentence that says what was loaded, what is new and what of the
        checkpoint is not used.

    Raises:
        ModelError: as `load_model`, and if weights of the encoder are missing.
    """
    name = str(source)
    config = stored_config(name)
    ours = head == "rtd" and dict(config.id2label or {}) == LABELS
    if head == "rtd" and config.model_type != "electra":
        config.num_labels = 2 if ours else 1
    set_dropout(config, dropout)
    stored, absent, unread = read_checkpoint(name, config, head_class(config, head), f"{head} model")
    encoder = stored.base_model_prefix + "."
    refuse_missing(source, config, sorted(key for key in absent if key.startswith(encoder)))
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
    unused = sorted({key.removeprefix(encoder).split(".")[0] for key in unread})
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


def read_checkpoint(
    source: str, config: PreTrainedConfig, auto_class: Any, what: str = "model"
) -> tuple[PreTrainedModel, set[str], list[str]]:
    """Read a checkpoint into a model of a Transformers class.

    Args:
        source: a folder or a hub name.
        config: from `stored_config`; Transformers may change it.
        auto_class: one of Transformers' Auto classes.
        what: the kind of model, for errors.

    Returns:
        the model in float32; the names of its weights that the checkpoint lacks or has in another shape, which are
        drawn at random; and the names in the checkpoint that the model does not use.

    Raises:
        ModelError: it cannot be loaded, its seal is broken, its names do not fit, or a weight is NaN or infinite.
    """
    refuse_broken_seal(source)
    with torch.random.fork_rng(devices=[]):  # missing weights are drawn; the caller's random numbers stay the same
        try:
            model, report = auto_class.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                attn_implementation=MATMUL_ATTENTION,
            )
        except Exception as error:  # as for the configuration
            raise _not_loaded(source, error, what) from error
    unused = sorted(report["unexpected_keys"])
    _refuse_other_names(source, model, min(report["missing_keys"], default=None), unused)
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise ModelError(f"{source}: the weights {name} hold NaN or infinity; take an earlier checkpoint.")
    absent = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    return prepare_model(model), absent, unused


def stored_config(source: str) -> PreTrainedConfig:
    """The Transformers configuration of a model on disk or on the hub, without keys that could choose code.

    Args:
        source: a folder or a hub name, as `runs.models.resolve_model` returns it.

    Raises:
        ModelError: there is no model, its seal is broken, it needs code of its own, or its weights are not in
            safetensors.
    """
    refuse_no_model(source)
    refuse_weights(source)
    refuse_broken_seal(source, weights=False)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # Transformers checks little, and a wrong value can raise anything
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            raise ModelError(
                f"{source} needs code that comes with it, and such code is never run: take a model whose class "
                "Transformers has itself."
            ) from error
        if Path(source).is_dir():
            raise ModelError(
                f"{source}/config.json cannot be used ({_reason(error)}): correct it, or fetch or export it again."
            ) from error
        raise _not_loaded(source, error) from error
    for key in ("auto_map", "transformers_weights", "_attn_implementation_internal"):
        if hasattr(config, key):
            delattr(config, key)
    refuse_absurd(source, config)
    return config


def function_digest(weights: str, source: str | Path) -> str:
    """The digest of everything that decides what a model computes: WEIGHTS+CONFIGURATION.

    Args:
        weights: the digest of its tensors.
        source: the folder or hub name whose config.json describes it.
    """
    config, _ = PreTrainedConfig.get_config_dict(str(source))
    kept = {key: value for key, value in config.items() if not key.startswith("_") and key not in _NO_FUNCTION}
    return f"{weights}+{canonical_digest(kept)}"


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 (hex) over the names and bytes of tensors, in the order given."""
    found = hashlib.sha256()
    for name, tensor in tensors:
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) over the names and bytes of all tensors in a folder's safetensors files.

    Raises:
        ModelError: a file is damaged.
    """
    return tensors_digest(_stored_tensors(folder))


def _stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                for name in sorted(tensors.keys()):
                    yield name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise ModelError(f"{file} is damaged or incomplete ({error}); fetch or export it again.") from error


def refuse_missing(source: str | Path, config: PreTrainedConfig, missing: Sequence[str]) -> None:
    """Raise ModelError if the list of the encoder's weights that its checkpoint lacks is not empty."""
    if missing:
        raise ModelError(
            f"{source} has no weights for {_first_of(missing)}: its encoder is not a whole {config.model_type}; "
            "give another checkpoint."
        )


def _refuse_other_names(source: str, model: PreTrainedModel, missing: str | None, unread: Sequence[str]) -> None:
    """Raise ModelError if a checkpoint's weights have other names than the model's, or belong to more layers.

    Args:
        source: a folder or a hub name.
        model: the model as it was read.
        missing: the first name that the model has and the checkpoint lacks.
        unread: names that the checkpoint has and the model lacks.
    """
    wrapped = next((key for key in unread if missing and key.endswith(f".{missing}")), None)
    if wrapped and missing:
        prefix = wrapped.removesuffix(missing).removesuffix(f"{model.base_model_prefix}.")
        files = sorted(Path(source).glob("*.safetensors")) or [Path()]  # a hub name has no files here
        rename = (
            "from safetensors.torch import load_file, save_file; "
            f"f = {json.dumps(str(files[0]))}; "
            f'save_file({{k.removeprefix("{prefix}"): v for k, v in load_file(f).items()}}, f, {{"format": "pt"}})'
        )
        raise ModelError(
            f"{source}: the names of its weights begin with {prefix}, since the model was saved inside a wrapper "
            "(torch.compile, DistributedDataParallel, a trainer's module): save the model that is inside"
            + (
                f", or remove the prefix by {shlex.join(['python', '-c', rename])}."
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
            f"{source} has weights of more layers than its config.json says ({_first_of(further)}): "
            "set the number of layers there to theirs; auxiliary.layers uses only the first layers."
        )


def refuse_no_model(source: str | Path) -> None:
    """Raise ModelError if a name is neither a folder with a model nor possibly a name on the hub."""
    path = Path(source)
    if path.is_dir():
        if (path / "config.json").exists():
            return
        if (path / "adapter_config.json").exists():
            raise ModelError(
                f"{path} holds only a PEFT adapter: merge it into its base model (merge_and_unload) and save that."
            )
        raise ModelError(f"{path} holds no model: config.json is missing; give a run or a Transformers model folder.")
    if not re.fullmatch(r"[\w][\w.-]*(/[\w][\w.-]*)?", str(source)) or path.exists():
        raise ModelError(f"{source} is not a folder; give a run, a folder with a Transformers model, or a hub name.")


def _not_loaded(source: str, error: Exception, what: str = "model") -> ModelError:
    """One sentence, with a remedy, about an error of Transformers while loading."""
    if Path(source).is_dir():
        return ModelError(
            f"no {what} can be loaded from {source} ({_reason(error)}): correct its config.json, or fetch or export it "
            "again."
        )
    return ModelError(
        f"{source} is not a folder here, and the Hugging Face hub gives no such {what} ({one_line(error, 120)}): "
        f"without network, fetch it elsewhere by `hf download {shlex.quote(source)} --local-dir FOLDER`, and name the "
        "folder."
    )


def _reason(error: Exception) -> str:
    """The message of an error, and its type where the message says little."""
    said = one_line(error)
    return said if isinstance(error, OSError | ValueError | RuntimeError) else f"{type(error).__name__}: {said}"


def _first_of(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
