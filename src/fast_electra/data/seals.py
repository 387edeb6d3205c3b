"""Seals on the folders of models that this program writes: a manifest over the files that decide what a model does.

Notable:
- weights, configuration and tokenizer are sealed; README.md is not, and a person may add files;
- a folder without a seal (from the hub, from an earlier version, or saved by Transformers) is read as it is.
"""

import json
from pathlib import Path

from fast_electra.data.files import MANIFEST, read_manifest, verify_file, write_manifest
from fast_electra.errors import DataError, ModelError

_FORMAT = "fast-electra model"
_REMEDY = f"restore the file or export the model again; if you changed it yourself, delete {MANIFEST} there"


def seal_model(folder: Path) -> None:
    """Write `manifest.json` over the files of a model that lie directly in `folder`."""
    names = (path.name for path in folder.iterdir() if path.is_file() and path.name != "README.md")
    write_manifest(folder, {"format": _FORMAT}, names=names)


def is_sealed(folder: str | Path) -> bool:
    """Whether a folder has a seal, damaged or not; a `manifest.json` of another program is none."""
    file = Path(folder) / MANIFEST
    try:
        content = file.read_bytes()
    except OSError:
        return False
    # One damaged byte leaves either the format or one of the two keys.
    return json.dumps(_FORMAT).encode() in content or (b'"files"' in content and b'"digest"' in content)


def refuse_broken_seal(folder: str | Path, weights: bool = True) -> None:
    """Check the files of a model against its seal; a hub name, or a folder without a seal, passes.

    Args:
        folder: of the model.
        weights: also read every byte of the weights; otherwise only their sizes are compared.

    Raises:
        ModelError: names the first file that is missing, cut short or changed.
    """
    folder = Path(folder)
    if not is_sealed(folder):
        return
    try:
        for name, expected in read_manifest(folder, _REMEDY, links=True)["files"].items():
            verify_file(folder / name, expected, weights or not name.endswith(".safetensors"), _REMEDY)
    except DataError as error:
        raise ModelError(str(error)) from error
