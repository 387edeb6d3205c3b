"""Experiment trackers that a run reports to: TensorBoard, Weights & Biases, Trackio and MLflow.

Notable:
- `metrics.jsonl` is the record of a run, and a tracker gets a copy. If a tracker fails, the run says so once and goes
  on without it;
- each tracker reads its own environment variables (WANDB_MODE=offline, MLFLOW_TRACKING_URI, …), which say where the
  records go. This program neither reads nor stores keys;
- a resumed run continues the tracker's run, which it finds by an identifier that the run's folder keeps.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Protocol, TypeVar

from fast_electra.config.reading import flat
from fast_electra.config.tree import TRACKERS, Config
from fast_electra.errors import ConfigError
from fast_electra.runs.folder import RunFolder
from fast_electra.runs.metrics import Record
from fast_electra.terminal import Say
from fast_electra.training.telemetry import QuietObserver

PROJECT = "fast-electra"
"""name of the project or experiment where trackers list the runs"""
T = TypeVar("T")


class Tracker(Protocol):
    """A run of a tracker that is open for writing."""

    def log(self, values: Mapping[str, float], update: int) -> None:
        """Write the measures of an update."""
        ...

    def close(self) -> None:
        """Write what is left, and close the tracker's run."""
        ...


class _TensorBoard:
    def __init__(self, run: RunFolder, config: Config, name: str, update: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # A resumed run repeats the updates after its checkpoint.
        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=update + 1)

    def log(self, values: Mapping[str, float], update: int) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, update)

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, run: RunFolder, config: Config, name: str, update: int) -> None:
        settings = {"project": PROJECT, "name": name, "id": name, "resume": "allow", "dir": str(run.path)}
        self._run = import_module("wandb").init(**settings, config=config.model_dump(mode="json"))
        self._run.define_metric("*", step_metric="update")  # W&B's own step may not go back; a resumed run's update may

    def log(self, values: Mapping[str, float], update: int) -> None:
        self._run.log({**values, "update": update})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, run: RunFolder, config: Config, name: str, update: int) -> None:
        tree = config.model_dump(mode="json")
        self._run = import_module("trackio").init(PROJECT, name, config=tree, resume="allow", embed=False)

    def log(self, values: Mapping[str, float], update: int) -> None:
        self._run.log(dict(values), step=update)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, run: RunFolder, config: Config, name: str, update: int) -> None:
        self._client = import_module("mlflow").MlflowClient()
        found = self._client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
        earlier = self._client.search_runs([experiment], f"attributes.run_name = '{name}'")
        if earlier:
            self._run = earlier[0].info.run_id
            self._client.update_run(self._run, "RUNNING")
            return
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        settings = flat(config.model_dump(mode="json"), ".")
        param = import_module("mlflow.entities").Param
        params = [param(key, str(value)) for key, value in settings.items()]
        for start in range(0, len(params), 100):  # MLflow's largest batch
            self._client.log_batch(self._run, params=params[start : start + 100])

    def log(self, values: Mapping[str, float], update: int) -> None:
        metric = import_module("mlflow.entities").Metric
        metrics = [metric(key, value, 0, update) for key, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


_KINDS: Mapping[str, Callable[[RunFolder, Config, str, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "trackio": _Trackio,
    "mlflow": _MLflow,
}
assert set(_KINDS) == set(TRACKERS)


class TrackerObserver(QuietObserver):
    """Sends the records of a run to one tracker; an error of the tracker never reaches the run."""

    def __init__(self, kind: str, run: RunFolder, config: Config, update: int, say: Say) -> None:
        """Open the tracker's run.

        Args:
            kind: one of `TRACKERS`.
            run: the run to report.
            config: its configuration.
            update: the number of updates that are done.
            say: called with one sentence if the tracker fails.
        """
        self._kind, self._file, self._say = kind, run.metrics_file, say
        self._tracker: Tracker | None = None
        self._tracker = self._tried(lambda: _KINDS[kind](run, config, _name(run), update))

    def logged(self, record: Record) -> None:
        """Send every number of the record; nested names are joined by a slash."""
        if tracker := self._tracker:
            values = {k: float(v) for k, v in flat(record, "/").items() if isinstance(v, int | float)}
            update = int(values.pop("update"))
            self._tried(lambda: tracker.log(values, update))

    def finished(self) -> None:
        """Close the tracker's run."""
        if tracker := self._tracker:
            self._tried(tracker.close)

    def _tried(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:  # trackers raise errors of many libraries
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self._say(f"{self._kind} failed ({reason}): the run goes on without it; {self._file} has every record.")
            self._tracker = None
            return None


def refuse_missing_trackers(kinds: Sequence[str]) -> None:
    """Check that the packages of trackers are installed.

    Raises:
        ConfigError: one of them is not.
    """
    for kind in kinds:
        if find_spec(kind) is None:
            raise ConfigError(
                f"training.trackers names {kind}, which is not installed: run `pip install 'fast-electra[{kind}]'`, or "
                "leave it out; metrics.jsonl has every record anyway."
            )


def _name(run: RunFolder) -> str:
    """The name of a run in every tracker: its folder's name with an identifier that the folder keeps."""
    identifier = run.tracker_identifier()
    if identifier is None:
        identifier = uuid.uuid4().hex[:8]
        run.keep_tracker_identifier(identifier)
    return f"{run.path.resolve().name}-{identifier}"
