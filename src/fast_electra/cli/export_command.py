"""`fast-electra export`: a run's model as a folder that Transformers loads."""

from pathlib import Path


def export(run: Path, out: Path, /) -> int:
    """Copy a finished run's model, tokenizer and model card to a folder of its own.

    Parameters
    ----------
    run
        A finished run.
    out
        The folder; new.
    """
    from fast_electra.data.files import copy_folder_atomically
    from fast_electra.errors import DataError
    from fast_electra.models.build import resolve_model

    source = Path(resolve_model(run))
    if out.exists():
        raise DataError(f"{out} exists already: choose a new folder.")
    copy_folder_atomically(source, out)
    print(out)
    return 0
