"""Exports a run's models, from its end or from any of its checkpoints, and the auxiliary that it used.

Notable:
- an export contains every model that the run trained or used: the main model with its RTD head, and the generator or
  auxiliary with its own head, each in a folder that Transformers loads without this package;
- the export of a checkpoint does not need the run's shards; the auxiliary is written only if it is still available;
- the last checkpoint gives the same weights as the run's `model/`, bit for bit.

    OUT/                main model (or masked language model)
    OUT/generator/      the generator of joint ELECTRA
    OUT/masked_lm/      the main model's encoder with its vocabulary head (objective.corrective_weight)
    OUT/auxiliary/      the frozen auxiliary, if it is a model
    OUT/step-500/ …     with `checkpoint="all"`: one folder per checkpoint for the trained models
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi

from fast_electra.config.tree import Config
from fast_electra.data.disk import writing
from fast_electra.data.files import MANIFEST, differing_parts, read_manifest, staged_folder
from fast_electra.data.seals import is_sealed, refuse_broken_seal, seal_model
from fast_electra.data.shards import open_shards
from fast_electra.data.tokenizer import load_any_tokenizer, load_tokenizer
from fast_electra.errors import CheckpointError, DataError, ModelError
from fast_electra.models.export import write_model
from fast_electra.publishing.card import card_of_revisions, model_card, text_length
from fast_electra.runs.checkpoints import checkpoint_at, checkpoint_updates
from fast_electra.runs.folder import RunFolder
from fast_electra.runs.models import resolve_model
from fast_electra.runs.paths import located
from fast_electra.terminal import Say
from fast_electra.training.auxiliary import load_auxiliary
from fast_electra.training.checkpoint_models import model_names, read_model, read_tokenizer


def export_run(
    run: Path,
    out: Path,
    checkpoint: int | Literal["all"] | None = None,
    auxiliary: bool = True,
    say: Say = print,
) -> None:
    """Write a run's models to a new folder. After an error the folder does not exist.

    Args:
        run: the run's folder; without `checkpoint`, also any folder with a Transformers model.
        out: the new folder; if it holds the same export already, it stays as it is.
        checkpoint: the update of a checkpoint, or "all"; None: the finished run's models.
        auxiliary: also write the frozen auxiliary that the run used.
        say: called with one sentence at a time.

    Raises:
        DataError: `out` holds something else, or the disk is full.
        ModelError, ConfigError: the run has not finished, or one of its inputs no longer exists.
        CheckpointError: the checkpoint does not exist or is damaged.
    """
    if is_exported(out, lambda same: export_run(run, same, checkpoint, auxiliary, lambda _: None)):
        return say(f"{out} holds this export already.")
    found = RunFolder.find(run)
    if found is None and checkpoint is not None:
        raise CheckpointError(f"{run} is no run, so it has no checkpoints: leave --checkpoint out.")
    with staged_folder(out) as staged:
        if checkpoint is None:
            model = Path(resolve_model(run))
            if not model.is_dir():
                raise ModelError(f"{run} is no folder here: give a run, or a folder with a Transformers model.")
            _copy_model(model, staged)
            for part in ("generator", "masked_lm"):
                if found is not None and found.model(part).exists():
                    _copy_model(found.model(part), staged / part)
        else:
            assert found is not None
            updates = checkpoint_updates(found.checkpoints) if checkpoint == "all" else [checkpoint]
            if not updates:
                raise CheckpointError(f"{run} has no checkpoint yet: continue the run first.")
            for update in updates:
                _export_checkpoint(found, update, staged / f"step-{update}" if checkpoint == "all" else staged)
        if auxiliary and found is not None:
            _export_auxiliary(found, staged, say)


def is_exported(out: Path, write: Callable[[Path], None]) -> bool:
    """Whether a folder holds an export already; False if it does not exist.

    A command finds its own export if it was stopped after it had written that, or if an upload failed.

    Args:
        out: the folder.
        write: writes the export to a folder, to compare.

    Raises:
        DataError: the folder holds something else.
        ModelError: a model in it was changed after it was sealed.
    """
    if not out.exists():
        return False
    if _seals(out):
        with writing(out.parent), tempfile.TemporaryDirectory(dir=out.parent) as folder:
            write(same := Path(folder) / out.name)
            if _seals(same) == _seals(out):
                return True
    raise DataError(f"{out} exists already: choose a new folder.")


def push(folder: Path, name: str, public: bool = False) -> str:
    """Upload an exported folder to the Hugging Face hub, by default to a private repository.

    Each checkpoint of an export of all becomes a revision (a branch) `step-N`; the newest one is also the repository's
    own content. What is there already is not uploaded again.

    Args:
        folder: a folder that `export_run` wrote.
        name: OWNER/NAME or NAME of the repository; it is created if it does not exist.
        public: create a public repository, or allow writing to one.

    Returns:
        the repository's address.

    Raises:
        ModelError: there is no network, no token or no permission, or the repository is public and `public` is False.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, private=not public, exist_ok=True)
        if not public and not api.repo_info(address.repo_id).private:
            raise ModelError(f"{name} is a public repository: give --public to upload to it, or give another name.")
        upload = partial(api.upload_folder, repo_id=address.repo_id, commit_message="Export from fast-electra")
        steps = {int(path.name.removeprefix("step-")): path for path in folder.glob("step-*")}
        if not steps:
            upload(folder_path=folder)
            return str(address)
        newest = max(steps)
        if any(not path.name.startswith("step-") for path in folder.iterdir()):
            upload(folder_path=folder, ignore_patterns=["step-*"])
        upload(folder_path=steps[newest], ignore_patterns=["README.md"])
        card = card_of_revisions((steps[newest] / "README.md").read_text(encoding="utf-8"), address.repo_id, steps)
        api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=address.repo_id)
        for update, path in sorted(steps.items()):
            api.create_branch(address.repo_id, branch=f"step-{update}", exist_ok=True)
            upload(folder_path=path, revision=f"step-{update}", delete_patterns=["*"])
    except ModelError:
        raise
    except Exception as error:  # the hub's client passes on the errors of the library that it connects with
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"{folder} is written, but could not be uploaded to {name} ({reason}): check the network and "
            "`hf auth login`, and run the same command again."
        ) from error
    return str(address)


