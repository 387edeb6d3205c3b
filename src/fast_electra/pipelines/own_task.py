"""The last stage of a quickstart: whether pre-training paid on the user's own labelled examples.

Notable:
- the files are checked before pre-training starts, so that a misspelt column is reported before minutes of training;
- the answer is that of `fast-electra evaluate` on the quickstart's model: three seeds, compared with an untrained
  encoder of the same shape and a linear model on the same examples; finished cells are never computed again;
- the auxiliary is fine-tuned too, so that the report says what the main stage added to masked language modelling;
- "paid" means that the interval over seeds and examples excludes 0, and that the difference is at least the minimal
  detectable one.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fast_electra.errors import ConfigError
from fast_electra.evaluation.comparison import Comparison
from fast_electra.evaluation.contests import compare_evaluations
from fast_electra.evaluation.own_files import choose_columns, load_own
from fast_electra.evaluation.results import BASELINES, Result, spread
from fast_electra.evaluation.settings import EvaluationConfig
from fast_electra.pipelines.evaluate import evaluate_model
from fast_electra.stopping import Interrupted
from fast_electra.terminal import command_given

FOLDER = "evaluation"
"""of the quickstart's folder; `fast-electra compare` finds it there"""
LINEAR = ("bag_of_words", "word_crf")
"""the linear baselines; a task has one of them"""


def check_task(task: Mapping[str, Any], folder: Path) -> EvaluationConfig:
    """Read the files of a task, and return the settings of its evaluation.

    Args:
        task: of `own_task`; columns that are not named are chosen where there is one choice only.
        folder: the quickstart's.

    Raises:
        UserError: a file, column, text or label is not right.
    """
    text, label = choose_columns(task["train"], task["text"], task["label"])
    found = {"model": folder / "model", "text": text, "label": label, "save": True, "out": folder / FOLDER}
    config = EvaluationConfig.of({**task, **found})
    load_own(task["train"], task["dev"], text, label)
    return config


def judge_on_task(
    config: EvaluationConfig, auxiliary: Path, say: Callable[[str], None], stop: Callable[[], bool]
) -> dict[str, Any]:
    """Fine-tune the encoder, an untrained one and the auxiliary; returns the `task` of `summary.json`.

    Args:
        config: of `check_task`.
        auxiliary: the run of the auxiliary; its results are stored in the run.
        say: called with a sentence about each fine-tuning.
        stop: asked between updates.

    Raises:
        Interrupted: stopped on request; what is finished is kept.
    """

    def progress(done: float, total: float, doing: str) -> None:
        if stop():
            raise Interrupted(f"stopped while fine-tuning ({doing})")

    found, (result,) = evaluate_model(config, say, progress, command_given())
    say("the same with the auxiliary:")
    before = config.model_copy(
        update={"model": str(auxiliary), "out": auxiliary / FOLDER, "save": False, "skip_untrained": True}
    )
    of_auxiliary, (result_before,) = evaluate_model(before, say, progress, command_given())
    contests = compare_evaluations([found, of_auxiliary], ["the main model", "its auxiliary"], say)
    ours = (result.task, result.setup, result.split)
    contest = next(each for each in contests if (each.task, each.setup, each.split) == ours)
    tuned = config.folder / "models" / result.cells[str(result.seeds[0])].removesuffix(".json")
    summary = task_summary(result, result_before, contest.comparisons.get((0, 1)))
    return summary | {"model": str(tuned) if tuned.exists() else None}


def task_summary(result: Result, auxiliary: Result, against_auxiliary: Comparison | None) -> dict[str, Any]:
    """The figures of a task, and whether pre-training paid; scores are shares, differences points.

    Args:
        result: of the main model.
        auxiliary: the result of its auxiliary.
        against_auxiliary: the comparison of both; None if one of them has no predictions.
    """
    against = result.against or {}
    decided = bool(against.get("decided"))
    sides = {"encoder": result.of(), "untrained": result.of_untrained(), "auxiliary": auxiliary.of()}
    return {
        "name": result.task,
        "metric": result.metric,
        "n_train": result.n_train,
        "n_dev": result.n_dev[result.split],
        **{
            name: {"scores": scores, "mean": spread(scores).mean, "std": spread(scores).deviation}
            for name, scores in sides.items()
        },
        "baselines": {name: result.baseline(name) for name in BASELINES if name in result.baselines},
        "difference": {key: against.get(key) for key in ("difference", "low", "high")} | {"decided": decided},
        "paid": against["difference"] > 0 if decided else None,
        "sentences": [
            *_sentences(result, against, decided),
            *([_sentence_of(against_auxiliary)] if against_auxiliary else []),
        ],
    }


def _sentences(result: Result, against: Mapping[str, Any], decided: bool) -> list[str]:
    mean, untrained = spread(result.of()).mean, spread(result.of_untrained()).mean
    if mean is None or untrained is None or not against:
        return ["Whether pre-training paid is unknown, since a fine-tuning has no score: `evaluation/` says why."]
    low, high = _signed(against["low"]), _signed(against["high"])
    verdict = "It is not decided whether pre-training paid"
    if decided:
        verdict = "Pre-training paid" if against["difference"] > 0 else "Pre-training did not pay"
    found = [
        f"{verdict}: {result.metric} {100 * mean:.1f} in place of {100 * untrained:.1f} without it, "
        f"{_signed(against['difference'])} points [{low}, {high}], {len(result.of())} seeds."
    ]
    for name in LINEAR:
        if (score := result.baseline(name)) is not None:
            side = "above" if mean > score else "below" if mean < score else "level with"
            found.append(
                f"The encoder is {side} {BASELINES[name]} ({100 * score:.1f}), which learned from the same "
                f"{result.n_train:,} examples."
            )
    return found


def _sentence_of(comparison: Comparison) -> str:
    return f"{comparison.sentence[0].upper()}{comparison.sentence[1:]}."


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def own_task(train: Path | None, dev: Path | None, text: tuple[str, ...], label: str | None) -> dict[str, Any] | None:
    """The settings of the task that the options name, None without one.

    Raises:
        ConfigError: an option about a task, and none is given.
    """
    if train is not None:
        return {"train": train, "dev": dev, "text": text, "label": label}
    for option, value in {"--dev": dev, "--task-text": text, "--task-label": label}.items():
        if value:
            raise ConfigError(f"{option} is about a task of your own: give --task too.")
    return None
