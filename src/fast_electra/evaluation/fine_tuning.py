"""Fine-tuning an encoder on a task, by the training loop of pre-training, and scoring it.

Notable:
- one cell is one model, task, recipe and seed; its record holds everything that is needed to repeat it;
- weights, masters and attention are those of pre-training;
- only the rows of the token table that the task reads are trained (models/classifier.py);
- dropout is computed by models/dropout.py;
- nothing is selected on the dev set: the last weights are scored, once;
- words are judged by their first token, and all their tokens are trained: the later tokens of a word get the label that
  continues its entity (I-…). So a saved model finds whole entities in `pipeline`, which sees only tokens;
- the record says if a run diverged, or gave every example the same class;
- values are learned in units of the training labels' deviation from their mean, so one learning rate fits every scale.

Shapes: B examples, S positions, W words, C outputs.
"""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import fast_electra
from fast_electra.data.files import staged_folder
from fast_electra.data.seals import seal_model
from fast_electra.evaluation.encoding import (
    NO_LABEL,
    EncodedSplit,
    LabelledBatch,
    LengthBuckets,
    Padding,
    collate,
    encode_task,
    padding_for,
)
from fast_electra.evaluation.recipes import Recipe
from fast_electra.evaluation.scores import flatten, score_splits
from fast_electra.evaluation.tasks import OUTSIDE, Kind, Split, Task, sample
from fast_electra.evaluation.token_scores import batches_by_length
from fast_electra.models.classifier import (
    cut_table,
    load_classifier,
    load_task_tokenizer,
    longest_text,
    output_layer,
    rate_factors,
    save_classifier,
    use_padding,
    uses_segments,
)
from fast_electra.models.dropout import FastDropout
from fast_electra.models.layers import cast_weights
from fast_electra.objectives.base import ParameterGroup, Terms, Trainable
from fast_electra.training.loop import Diverged, Plan, train
from fast_electra.training.optimizer import GroupOptimizer
from fast_electra.training.parallel import Alone
from fast_electra.training.precision import Execution, apply_threads
from fast_electra.training.state import State
from fast_electra.training.telemetry import Observer

_PREDICTED = 64
"""examples that are predicted together"""


@dataclass
class FineTuning(Trainable[LabelledBatch]):
    """Cross-entropy of classes (of examples or of tokens), or squared error of values: what the loop trains."""

    model: PreTrainedModel
    kind: Kind
    mean: float = 0.0
    """of the training values"""
    deviation: float = 1.0
    weights: Mapping[str, float] = field(default_factory=lambda: {"task": 1.0})

    def outputs(self, batch: LabelledBatch) -> Tensor:
        """Logits or standardised values in float32: (B, C), or (B, S, C) of tokens."""
        with FastDropout():
            return self.model(**batch.inputs()).logits.float()

    def counts(self, prepared: LabelledBatch) -> dict[str, Tensor]:
        """Labels of a batch."""
        labels = prepared.labels
        known = torch.ones_like(labels) if self.kind == "regression" else labels != NO_LABEL  # a value may be -100
        return {"task": known.sum().clamp(min=1)}

    def terms(self, prepared: LabelledBatch, progress: float, seed: int) -> Terms:
        """The loss, summed over labels."""
        outputs, labels = self.outputs(prepared), prepared.labels
        if self.kind == "regression":
            loss = (outputs[:, 0] - (labels - self.mean) / self.deviation).square().sum()
        else:
            loss = nn.functional.cross_entropy(
                outputs.flatten(0, -2), labels.flatten(), ignore_index=NO_LABEL, reduction="sum"
            )
        return Terms({"task": (loss, self.counts(prepared)["task"])})

    @torch.inference_mode()
    def predict(self, encoded: EncodedSplit, padding: Padding, execution: Execution) -> NDArray[np.float32]:
        """Outputs of all examples (N, C), or of all words (total, C), in order; in evaluation mode, by length."""
        self.model.eval()
        units = encoded.word_starts if len(encoded.words) else np.arange(len(encoded.lengths) + 1)
        outputs = np.zeros((int(units[-1]), cast(int, self.model.config.num_labels)), dtype=np.float32)
        for chosen in batches_by_length(encoded.lengths, _PREDICTED):
            batch = collate(encoded, chosen, padding).to(execution.device)
            with execution.autocast():
                found = self.outputs(batch)
            if batch.words_BW is not None:
                found = found.gather(1, batch.words_BW[:, :, None].expand(-1, -1, found.shape[2]))
            found = found.cpu().numpy()
            for row, example in enumerate(chosen):
                first, last = units[example], units[example + 1]
                outputs[first:last] = found[row, : last - first] if len(encoded.words) else found[row]
        return outputs


