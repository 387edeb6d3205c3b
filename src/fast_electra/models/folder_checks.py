"""What is refused of a model before Transformers reads it: weights that are damaged, lie elsewhere or can run code.

Notable:
- only safetensors files are read. An index of shards may name any file, and Transformers unpickles what is not
  safetensors, so each name is checked: a plain name that ends in .safetensors, and no link that leads elsewhere;
- a `config.json` decides how much memory is taken, so its sizes are compared with those of the weights.
"""

import json
import math
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file

from fast_electra.errors import ModelError

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_AGAIN = "fetch or export it again"
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_LONGEST_NAME = 255
"""bytes of a file's name that a file system takes"""
_SIZES = (
    "vocab_size",
    "hidden_size",
    "embedding_size",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_LAYERS = ("num_hidden_layers", "num_hidden_groups")


def refuse_weights(source: str) -> None:
    """Check the files of a model's weights, without reading the weights.

    Args:
        source: a folder or a hub name. Of a hub name only the index of shards is checked: the files were not cut off.

    Raises:
        ModelError: there are no safetensors files, one is damaged or missing, or one lies outside the folder.
    """
    folder = Path(source)
    if not folder.is_dir():
        found = cached_file(
            source,
            _INDEX,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        if found is not None:
            _shards(Path(found))
        return
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds a PEFT adapter beside a model: merge it into the model (merge_and_unload) and save that, "
            "or remove adapter_config.json."
        )
    files = sorted(folder.glob("*.safetensors"))
    if (folder / _INDEX).exists() and not (folder / _WEIGHTS).exists():
        for name in _shards(folder / _INDEX):
            if _leads_out(folder, name):
                raise ModelError(
                    f"{folder / _INDEX} names {name}, a link that leads out of the folder: put the file itself there."
                )
            if not (folder / name).is_file():
                raise ModelError(f"{folder / name} is missing, which {_INDEX} names: fetch or export the model again.")
    elif not files:
        other = next((name for name in ("pytorch_model.bin", "tf_model.h5") if list(folder.glob(f"{name}*"))), None)
        raise ModelError(
            f"{folder} has no *.safetensors file"
            + (f", only {other}" if other else "")
            + ": only safetensors weights are read, since other formats can run code; "
            "save the model again with a current Transformers."
        )
    for file in files:
        _header(file)


def refuse_absurd(source: str, config: PreTrainedConfig) -> None:
    """Raise ModelError if a model's `config.json` has sizes far above those of its weights, or if it is quantised."""
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{source} is quantised (quantization_config in its config.json), and such weights are not read: take the "
            "model that it was made from, or dequantise it in Transformers and save that."
        )
    folder = Path(source)
    if not folder.is_dir():
        return
    for key, value in config.to_dict().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ModelError(f"{folder / 'config.json'} says {key} is {value}: correct it, or {_AGAIN}.")
    shapes = [entry["shape"] for file in sorted(folder.glob("*.safetensors")) for entry in _header(file).values()]
    largest = max((size for shape in shapes for size in shape), default=0)
    bounds = dict.fromkeys(_SIZES, 4 * largest + 2**16) | dict.fromkeys(_LAYERS, len(shapes) + 2**6)
    for key, bound in bounds.items():
        value = getattr(config, key, None)
        if isinstance(value, int) and value > bound:
            raise ModelError(
                f"{folder / 'config.json'} says {key} is {_shortened(value)}, and its weights are for at most "
                f"{largest if key in _SIZES else len(shapes):,}: correct it, or {_AGAIN}."
            )


def _shards(index: Path) -> list[str]:
    """The names of the files that an index of shards names, once each."""
    try:
        names = json.loads(index.read_bytes())["weight_map"].values()
        if not names or max(len(name.encode(errors="replace")) for name in names) > _LONGEST_NAME:
            raise ValueError
    except _DAMAGE:
        raise ModelError(f"{index} is damaged: {_AGAIN}.") from None
    for name in dict.fromkeys(names):
        if not name.endswith(".safetensors"):
            raise ModelError(
                f"{index} names {name}, which is no safetensors file: only such weights are read, since other formats "
                "can run code; save the model again with a current Transformers."
            )
        if set(name) & set("/\\:\0") or name.startswith("."):
            raise ModelError(f"{index} names {name!r}, which is not a file inside its folder: do not use this model.")
    return list(dict.fromkeys(names))


def _leads_out(folder: Path, name: str) -> bool:
    """Whether a file is a link to another folder; the hub's own cache consists of links to its `blobs`."""
    target, here = (folder / name).resolve(), folder.resolve()
    cache = here.parent.parent / "blobs" if here.parent.name == "snapshots" else None
    return target.parent not in (here, cache)


def _header(file: Path) -> dict[str, Any]:
    """The names, types and shapes of a safetensors file's tensors; the file is as long as its header says.

    Raises:
        ModelError: it is damaged, or only a pointer to the weights.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        if start == b"version ":
            raise ModelError(
                f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` in its folder, or fetch the file "
                "itself."
            )
        header = int.from_bytes(start, "little")
        try:
            if len(start) < 8 or header > size:
                raise ValueError
            tensors = json.loads(opened.read(header))
            tensors.pop("__metadata__", None)
            whole = 8 + header + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
            if not all(isinstance(number, int) for tensor in tensors.values() for number in tensor["shape"]):
                raise ValueError
        except _DAMAGE as error:
            raise ModelError(f"{file} is not a complete safetensors file: {_AGAIN}.") from error
    if size != whole:
        raise ModelError(f"{file} has {size:,} bytes and should have {whole:,}: {_AGAIN}.")
    return tensors


def _shortened(value: int) -> str:
    return f"{value:,}" if value < 10**18 else "a number of more than 18 digits"
