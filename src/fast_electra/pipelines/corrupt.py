"""Builds a corruption cache: runs the auxiliary on all rows that a run will see, and stores their temperature paths.

Notable:
- the auxiliary reads the rows in the run's order and micro-batches, so the paths equal those that `sampler: race` draws
  on the fly, bit for bit;
- a part has a fixed number of rows, and parts are written one after the other. Several processes share a folder: of n
  processes, process i makes parts i, i + n, i + 2n, … A killed process continues after its last finished part. The
  process that finishes the last part writes the manifest;
- for a longer run, only the missing parts are added;
- the time of the auxiliary's forward passes is reported apart from that of the race.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fast_electra.config.tree import Config
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.auxiliary import Auxiliary
from fast_electra.corruption.cache import FORMAT, IDENTITY, VERSION, differences, write_cache_manifest
from fast_electra.corruption.cache_files import PackedPaths, PartFile, expected_replaced, token_type, write_part
from fast_electra.corruption.masking import originals
from fast_electra.corruption.replacement import race
from fast_electra.data.batches import Prefetcher
from fast_electra.data.files import (
    canonical_digest,
    read_kept_json,
    sha256_of_file,
    write_json_atomically,
    write_sealed_json,
)
from fast_electra.data.locks import LOCK, folder_lock
from fast_electra.errors import ConfigError, DataError
from fast_electra.objectives.base import Prepared
from fast_electra.publishing.card import training_flops
from fast_electra.training.assembly import (
    Inputs,
    chosen_temperature,
    measured,
    read_inputs,
)
from fast_electra.training.auxiliary import load_auxiliary, make_auxiliary
from fast_electra.training.cached_corruption import cache_identity
from fast_electra.training.flops import count_flops
from fast_electra.training.precision import Execution, apply_threads, choose_execution, synchronize
from fast_electra.training.validation_rows import validation_batches

PART_TOKENS = 2**20
"""approximate number of tokens in a part, which is the most that a killed process loses"""

CacheProgress = Callable[[int, int], None]
"""function that is called with this process's rows done and its total number of rows"""


