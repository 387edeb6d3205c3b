"""Finds the model that a user names: a run, a folder in Transformers' layout, or a hub name."""

from pathlib import Path

from fast_electra.errors import ModelError
from fast_electra.models.loading import refuse_no_model
from fast_electra.runs.folder import RunFolder
from fast_electra.terminal import command


def resolve_model(source: str | Path) -> str:
    """The folder or hub name that Transformers loads: `model/` of a finished run, otherwise `source` itself.

    Raises:
        ModelError: the folder has no model, or the path does not exist.
    """
    path = Path(source)
    if (path / "model" / "config.json").exists():
        return str(path / "model")
    if RunFolder.find(path):
        raise ModelError(
            f"{path} is a run that has not finished, and has no model/ yet: run the command that started it again, or "
            f"export one of its checkpoints with `{command('export', path, 'OUT', '--checkpoint', 'UPDATE')}`."
        )
    refuse_no_model(source)
    return str(source)