@dataclass(frozen=True)
class FineTuned:
    """One model fine-tuned on one task by one recipe from one seed."""

    task: str
    digest: str
    """the task's"""
    model: str
    untrained: bool
    """the encoder's weights were drawn, not loaded"""
    start: str | None
    """the fine-tuned folder whose encoder it started from, in place of the model's"""
    recipe: Recipe
    seed: int
    scores: dict[str, dict[str, float]]
    """{dev split: {metric: value}}; empty where it failed"""
    predictions: dict[str, list[Any]]
    """{dev split: class numbers or values, one an example, or a list of one a word}"""
    test_predictions: dict[str, list[Any]]
    n_train: int
    """examples of an epoch, swapped ones included"""
    n_dev: int
    """of all dev splits"""
    updates: int
    truncated: dict[str, int]
    """examples longer than the model takes: of train, dev and test"""
    cut_entities: dict[str, int]
    """{dev split: entities beyond the end of what the model takes}"""
    failed: str | None
    """why there are no scores"""
    degenerate: list[str]
    """dev splits where all predictions are the same although the labels aren't: the run taught nothing"""
    execution: dict[str, Any]
    timing: dict[str, float]
    """seconds of everything, and examples per second of the training alone"""
    versions: dict[str, str]

    def record(self) -> dict[str, Any]:
        """All of it as JSON."""
        return asdict(self) | {"recipe": self.recipe.values()}


