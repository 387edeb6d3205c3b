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
import shlex
import shutil
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from fast_electra.config.tree import Config
from fast_electra.data.files import staged_folder
from fast_electra.data.shards import open_shards
from fast_electra.data.tokenizer import load_any_tokenizer, load_tokenizer
from fast_electra.errors import CheckpointError, DataError, ModelError
from fast_electra.models.export import write_model
from fast_electra.publishing.card import model_card, text_length
from fast_electra.runs.checkpoints import checkpoint_at, checkpoint_updates
from fast_electra.runs.folder import RunFolder
from fast_electra.runs.models import resolve_model
from fast_electra.runs.paths import located
from fast_electra.terminal import Say
from fast_electra.training.auxiliary import load_auxiliary
from fast_electra.training.checkpoint_models import model_names, read_model, read_tokenizer


def export_run(
    run: Path, out: Path, checkpoint: int | Literal["all"] | None = None, auxiliary: bool = True, say: Say = print
) -> None:
    """Write a run's models to a new folder. After an error the folder does not exist.

    Args:
        run: the run's folder; without `checkpoint`, also any folder with a Transformers model.
        out: the new folder.
        checkpoint: the update of a checkpoint, or "all"; None: the finished run's models.
        auxiliary: also write the frozen auxiliary that the run used.
        say: called with one sentence at a time.

    Raises:
        DataError: `out` exists, or the disk is full.
        ModelError, ConfigError: the run has not finished, or one of its inputs no longer exists.
        CheckpointError: the checkpoint does not exist or is damaged.
    """
    if out.exists():
        raise DataError(f"{out} exists already: choose a new folder.")
    found = RunFolder.find(run)
    if found is None and checkpoint is not None:
        raise CheckpointError(f"{run} is no run, so it has no checkpoints: leave --checkpoint out.")
    with staged_folder(out) as staged:
        if checkpoint is None:
            model = Path(resolve_model(run))
            if not model.is_dir():
                raise ModelError(f"{run} is no folder here: give a run, or a folder with a Transformers model.")
            shutil.copytree(model, staged, dirs_exist_ok=True)
            for part in ("generator", "masked_lm"):
                if found is not None and found.model(part).exists():
                    shutil.copytree(found.model(part), staged / part)
        else:
            assert found is not None
            updates = checkpoint_updates(found.checkpoints) if checkpoint == "all" else [checkpoint]
            if not updates:
                raise CheckpointError(f"{run} has no checkpoint yet: continue the run first.")
            for update in updates:
                _export_checkpoint(found, update, staged / f"step-{update}" if checkpoint == "all" else staged)
        if auxiliary and found is not None:
            _export_auxiliary(found, staged, say)


def push(folder: Path, name: str, public: bool = False) -> str:
    """Upload an exported folder to the Hugging Face hub, by default to a private repository.

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
        api.upload_folder(folder_path=folder, repo_id=address.repo_id, commit_message="Export from fast-electra")
    except (LocalTokenNotFoundError, HFValidationError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"{folder} is written, but could not be uploaded to {name} ({reason}): check the network and "
            f"`hf auth login`, and upload it with `{shlex.join(['hf', 'upload', name, str(folder)])}`."
        ) from error
    return str(address)


def _export_checkpoint(run: RunFolder, update: int, folder: Path) -> None:
    """Write the models of a checkpoint."""
    checkpoint = checkpoint_at(run.checkpoints, update)
    tokenizer = read_tokenizer(checkpoint)
    measured = {record["update"]: record["validation"] for record in run.metrics() if "validation" in record}
    result = {
        "updates": update,
        "tokens": checkpoint.scalars["tokens"],
        "flops": update * run.flops_per_update,
        "validation": measured.get(update, {}),
    }
    for name in model_names(checkpoint):
        model = read_model(checkpoint, name)
        length = text_length(run.config, name, model, tokenizer)
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
    if loaded.digest != run.digest("auxiliary"):
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
