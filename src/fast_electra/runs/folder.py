"""The folder of a pre-training run. All reading and writing of its files happens here.

    config.yaml       the resolved configuration, for people; running it again repeats the run
    run.json          the configuration as requested and resolved, digests of the inputs, the status and the result
    metrics.jsonl     one object per logged update
    checkpoints/      one folder per update
    divergence.json   after a run that stopped because it diverged: the updates and batches
    model/            the main model, written at the end; generator/ and masked_lm/ if the objective has them
    trackers.json     the run's identifier in trackers (training.trackers); tensorboard/, wandb/: what they write

Notable:
- one command at a time writes: it holds `.lock` (`data.locks`), and `opening.py` decides what it does in the folder;
- under torchrun, rank 0 alone writes;
- run.json holds a digest of itself and one of config.yaml; each checkpoint has a copy of it. The program reads the
  configuration from run.json only;
- no module outside of `runs/` knows the names of these files or the keys of run.json.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from fast_electra import distributed
from fast_electra.config.printing import dump_config
from fast_electra.config.tree import Config, move_earlier_keys
from fast_electra.data.files import (
    differing_parts,
    read_sealed_json,
    sha256_of_file,
    write_json_atomically,
    write_sealed_json,
    write_text_atomically,
)
from fast_electra.errors import CheckpointError
from fast_electra.plugins import digests, missing
from fast_electra.runs.metrics import Record, read_metrics
from fast_electra.terminal import Say

CONFIGS = ("requested", "resolved")
_COPY = "run-copy.json"  # another name than RUN, since a checkpoint is no run
_CONFIG_SEAL = "config_sha256"
SEALS = ("sha256", _CONFIG_SEAL)
"""keys of run.json that hold digests of run.json and of config.yaml; runs of earlier versions lack them"""
RUN, CONFIG, METRICS, CHECKPOINTS = "run.json", "config.yaml", "metrics.jsonl", "checkpoints"
_DIVERGENCE, _TRACKERS = "divergence.json", "trackers.json"


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds a run, with the content of its run.json."""

    path: Path
    record: Mapping[str, Any]
    """content of run.json"""

    @classmethod
    def find(cls, path: str | Path) -> Self | None:
        """The run in a folder; None if there is no run.

        Raises:
            CheckpointError: its run.json is damaged.
        """
        path = Path(path)
        if (record := _read_record(path / RUN)) is None:
            return None
        try:
            # Runs of earlier versions lack these keys.
            defaults = {"segments": [{"from": 0, "updates": record["updates"]}], "main": None, "earlier_flops": {}}
            return cls(path, defaults | record | {name: _as_now(record[name]) for name in CONFIGS})
        except (KeyError, TypeError, AttributeError) as error:
            raise _damaged(path / RUN) from error

    @classmethod
    def of_model(cls, source: str | Path) -> Self | None:
        """The run that a model belongs to, given as RUN, a folder in it or RUN/checkpoints/UPDATE; None: no run."""
        path = Path(source)
        if not path.is_dir():
            return None
        return cls.find(path) or cls.find(path.parent.parent if _is_checkpoint(path) else path.parent)

    @classmethod
    def create(cls, path: Path, asked: Config, resolved: Config, inputs: Mapping[str, Any]) -> Self:
        """Write config.yaml and run.json of a new run.

        Args:
            path: the folder; created if it does not exist.
            asked: the configuration as the user gave it.
            resolved: the configuration with everything that was chosen automatically.
            inputs: further keys of run.json, such as digests of the run's inputs and `environment`.
        """
        updates = resolved.training.updates
        record = {
            "status": "started",
            "requested": asked.model_dump(mode="json"),
            "resolved": resolved.model_dump(mode="json"),
            "updates": updates,
            "segments": [{"from": 0, "updates": updates}],
            "plugins": digests(resolved.plugins),
            **inputs,
        }
        return cls(path, {})._with_config(resolved, record)

    def extend(self, resolved: Config) -> Self:
        """Write config.yaml and run.json for an extension of the run to the updates of `resolved`."""
        updates = resolved.training.updates
        return self._with_config(
            resolved,
            {
                "status": "started",
                "resolved": resolved.model_dump(mode="json"),
                "updates": updates,
                "segments": [*self.segments, {"from": self.updates, "updates": updates}],
            },
        )

    def with_resolved(self, resolved: Config) -> Self:
        """Write config.yaml and run.json with another resolved configuration."""
        return self._with_config(resolved, {"resolved": resolved.model_dump(mode="json")})

    def finish(self, result: Mapping[str, Any]) -> Self:
        """Write to run.json that the run is finished, with its `result`."""
        return self._with({"status": "finished", "result": dict(result)})

    def with_sound_config(self, say: Say) -> Self:
        """Write config.yaml again if it is missing or was changed; `say` is called about a change."""
        file, wanted = self.path / CONFIG, self.record.get(_CONFIG_SEAL)
        if file.exists() and wanted == sha256_of_file(file):
            return self
        if file.exists() and wanted is not None:
            say(f"{file} was changed after the run wrote it: it is written again from {RUN}.")
        return self._with_config(self.config, {})

    def write_divergence(self, facts: Mapping[str, Any]) -> None:
        """Write divergence.json: why the run stopped, its updates, and the rows of their batches by batch number."""
        write_json_atomically(self.path / _DIVERGENCE, facts)

    def copy_record(self, folder: Path) -> None:
        """Write a copy of run.json into a checkpoint's folder, from which it can be restored."""
        write_sealed_json(folder / _COPY, dict(self.record))

    def _with_config(self, resolved: Config, changes: Mapping[str, Any]) -> Self:
        """Write run.json with changes, and config.yaml."""
        text = dump_config(resolved)
        run = self._with({**changes, _CONFIG_SEAL: hashlib.sha256(text.encode()).hexdigest()})
        if distributed.is_main():
            write_text_atomically(self.path / CONFIG, text)
        return run

    def _with(self, changes: Mapping[str, Any]) -> Self:
        record = {**self.record, **changes}
        if distributed.is_main():
            write_sealed_json(self.path / RUN, record)
        return type(self)(self.path, record)

    @property
    def config(self) -> Config:
        """The resolved configuration.

        Raises:
            CheckpointError: another version wrote it, with settings that this version does not have; or it has
                plug-ins that are not imported.
        """
        if sentence := missing(self.plugins):
            raise CheckpointError(f"{self.path}: {sentence}.")
        try:
            return Config.model_validate_json(json.dumps(self.record["resolved"]))
        except ValidationError as error:
            reason = str(error).replace("\n", " ")[:200]
            raise CheckpointError(
                f"{self.path / RUN} cannot be read by this version ({reason}): use the one that wrote it."
            ) from error

    @property
    def plugins(self) -> Mapping[str, str]:
        """Digests of the run's plug-ins, by name."""
        return self.record.get("plugins", {})

    @property
    def config_text(self) -> str:
        """The resolved configuration as YAML."""
        return dump_config(self.config)

    @property
    def requested(self) -> Mapping[str, Any]:
        """The configuration as the user gave it."""
        return self.record["requested"]

    @property
    def started_from(self) -> str | None:
        """The working folder at the run's start, relative to the run's folder; None in runs of earlier versions."""
        return self.record.get("started_from")

    @property
    def updates(self) -> int:
        """The number of updates of the whole run."""
        return self.record["updates"]

    @property
    def first_update(self) -> int:
        """The number of updates done when the last segment began: 0 for a run that was never extended."""
        return self.segments[-1]["from"]

    @property
    def segments(self) -> list[dict[str, int]]:
        """`from` and `updates` of the run's first segment and of each extension."""
        return self.record["segments"]

    def digest(self, name: str) -> str | None:
        """The digest of the run's `data`, `tokenizer`, `auxiliary` or `main`; None if the run has no such input."""
        return self.record[name]

    @property
    def earlier_flops(self) -> Mapping[str, int | None]:
        """The result of `publishing.card.earlier_flops` at the run's start."""
        return self.record["earlier_flops"]

    @property
    def flops_per_update(self) -> int:
        """FLOPs of one whole update of the first phase, the frozen auxiliary's included."""
        return self.record["flops_per_update"]

    @property
    def memory_bytes(self) -> Mapping[str, int]:
        """The result of `training.setup.memory_bytes` at the run's start; empty in runs of earlier versions."""
        return self.record.get("memory_bytes", {})

    @property
    def phase_starts(self) -> list[int]:
        """The number of updates before each phase; the first is 0."""
        return [0, *(phase["start"] for phase in self.record["resolved"].get("phases", ()))]

    def flops(self, updates: int) -> int:
        """FLOPs of the first updates."""
        starts, each = self.phase_starts, self.record.get("flops_by_phase") or [self.flops_per_update]
        stops = (*starts[1:], updates)
        return sum(
            flops * max(0, min(updates, stop) - start) for flops, start, stop in zip(each, starts, stops, strict=True)
        )

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions of the software, and what rounding depends on: `cpu`, `device`, `precision`, `threads`."""
        return self.record["environment"]

    @property
    def initial_temperature(self) -> float | None:
        """T0 of the run; None if it is still `auto`, because there was no auxiliary to choose it from."""
        initial = self.record["resolved"]["corruption"]["schedule"].get("initial")
        return None if initial == "auto" else initial

    @property
    def status(self) -> str:
        """The run's status: `started` or `finished`."""
        return self.record["status"]

    @property
    def is_finished(self) -> bool:
        """Whether every update is done and the models are written."""
        return self.status == "finished"

    @property
    def result(self) -> Mapping[str, Any]:
        """`updates`, `tokens`, `validation` and `flops` of a finished run; empty for an unfinished run."""
        return self.record.get("result", {})

    @property
    def metrics_file(self) -> Path:
        """The file of metrics, in JSON lines."""
        return self.path / METRICS

    def metrics(self) -> list[Record]:
        """The records of metrics that the run has written so far."""
        return read_metrics(self.metrics_file)

    def tracker_identifier(self) -> str | None:
        """The identifier of the run in trackers; None if it has none yet."""
        return (read_sealed_json(self.path / _TRACKERS) or {}).get("identifier")

    def keep_tracker_identifier(self, identifier: str) -> None:
        """Write the identifier of the run in trackers."""
        write_sealed_json(self.path / _TRACKERS, {"identifier": identifier})

    def model(self, name: str = "main") -> Path:
        """The folder of one of the models of a finished run."""
        return self.path / ("model" if name == "main" else name)

    @property
    def checkpoints(self) -> Path:
        """The folder that holds one folder per checkpoint; `runs.checkpoints` reads them."""
        return self.path / CHECKPOINTS

    def refuse_other_inputs(self, **digests: str | None) -> None:
        """Refuse inputs whose digests are not those of the run.

        Raises:
            CheckpointError: the run was started with others.
        """
        for name, now in digests.items():
            if differing := differing_parts(self.digest(name), now):
                raise CheckpointError(
                    f"{self.path} was started with another {name} (digest {differing[0]}, now {differing[1]}): restore "
                    "the old one, or choose another folder."
                )