@dataclass
class CacheReport:
    """The content and the cost of a cache so far. All figures after `rows` include the validation rows."""

    folder: Path
    finished: bool = False
    """whether all parts exist; False while other processes' parts are missing"""
    built_parts: int = 0
    """number of parts that this call built"""
    rows: int = 0
    """number of training rows"""
    tokens: int = 0
    """number of tokens without padding"""
    positions: int = 0
    """number of masked positions"""
    segments: int = 0
    """number of segments of all temperature paths"""
    bytes: int = 0
    """size of the parts' files"""
    flops: int = 0
    """FLOPs of the auxiliary's forward passes"""
    seconds: float = 0.0
    """seconds of all processes together"""
    forward_seconds: float = 0.0
    """part of `seconds` for the auxiliary's forward passes"""
    race_seconds: float = 0.0
    """part of `seconds` for the race"""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; everything that depends on the clock is under `timing`."""
        content = {**asdict(self), "folder": str(self.folder)}
        timing = {name: content.pop(name) for name in ("seconds", "forward_seconds", "race_seconds")}
        timing["tokens_per_second"] = self.tokens / max(self.seconds, 1e-9)
        timing["against_forward"] = self.seconds / max(self.forward_seconds, 1e-9)
        content["bytes_per_token"] = self.bytes / max(self.tokens, 1)
        content["segments_per_position"] = self.segments / max(self.positions, 1)
        return {**content, "timing": timing}


def build_cache(
    config: Config,
    folder: Path,
    shard: tuple[int, int] = (1, 1),
    phase: int = 1,
    progress: CacheProgress = lambda done, total: None,
    say: Callable[[str], None] = lambda _: None,
    part_tokens: int = PART_TOKENS,
) -> CacheReport:
    """Run the auxiliary on the rows that a run of this configuration will see, and store their temperature paths.

    Args:
        config: of the run; its schedule does not matter.
        folder: a new folder, or a cache with the same settings, to which missing parts are added.
        shard: (i, n) with i from 1 to n: this process makes every n-th part, starting with the i-th.
        phase: number of the run's phase whose rows it stores, from 1.
        progress: called with rows done and the total number of rows of this process.
        say: called with one sentence at a time.
        part_tokens: see `PART_TOKENS`; an existing folder keeps its size of parts.

    Raises:
        ConfigError, DataError, ModelError: something is missing or does not fit, or the folder holds something else.
    """
    _refuse_unfit(config)
    count = len(config.phases) + 1
    if not 1 <= phase <= count:
        raise ConfigError(f"--phase {phase} is none of the {count} phases of the run: give a number from 1 to {count}.")
    execution = choose_execution(config.execution)
    apply_threads(execution)
    run = read_inputs(config, execution)
    inputs = run.phases[phase - 1]
    size = inputs.config.training.rows_at_a_time
    rows = max(each.plan.end for each in run.phases if each.plan.order == inputs.plan.order)
    with folder_lock(folder, name=f"{LOCK}-{shard[0]}-of-{shard[1]}"):  # processes with other parts may write here too
        builder = _Builder.of(inputs, folder, -(-rows // size) * size, part_tokens)
        for note in inputs.notes:
            say(note)
        mine = [n for n in range(builder.parts + 1) if n % shard[1] == shard[0] - 1]
        missing = [number for number in mine if not builder.is_finished(number)]
        total, done = sum(map(builder.rows_of, missing)), 0
        progress(0, total)
        for number in missing:
            for rows in builder.build(number):
                progress(done := done + rows, total)
        return builder.report(built=len(missing))


def _refuse_unfit(config: Config) -> None:
    """Refuse a configuration that cannot use a cache, or whose budget does not fix the number of updates."""
    if not config.objective.uses_auxiliary:
        raise ConfigError(
            f"objective.kind={config.objective.kind} has no frozen auxiliary, so there is nothing to compute ahead of "
            "time: use objective.kind=fast_electra."
        )
    if config.corruption.augmentation.acts_inside:
        raise ConfigError(
            f"corruption.augmentation.kind={config.corruption.augmentation.kind} changes the auxiliary at every "
            "update, so its output cannot be computed ahead of time: use temperature."
        )
    if config.known_updates is None:
        raise ConfigError(
            "a budget in hours or FLOPs does not say how many rows a cache needs: give training.updates or "
            "training.tokens."
        )


@dataclass
class _Builder:
    """Builds a cache's folder. Part 0 holds the validation rows; parts 1, 2, … hold the run's rows in their order."""

    folder: Path
    inputs: Inputs
    auxiliary: Auxiliary
    about: dict[str, Any]
    rows: int
    """number of training rows to store"""
    micro_batch: int
    forward_seconds: float = field(default=0.0, init=False)
    race_seconds: float = field(default=0.0, init=False)

    @classmethod
    def of(cls, inputs: Inputs, folder: Path, rows: int, part_tokens: int) -> "_Builder":
        """Load the auxiliary, and start the folder, or check that an existing folder has the same settings."""
        config, execution = inputs.config, inputs.execution
        loaded = load_auxiliary(config, inputs.shards, inputs.tokenizer)
        auxiliary = make_auxiliary(loaded, config, inputs.shards, inputs.special["mask"], execution)
        micro_batch = config.training.rows_at_a_time
        about = {
            "format": FORMAT,
            "version": VERSION,
            "identity": cache_identity(inputs, loaded),
            "numerics": {
                "device": execution.device.type,
                "precision": execution.precision,
                "auxiliary": str(execution.auxiliary_dtype).removeprefix("torch."),
                "micro_batch": micro_batch,
            },
            "token_type": token_type(inputs.shards.vocabulary_size),
            "chunk_rows": max(1, part_tokens // (config.data.length * micro_batch)) * micro_batch,
        }
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        if IDENTITY in names:
            return cls(folder, inputs, auxiliary, _begun(folder, about), rows, micro_batch)
        # Another process may be starting this folder: hidden names are files that are being written.
        if folder.exists() and (not folder.is_dir() or any(not name.startswith(".") for name in names)):
            raise DataError(f"{folder} holds something that is no corruption cache: choose a new or empty folder.")
        measures = measured(inputs, auxiliary, loaded)
        validation = validation_batches(inputs)
        about["validation"] = [int(index) for prepared in validation for index in prepared.batch.indices]
        one = validation[0].split(1)[0].to(execution.device)
        with execution.autocast(), torch.no_grad():
            flops = count_flops(lambda: auxiliary.logits(one.batch, one.masked, Difficulty(1.0)))
        named = config.auxiliary.model
        about["auxiliary"] = {
            "measures": measures,
            "initial_temperature": chosen_temperature(inputs, auxiliary, loaded),
            "flops_per_row": flops,
            "training_flops": training_flops(named, config.auxiliary.checkpoint) if named else 0,
        }
        if not (folder / IDENTITY).exists():
            write_sealed_json(folder / IDENTITY, about)
        return cls(folder, inputs, auxiliary, _begun(folder, about), rows, micro_batch)

    @property
    def parts(self) -> int:
        """The number of parts with training rows."""
        return -(-self.rows // self.about["chunk_rows"])

    def rows_of(self, number: int) -> int:
        """The number of rows that a part must hold."""
        size = self.about["chunk_rows"]
        return min(size, self.rows - (number - 1) * size) if number else len(self.about["validation"])

    def is_finished(self, number: int) -> bool:
        """Whether an undamaged file of a part exists, with all rows that it must hold."""
        facts = self._facts(number)
        if facts is None or facts["part"]["rows"] < self.rows_of(number):
            return False
        file = self.folder / facts["part"]["file"]
        return file.exists() and sha256_of_file(file) == facts["entry"]["sha256"]

    def build(self, number: int) -> Iterator[int]:
        """Compute and write a part; yields the rows of each micro-batch."""
        for left_over in self.folder.glob(f".{_name(number)}.*.tmp"):  # by a killed process
            left_over.unlink(missing_ok=True)
        self.forward_seconds = self.race_seconds = 0.0
        began = time.perf_counter()
        pieces, tokens = [], 0
        for prepared in self._batches(number):
            tokens += int((~prepared.batch.padding).sum())
            pieces.append(self._piece(prepared, seed=self.inputs.seed if number else 0))
            yield len(prepared.batch.ids)
        part, entry = write_part(self.folder, f"{_name(number)}.bin", pieces, self.inputs.shards.vocabulary_size)
        timing = {
            "seconds": time.perf_counter() - began,
            "forward_seconds": self.forward_seconds,
            "race_seconds": self.race_seconds,
        }
        facts = {"part": asdict(part), "entry": entry, "tokens": tokens, "timing": timing}
        # Written last, because this file says that the part exists.
        write_json_atomically(self.folder / f"{_name(number)}.json", facts | {"digest": canonical_digest(facts)})

    def report(self, built: int) -> CacheReport:
        """Report the parts that exist, and write the manifest if they are all parts."""
        report = CacheReport(self.folder, built_parts=built)
        validation = self._facts(0)
        train: list[dict[str, Any]] = []
        while (facts := self._facts(len(train) + 1)) is not None:
            train.append(facts)
            report.rows += facts["part"]["rows"]
            if facts["part"]["rows"] < self.about["chunk_rows"]:
                break
        there = train if validation is None else [validation, *train]
        for facts in there:
            report.tokens += facts["tokens"]
            report.bytes += facts["entry"]["bytes"]
            for name in ("positions", "segments"):
                setattr(report, name, getattr(report, name) + facts["part"][name])
            for name, value in facts["timing"].items():
                setattr(report, name, getattr(report, name) + value)
            report.flops += facts["part"]["rows"] * self.about["auxiliary"]["flops_per_row"]
        if validation is not None and report.rows >= self.rows:
            write_cache_manifest(
                self.folder,
                [PartFile(**facts["part"]) for facts in train],
                PartFile(**validation["part"]),
                {facts["part"]["file"]: facts["entry"] for facts in there},
            )
            report.finished = True
        return report

    def _batches(self, number: int) -> Iterator[Prepared]:
        if number == 0:
            yield from validation_batches(self.inputs)
            return
        schedule = self.inputs.schedule(self.micro_batch)

        def prepare(place: int) -> Prepared:
            batch = schedule.at(place)
            return Prepared(batch, self.inputs.masker(batch, self.inputs.seed))

        first = (number - 1) * self.about["chunk_rows"] // self.micro_batch
        loader = Prefetcher(prepare, first, first + self.rows_of(number) // self.micro_batch)
        try:
            for prepared, _ in loader:
                yield prepared
        finally:
            loader.close()

    @torch.no_grad()
    def _piece(self, prepared: Prepared, seed: int) -> PackedPaths:
        objective, execution = self.inputs.config.objective, self.inputs.execution
        disallow_correct = objective.never_draws_original
        interval = self.inputs.config.corruption.race_interval
        prepared = prepared.to(execution.device)
        batch, masked = prepared.batch, prepared.masked
        began = _now(execution)
        with execution.autocast():
            logits_NV = self.auxiliary.logits(batch, masked, Difficulty(1.0))
        computed = _now(execution)
        path = race(logits_NV, batch, masked, seed, interval, disallow_correct)
        expected_BK = expected_replaced(logits_NV, originals(batch, masked), masked.valid_BM, interval)
        if disallow_correct:
            expected_BK = masked.valid_BM.sum(1, keepdim=True).expand_as(expected_BK)
        self.forward_seconds += computed - began
        self.race_seconds += _now(execution) - computed
        return PackedPaths.of(path, masked, expected_BK)

    def _facts(self, number: int) -> dict[str, Any] | None:
        """The content of a finished part's JSON file; None if the file does not exist or is damaged."""
        try:
            facts = json.loads((self.folder / f"{_name(number)}.json").read_bytes())
            return facts if facts.pop("digest") == canonical_digest(facts) else None
        except (FileNotFoundError, ValueError, KeyError, AttributeError):
            return None


def _begun(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The settings that a folder was started with.

    Raises:
        DataError: they differ from `about`, or their file is damaged.
    """
    remedy = "delete the folder, or choose another"
    there = read_kept_json(folder / IDENTITY, remedy)
    try:
        flat = [
            {name: tree[name] for name in ("format", "version", "token_type")} | tree["identity"] | tree["numerics"]
            for tree in (there, about)
        ]
    except (KeyError, TypeError):
        raise DataError(f"{folder / IDENTITY} is damaged: {remedy}.") from None
    if found := differences(*flat):
        raise DataError(f"{folder} is a cache with other settings: {found}; choose another folder.")
    return there


def _name(number: int) -> str:
    return f"train-{number - 1:05}" if number else "validation"


def _now(execution: Execution) -> float:
    """The clock's seconds, after the device has finished its work."""
    synchronize(execution.device)
    return time.perf_counter()
