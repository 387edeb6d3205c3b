"""Models by their name: a run, a folder in Transformers' layout, or a hub name."""

from pathlib import Path

from fast_electra.errors import ModelError
from fast_electra.models.loading import refuse_no_model
from fast_electra.runs.folder import RunFolder
from fast_electra.terminal import command


def resolve_model(source: str | Path) -> str:
    """The folder or hub name that Transformers loads: the exported `model/` of a run, or `source` as it is.

    Raises:
        ModelError: a folder without a model, or a path that doesn't exist.
    """
    path = Path(source)
    if (path / "model" / "config.json").exists():
        return str(path / "model")
    if RunFolder.find(path):
        raise ModelError(
            f"{path} is a run that has not finished, and has no model/ yet: go on with the command that started it, or "
            f"take one of its checkpoints by `{command('export', path, 'OUT', '--checkpoint', 'UPDATE')}`."
        )
    refuse_no_model(source)
    return str(source)