def _read_record(file: Path) -> dict[str, Any] | None:
    """The content of a run.json; None if there is none, or another program wrote it.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        if not file.is_file():
            return None
        if (sealed := read_sealed_json(file)) is not None:
            return sealed
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} can't be read ({error.strerror}): make it readable.") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(file) from error
    if isinstance(content, dict) and not content.keys().isdisjoint(SEALS):
        raise _damaged(file)
    # Earlier versions did not seal it.
    return content if isinstance(content, dict) and not content.keys().isdisjoint(CONFIGS) else None


def _damaged(file: Path) -> CheckpointError:
    """The error about a damaged run.json, with the command that restores it from a checkpoint."""
    copies = sorted((file.parent / CHECKPOINTS).glob(f"[0-9]*/{_COPY}"))
    sound = [copy for copy in copies if read_sealed_json(copy) is not None]
    remedy = (
        f"restore it with `{shlex.join(['cp', str(sound[-1]), str(file)])}`, and run the command that began the run"
        if sound
        else "restore it from a backup, or choose another folder"
    )
    return CheckpointError(f"{file} is damaged (its content differs from its digest): {remedy}.")


def _as_now(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that an earlier version stored, with the keys of this version."""
    # In version 0.1, Muon had its own learning rate.
    optimizer = {key: value for key, value in tree["optimizer"].items() if key != "muon_learning_rate"}
    now = {**tree, "optimizer": optimizer, "training": dict(tree["training"])}
    move_earlier_keys(now)
    return now


def load_run(path: Path) -> RunFolder:
    """The run in a folder.

    Raises:
        CheckpointError: there is no run; the message names runs inside the folder, if there are any.
    """
    run = RunFolder.find(path)
    if run is None:
        inside = [str(path / name) for name in ("auxiliary", "main") if RunFolder.find(path / name)]
        raise CheckpointError(
            f"{path} is no run, because it has no {RUN}: give "
            + (" or ".join(inside) if inside else "a folder that `fast-electra pretrain` wrote")
            + "."
        )
    return run


def run_of_checkpoint(path: Path) -> RunFolder | None:
    """The run of a checkpoint's folder, RUN/checkpoints/UPDATE; None for any other path."""
    return RunFolder.find(path.parent.parent) if _is_checkpoint(path) else None


def _is_checkpoint(path: Path) -> bool:
    return path.parent.name == CHECKPOINTS and path.name.isdecimal()
