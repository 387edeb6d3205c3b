"""The model that is evaluated, and the digest of everything that an evaluation reads of it."""

from dataclasses import dataclass
from pathlib import Path

from fast_electra.data.files import canonical_digest, read_manifest, sha256_of_file
from fast_electra.data.tokenizer import fingerprint
from fast_electra.models.classifier import load_task_tokenizer
from fast_electra.models.loading import stored_config, weights_digest
from fast_electra.publishing.export import export_run
from fast_electra.runs.folder import run_of_checkpoint
from fast_electra.runs.models import resolve_model
from fast_electra.terminal import Say


@dataclass(frozen=True)
class Subject:
    """A model that is evaluated."""

    name: str
    """as it was given"""
    source: str
    """folder or hub name that it is loaded from"""
    digest: str
    """of weights, configuration and tokenizer"""
    width: int


def open_subject(model: str, out: Path, say: Say = lambda _: None) -> Subject:
    """Find a model and its tokenizer, and compute the digest of its weights.

    Args:
        model: a run, RUN/checkpoints/UPDATE, a folder or a hub name.
        out: the evaluation's folder; a checkpoint is exported there first.
        say: called with a sentence about the export.

    Raises:
        ModelError, DataError, CheckpointError: there is no such model, or it can't be used; it has no tokenizer.
    """
    source = model
    if run := run_of_checkpoint(Path(model)):
        # Another run in the same place has other weights under the same number.
        exported = out / f"model-{canonical_digest(read_manifest(Path(model), 'take another checkpoint'))[:12]}"
        if not exported.exists():
            export_run(run.path, exported, int(Path(model).name), auxiliary=False, say=say)
        source = str(exported)
    name = resolve_model(source)
    return Subject(model, name, model_digest(name), stored_config(name).hidden_size)


def model_digest(name: str) -> str:
    """The digest of everything that fine-tuning reads of a model: weights, configuration, tokenizer, longest text."""
    tokenizer = load_task_tokenizer(name)
    folder = Path(name)
    parts = [name, getattr(stored_config(name), "_commit_hash", None)]
    if folder.is_dir():
        parts = [weights_digest(folder), sha256_of_file(folder / "config.json")]
    return canonical_digest(
        [*parts, fingerprint(tokenizer), tokenizer.model_max_length, sorted(tokenizer.model_input_names)]
    )