def fine_tune(
    source: str | Path,
    task: Task,
    recipe: Recipe,
    seed: int,
    execution: Execution,
    *,
    untrained: bool = False,
    start: str | Path | None = None,
    save: Path | None = None,
    observers: Sequence[Observer] = (),
) -> FineTuned:
    """Fine-tune an encoder on a task's training examples and score its dev splits.

    Args:
        source: a folder or a hub name.
        task: what to learn.
        recipe: how.
        seed: of the head, the order and the dropout; equal seeds give equal predictions on the same machine.
        execution: device, precision, threads.
        untrained: draw the encoder's weights as well, for the baseline.
        start: a folder that `save` wrote: its encoder is taken in place of the source's (intermediate task).
        save: a new folder for the fine-tuned model and its tokenizer.
        observers: called at each update.

    Returns:
        scores and predictions; a run that diverged has none, and says so.

    Raises:
        ModelError, DataError: the model or its tokenizer can't be used.
    """
    began = time.perf_counter()
    apply_threads(execution)
    tokenizer = load_task_tokenizer(start or source)
    unit = "token" if task.kind == "tokens" else "sequence"
    model = load_classifier(start or source, unit, task.labels, seed, recipe.dropout, untrained)
    longest = longest_text(model.config, tokenizer, recipe.length)
    segments = uses_segments(model.config, tokenizer)
    encoded = encode_task(training_task(task, recipe), tokenizer, longest, segments)
    padding = padding_for(tokenizer, longest, execution.device)
    use_padding(model.config, padding.token)
    cut_table(model, torch.unique(torch.cat((encoded.tokens, torch.tensor([padding.token])))))
    model.to(execution.device)  # type: ignore[arg-type]
    objective = FineTuning(model, task.kind, *_scale(encoded.train, task.kind))
    factors = rate_factors(model, recipe.layerwise_decay)
    optimizer = GroupOptimizer(ParameterGroup.of("main", model, recipe.optimizer(), rate_factors=factors))
    cast_weights(model, execution.weights_dtype)
    batches = LengthBuckets(encoded.train, recipe.batch_size, seed, padding)
    updates = recipe.epochs_of(task.name, batches.per_epoch) * batches.per_epoch
    plan = Plan(
        updates=updates,
        seed=seed,
        micro_batch_size=recipe.batch_size,
        log_every=max(1, updates // 20),
        validate_every=updates,
        checkpoint_every=updates + 1,
    )
    state = State(objective, [optimizer], Alone(objective))
    failed, predictions, tests = None, {}, {}
    training = time.perf_counter()
    try:
        train(state, plan, batches.at, lambda: {}, lambda _: None, execution, observers)
        bad = state.skipped  # one update that is not finite is a failure, also if later ones are
    except Diverged as error:
        bad = [*state.skipped, *error.updates]
    if bad:
        failed = f"diverged: loss or gradient was not finite at update {bad[0]} of {updates}"
    trained = time.perf_counter() - training
    if failed is None:
        unseen = unseen_class(task) if task.kind == "tokens" else 0
        outputs = [
            {name: objective.predict(split, padding, execution) for name, split in splits.items()}
            for splits in (encoded.dev, encoded.test)
        ]
        if all(np.isfinite(found).all() for by_split in outputs for found in by_split.values()):
            predictions, tests = (
                {name: _labelled(objective, found, splits[name], unseen) for name, found in by_split.items()}
                for by_split, splits in zip(outputs, (encoded.dev, encoded.test), strict=True)
            )
        else:
            failed = "diverged: predictions are not finite"
    if save is not None and failed is None:
        _save(objective, optimizer, tokenizer, save)
    return FineTuned(
        task=task.name,
        digest=task.digest,
        model=str(source),
        untrained=untrained,
        start=None if start is None else str(start),
        recipe=recipe,
        seed=seed,
        scores=score_splits(task, predictions),
        predictions=predictions,
        test_predictions=tests,
        n_train=len(encoded.train.lengths),
        n_dev=sum(map(len, task.dev.values())),
        updates=updates,
        truncated={
            "train": encoded.train.truncated // copies_of(task, recipe),
            "dev": sum(split.truncated for split in encoded.dev.values()),
            "test": sum(split.truncated for split in encoded.test.values()),
        },
        cut_entities={name: split.cut_entities for name, split in encoded.dev.items()},
        failed=failed,
        degenerate=[name for name, found in predictions.items() if _is_degenerate(found, task.dev[name])],
        execution={**execution.record(), "cpu": torch.backends.cpu.get_cpu_capability()},
        timing={
            "seconds": time.perf_counter() - began,
            "examples_per_second": state.update * len(encoded.train.lengths) / batches.per_epoch / trained,
        },
        versions={
            "fast_electra": fast_electra.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    )


def copies_of(task: Task, recipe: Recipe) -> int:
    """How often a training example is there: 2 where it is doubled with swapped sentences."""
    return 2 if recipe.swapped and task.augment_swapped else 1


def training_task(task: Task, recipe: Recipe) -> Task:
    """The task with the training examples that a recipe uses: not too many, and doubled with swapped sentences."""
    split = sample(task.train, recipe.train_examples)
    if copies_of(task, recipe) == 2:
        swapped = [tuple(reversed(texts)) for texts in split.texts]
        split = Split(split.texts + swapped, [*split.labels, *split.labels])  # type: ignore[arg-type]
    if split is task.train:
        return task
    return replace(task, train=split, digest=f"{task.digest}, {recipe.train_examples} examples, {recipe.swapped}")


def unseen_class(task: Task) -> int:
    """What a word without a token is called, as one beyond the end of what the model takes: "O", or the commonest."""
    return 0 if task.labels[0] == OUTSIDE else int(np.bincount(flatten(task.train.labels)).argmax())


def _scale(encoded: EncodedSplit, kind: Kind) -> tuple[float, float]:
    """Mean and deviation of the training values; (0, 1) for classes and for values that are all the same."""
    if kind != "regression":
        return 0.0, 1.0
    return float(encoded.labels.mean()), float(encoded.labels.std()) or 1.0


def _labelled(objective: FineTuning, outputs: NDArray[np.float32], encoded: EncodedSplit, unseen: int) -> list[Any]:
    """Predictions from outputs; a word without a token has the class `unseen`."""
    if objective.kind == "regression":
        return (outputs[:, 0].astype(np.float64) * objective.deviation + objective.mean).tolist()
    classes = outputs.argmax(1)
    if objective.kind == "classification":
        return classes.tolist()
    classes = np.where(encoded.words >= 0, classes, unseen)
    return [found.tolist() for found in np.split(classes, encoded.word_starts[1:-1])]


def _is_degenerate(predictions: list[Any], split: Split) -> bool:
    return len(np.unique(flatten(predictions))) == 1 < len(np.unique(flatten(split.labels)))


def _save(objective: FineTuning, optimizer: GroupOptimizer, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the masters' weights; the output layer of values gives them in the labels' own unit."""
    model = objective.model
    cast_weights(model, torch.float32)
    optimizer.write_back()
    if objective.kind == "regression":
        layer = output_layer(model)
        with torch.no_grad():
            layer.weight.mul_(objective.deviation)
            layer.bias.mul_(objective.deviation).add_(objective.mean)
    # The folder may be there: of a command that was killed before it wrote its cell, or that computes the same one.
    with staged_folder(folder, replace=True) as staged:
        save_classifier(model, tokenizer, staged)
        seal_model(staged)
