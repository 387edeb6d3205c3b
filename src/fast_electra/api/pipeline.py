"""The commands as functions: text → shards → models → evaluation, with typed results in place of printed tables.

Notable:
- each does what the command of its name does, and refuses what the command refuses, by a type of `errors.py`;
- they print nothing: `say` is called with one sentence at a time;
- what a run depends on is process-wide in PyTorch: `pretrain` and `corrupt` set the number of threads and deterministic
  kernels;
- torch is imported when a function is called.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fast_electra.config.tree import Config
from fast_electra.errors import ConfigError
from fast_electra.terminal import Say

if TYPE_CHECKING:
    from fast_electra.data.shard_report import BuildReport
    from fast_electra.evaluation.evaluations import Evaluation
    from fast_electra.pipelines.corrupt import CacheReport
    from fast_electra.pipelines.pretrain import RunResult


def _silent(sentence: str) -> None:
    """Say nothing."""


def _checked(config: Config) -> Config:
    """The configuration itself; a name or a mapping in its place is refused with what makes one."""
    if not isinstance(config, Config):
        raise ConfigError(
            f"config is {config!r}: give a Config, such as load_config('text-hour', ['data.shards=shards'])."
        )
    return config


def data_build(config: Config, out: str | Path) -> "BuildReport":
    """Turn the text of `config.data.sources` into a tokenizer and token shards.

    Args:
        config: its `data` section is read.
        out: the folder to write, new or empty; a folder that holds the same shards is left as it is.

    Returns:
        what was read, kept and left out.

    Raises:
        DataError: there is nothing to read, or the folder holds something else.
    """
    from fast_electra.data.shard_building import build_shards

    return build_shards(None, None, out, _checked(config).data)


def pretrain(config: Config, run: str | Path, *, extend: int | None = None, say: Say = _silent) -> "RunResult":
    """Train a configuration in a run folder, or continue the run there; a finished run returns at once.

    Args:
        config: of the run.
        run: the folder, new or of the same run.
        extend: continue a finished run until it has this total number of updates.
        say: called with a sentence at a time.

    Returns:
        updates, tokens, the measures of the last validation, and what it cost.

    Raises:
        ConfigError, DataError, ModelError: something does not fit; nothing was written.
        CheckpointError: the folder holds another run.
        TrainingError: a loss that is not finite.
    """
    from fast_electra.pipelines.pretrain import pretrain as run_pretraining

    return run_pretraining(_checked(config), Path(run), say=say, extend=extend)


def corrupt(
    config: Config, out: str | Path, *, shard: tuple[int, int] = (1, 1), phase: int = 1, say: Say = _silent
) -> "CacheReport":
    """Compute the replacements of a run ahead of time; `corruption.cache` of a run then names the folder.

    Args:
        config: of the run.
        out: the folder, new or begun with the same settings.
        shard: (i, n): make every n-th part from the i-th on, so that n processes fill one folder.
        phase: number of the run's phase whose rows are computed, from 1.
        say: called with a sentence at a time.

    Returns:
        what the folder holds so far, and what it cost.

    Raises:
        ConfigError, DataError, ModelError: something is missing or does not fit, or the folder holds something else.
    """
    from fast_electra.pipelines.corrupt import build_cache

    return build_cache(_checked(config), Path(out), shard, phase, say=say)


def evaluate(
    model: str | Path,
    tasks: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    say: Say = _silent,
    **options: Any,
) -> "Evaluation":
    """Fine-tune a model and compare its scores with baselines; finished results are not computed again.

    Args:
        model: a run, a checkpoint of a run, a folder or a hub name.
        tasks: of GLUE, "bugs", "blimp".
        overrides: settings as on the command line, such as "recipe.epochs=5" and "execution.threads=1".
        say: called with a sentence at a time.
        options: the other fields of `evaluation.settings.EvaluationConfig`, which are the options of the command:
            `train="labelled.csv"`, `seeds=5`, `recipe="fast"`; a recipe may also be a mapping.

    Returns:
        all results of the model that the folder now holds.

    Raises:
        UserError: data or model cannot be used, or options do not go together.
    """
    from fast_electra.evaluation.settings import EvaluationConfig
    from fast_electra.pipelines.evaluate import evaluate_model

    config = EvaluationConfig.of({"model": model, "tasks": tasks, **options}, overrides)
    return evaluate_model(config, say, lambda done, total, doing: None)[0]


def export(
    run: str | Path,
    out: str | Path,
    *,
    checkpoint: int | Literal["all"] | None = None,
    auxiliary: bool = True,
    say: Say = _silent,
) -> Path:
    """Write a run's models to a new folder that Transformers loads.

    Args:
        run: a finished run; with `checkpoint`, any run.
        out: the folder.
        checkpoint: an update that the run kept a checkpoint of, or all of them.
        auxiliary: also write the frozen auxiliary.
        say: called with a sentence at a time.

    Returns:
        the folder of the main model.

    Raises:
        DataError: the folder exists.
        ModelError, CheckpointError: the run has not finished, or has no such checkpoint.
    """
    from fast_electra.publishing.export import export_run

    export_run(Path(run), Path(out), checkpoint, auxiliary, say=say)
    return Path(out)


def study(
    file: str | Path,
    out: str | Path,
    *,
    settings: Sequence[str] = (),
    cells: str | Path | None = None,
    say: Say = _silent,
) -> dict[str, Any]:
    """Train and compare the grid of a study; finished runs are kept, and the same call continues.

    Args:
        file: the YAML file of the study.
        out: the folder for shards, caches and runs.
        settings: changes of the file, each as key=value.
        cells: the folder of the results; None: that of the file, or `out`/cells.
        say: called with one sentence at a time.

    Returns:
        the object that `fast-electra study --json` prints (docs/studies.md).

    Raises:
        ConfigError: a setting can't be.
    """
    from fast_electra.studies.grid.findings import results_of
    from fast_electra.studies.grid.running import Listener, run_study
    from fast_electra.studies.grid.settings import read_study

    found, out = read_study(file, settings), Path(out)
    progress = run_study(found, out, Path(cells or found.cells or out / "cells"), Listener(say))
    return results_of(found, progress, out, "")
