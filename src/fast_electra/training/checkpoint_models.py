"""The models of a checkpoint, stored so that they can be read without the run's data and auxiliary.

    CHECKPOINT/models/models.json          each model's head and type, and the place of each of its weights
    CHECKPOINT/models/NAME/config.json     the model's Transformers configuration
    CHECKPOINT/models/fixed.safetensors    weights that no optimizer changes: frozen ones, buffers, a delta's base
    CHECKPOINT/models/tokenizer/           the run's tokenizer

Notable:
- a trained weight is stored once, as the optimizer's float32 master. A model reads it rounded to the type that it was
  trained in, so the last checkpoint gives the weights of the run's `model/`, bit for bit.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fast_electra import distributed
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.errors import CheckpointError
from fast_electra.models.build import Head, build_model
from fast_electra.models.export import save_tokenizer
from fast_electra.models.shares import own_share, whole
from fast_electra.models.sharing import DeltaEmbedding
from fast_electra.runs.checkpoints import Checkpoint, load_tensors
from fast_electra.training.optimizer import GroupOptimizer

_MODELS, _INDEX, _FIXED = "models", "models.json", "fixed.safetensors"


def write_models(
    checkpoint: Path,
    models: Mapping[str, PreTrainedModel],
    heads: Mapping[str, Head],
    optimizers: list[GroupOptimizer],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    dtype: torch.dtype,
) -> None:
    """Write `models/` in a checkpoint's folder. All processes must call this; rank 0 writes.

    Args:
        checkpoint: the checkpoint's folder, before it is renamed into place.
        models: the objective's models, by name.
        heads: the head of each model, by name.
        optimizers: the optimizers that train the models.
        tokenizer: of the run.
        length: largest number of tokens of a text, for the tokenizer's configuration.
        dtype: type of the weights in a forward pass.
    """
    folder = checkpoint / _MODELS
    masters = {key: name for optimizer in optimizers for key, name in optimizer.master_names().items()}
    fixed: dict[str, Tensor] = {}
    index = {}
    for name, model in models.items():
        weights = {key: _place(f"{name}.{key}", tensor, masters, fixed) for key, tensor in _weights(model).items()}
        index[name] = {"head": heads[name], "dtype": str(dtype).removeprefix("torch."), "weights": weights}
    fixed = {key: whole(tensor) for key, tensor in fixed.items()}
    if not distributed.is_main():
        return
    for name, model in models.items():
        model.config.save_pretrained(folder / name)
    save_file(fixed, folder / _FIXED)
    save_tokenizer(tokenizer, folder / "tokenizer", length)
    (folder / _INDEX).write_text(json.dumps(index))


def model_names(checkpoint: Checkpoint) -> list[str]:
    """The names of the models in a checkpoint; `main` is the first.

    Raises:
        CheckpointError: an earlier version wrote the checkpoint, without models.
    """
    return list(_index(checkpoint))


def read_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """The run's tokenizer, read from a checkpoint."""
    return load_tokenizer(checkpoint.folder / _MODELS / "tokenizer")


def config_folder(checkpoint: Checkpoint, name: str = "main") -> Path:
    """The folder that holds the config.json of one of a checkpoint's models."""
    return checkpoint.folder / _MODELS / name


def read_model(checkpoint: Checkpoint, name: str = "main", rounded: bool = True) -> PreTrainedModel:
    """One of a checkpoint's models, in float32 and in evaluation mode.

    Args:
        checkpoint: a checkpoint whose digests were verified.
        name: of the model.
        rounded: True: the weights as the model was trained, rounded to its type; False: the optimizer's float32
            masters.

    Raises:
        CheckpointError: the checkpoint does not hold the model.
    """
    about = _index(checkpoint)[name]
    folder = checkpoint.folder / _MODELS
    config = AutoConfig.from_pretrained(config_folder(checkpoint, name), trust_remote_code=False)
    model = build_model(config, about["head"], seed=0)
    fixed = load_file(folder / _FIXED)
    places = {place["trained"]: place["shape"] for place in about["weights"].values() if "trained" in place}
    trained = {master: torch.empty(shape) for master, shape in places.items()}
    load_tensors(checkpoint, trained, alone=True)
    dtype = getattr(torch, about["dtype"]) if rounded else torch.float32
    found = {
        key: trained[place["trained"]].to(dtype) if "trained" in place else fixed[place["fixed"]]
        for key, place in about["weights"].items()
    }
    for key in [key for key in found if key.endswith(_BASE)]:
        table = key.removesuffix(_BASE)
        delta = found.pop(f"{table}.delta")
        found[f"{table}.weight"] = found.pop(key).to(delta.dtype) + delta
    model.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in found.items()})
    return model.eval()


_BASE = ".(base)"


def _weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """All tensors of a model by name: parameters (not copies), buffers, and the base table of a delta."""
    found: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
    for name, module in model.named_modules():
        if isinstance(module, DeltaEmbedding):
            found[name + _BASE] = module.base
    return found


def _place(key: str, tensor: Tensor, masters: Mapping[int, str], fixed: dict[str, Tensor]) -> dict[str, object]:
    """The place of a weight in the checkpoint; a weight that no optimizer changes is added to `fixed`."""
    if id(tensor) in masters:
        return {"trained": masters[id(tensor)], "shape": list(tensor.shape)}
    same = next((name for name, other in fixed.items() if _is_same(other, tensor)), None)
    if same is None:
        fixed[same := key] = tensor.detach().contiguous()
    return {"fixed": same}


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape share their memory."""
    return one.shape == other.shape and own_share(one).data_ptr() == own_share(other).data_ptr() != 0


def _index(checkpoint: Checkpoint) -> dict[str, dict]:
    file = checkpoint.folder / _MODELS / _INDEX
    if not file.exists():
        raise CheckpointError(
            f"{checkpoint.folder} was written by an earlier version, without the models' configurations: resume the "
            "run, and use its next checkpoint, which has them."
        )
    return json.loads(file.read_text())