def _seals(folder: Path) -> dict[str, Any]:
    """What the seals of all models in an export say, by folder.

    Raises:
        ModelError: a model was changed after it was sealed.
    """
    seals = {}
    for place in sorted(file.parent for file in folder.rglob(MANIFEST)):
        refuse_broken_seal(place)
        seals[str(place.relative_to(folder))] = read_manifest(place, links=True)
    return seals


def _copy_model(source: Path, target: Path) -> None:
    """Copy a folder with a model, and seal the copy if the folder has no seal."""
    refuse_broken_seal(source)
    shutil.copytree(source, target, dirs_exist_ok=True)
    if not is_sealed(target):
        seal_model(target)


def _export_checkpoint(run: RunFolder, update: int, folder: Path) -> None:
    """Write the models of a checkpoint."""
    checkpoint = checkpoint_at(run.checkpoints, update)
    tokenizer = read_tokenizer(checkpoint)
    measured = {record["update"]: record["validation"] for record in run.metrics() if "validation" in record}
    result = {
        "updates": update,
        "tokens": checkpoint.scalars["tokens"],
        "flops": run.flops(update),
        "validation": measured.get(update, {}),
    }
    for name in model_names(checkpoint):
        model = read_model(checkpoint, name)
        length = text_length(run.config, name, model, tokenizer, update)
        card = model_card(run, result, name, model, length)
        write_model(model, tokenizer, folder if name == "main" else folder / name, card, length)


def _export_auxiliary(run: RunFolder, out: Path, say: Say) -> None:
    """Write the frozen auxiliary, if the run used one that is a model."""
    config = located(run.config, run)
    name = config.auxiliary.model
    if not config.objective.uses_auxiliary or name is None:
        return
    missing = next((place for place in (name, str(config.data.shards)) if not Path(place).is_dir()), None)
    if missing is not None:
        say(f"the auxiliary {name} is not written: {missing} is on the hub, or no longer where the run found it.")
        return
    shards = open_shards(Path(str(config.data.shards)), verify=False)
    loaded = load_auxiliary(config, shards, load_tokenizer(shards.folder / "tokenizer"))
    if loaded.model is None:
        return
    if differing_parts(loaded.digest, run.digest("auxiliary")):
        raise CheckpointError(
            f"the auxiliary {name} is not the one that {run.path} used: restore that one, or give --no-auxiliary."
        )
    tokenizer = load_any_tokenizer(resolve_model(name))
    write_model(loaded.model, tokenizer, out / "auxiliary", _auxiliary_card(config, name))


def _auxiliary_card(config: Config, name: str) -> str:
    """The auxiliary's own card if it has one, else a title; followed by the checkpoint and layers that the run used."""
    own = Path(resolve_model(name)) / "README.md"
    text = own.read_text(encoding="utf-8") if own.exists() else "# A frozen auxiliary of Fast-ELECTRA\n"
    used = [
        f"its {key} {value}"
        for key, value in (("checkpoint", config.auxiliary.checkpoint), ("first layers", config.auxiliary.layers))
        if value is not None
    ]
    return re.sub(r"\s*\Z", "\n", text) + (f"\nUsed as an auxiliary: {' and '.join(used)}.\n" if used else "")
