"""Probing: what a frozen encoder's features say of a task to a linear model, in seconds.

Notable:
- features are the mean of the last hidden states over an example's tokens (two texts are encoded together), or the last
  hidden state at a word's first token; standardised, then scikit-learn's logistic or ridge regression;
- cheap enough for pre-training: at most 2,000 training and 2,000 dev examples, the same ones every time;
- `ProbeObserver` hangs on the training loop and disturbs nothing: no random number is drawn, no weight is written, and
  every module is put back into its mode. What it costs is recorded under `timing` and said, and decides nothing.

Shapes: B examples, S positions, W words, N examples or words in all, d width of the hidden states.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from fast_electra.data.files import canonical_digest
from fast_electra.evaluation.fine_tuning import Encoded, Padding, collate, encode_task, padding_for
from fast_electra.evaluation.scores import score_splits
from fast_electra.evaluation.tasks import Task, sample
from fast_electra.models.classifier import longest_text, uses_segments
from fast_electra.training.precision import Execution
from fast_electra.training.telemetry import QuietObserver, Record, read_metrics

TRAIN_EXAMPLES = 2_000
DEV_EXAMPLES = 2_000
_LONGEST = 128
_TOGETHER = 64
# Of standardised features: without a strong pull to zero a few thousand examples are learned by heart.
_LOGISTIC_STRENGTH = 0.003
_RIDGE_STRENGTH = 1_000.0


def probe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    *,
    train_examples: int = TRAIN_EXAMPLES,
    dev_examples: int = DEV_EXAMPLES,
) -> dict[str, dict[str, float]]:
    """Fit a linear model on a frozen encoder's features, and score it.

    Args:
        model: with any head or none (`models.classifier.load_encoder`); used as it is: weights, device, mode.
        tokenizer: the model's (`models.classifier.load_task_tokenizer`).
        task: its training examples are fitted, its dev splits scored.
        train_examples: at most so many, always the same ones.
        dev_examples: at most so many of each dev split, always the same ones.

    Returns:
        {dev split: {metric: value}}, as a cell's scores; the same input gives the same figures.
    """
    small = probed(task, train_examples, dev_examples)
    longest = longest_text(model.config, tokenizer, _LONGEST)
    encoded = encode_task(small, tokenizer, longest, uses_segments(model.config, tokenizer))
    padding = padding_for(tokenizer, longest, model.device)
    known = encoded.train.words >= 0 if task.kind == "tokens" else slice(None)
    train_Nd, labels_N = _features(model, encoded.train, padding)[known], encoded.train.labels[known]
    if task.kind == "regression":
        linear = Ridge(_RIDGE_STRENGTH)
    elif len(np.unique(labels_N)) == 1:  # a rare class need not be among the few examples
        linear = DummyClassifier()
    else:
        linear = LogisticRegression(C=_LOGISTIC_STRENGTH, max_iter=1_000)
    fitted = make_pipeline(StandardScaler(), linear).fit(train_Nd, labels_N)
    predictions: dict[str, list[Any]] = {}
    for name, split in encoded.dev.items():
        found = fitted.predict(_features(model, split, padding))
        if task.kind == "tokens":
            found = np.where(split.words >= 0, found, np.bincount(encoded.train.labels).argmax())
            predictions[name] = [words.tolist() for words in np.split(found, split.word_starts[1:-1])]
        else:
            predictions[name] = found.tolist()
    return score_splits(small, predictions)


def probed(task: Task, train_examples: int = TRAIN_EXAMPLES, dev_examples: int = DEV_EXAMPLES) -> Task:
    """The examples of a task that a probe sees."""
    return replace(
        task,
        train=sample(task.train, train_examples),
        dev={name: sample(split, dev_examples) for name, split in task.dev.items()},
        test={},
        digest=canonical_digest([task.digest, train_examples, dev_examples]),
    )


@torch.no_grad()  # not inference mode: a tensor that a module keeps from it could never be trained through
def _features(model: PreTrainedModel, encoded: Encoded, padding: Padding) -> NDArray[np.float32]:
    """Mean hidden states (N, d) of examples, or the hidden states of words' first tokens; in order."""
    encoder = cast(nn.Module, model.base_model)
    units = encoded.word_starts if len(encoded.words) else np.arange(len(encoded.lengths) + 1)
    features = np.zeros((int(units[-1]), model.config.hidden_size), dtype=np.float32)
    order = np.argsort(encoded.lengths, kind="stable")
    for start in range(0, len(order), _TOGETHER):
        chosen = order[start : start + _TOGETHER]
        batch = collate(encoded, chosen, padding).to(model.device)
        hidden_BSd = encoder(**batch.inputs()).last_hidden_state.float()
        if batch.words_BW is not None:
            index_BWd = batch.words_BW[:, :, None].expand(-1, -1, hidden_BSd.shape[2])
            found = hidden_BSd.gather(1, index_BWd).cpu().numpy()
        else:
            found = _mean(hidden_BSd, batch.attention_BS).cpu().numpy()
        for row, example in enumerate(chosen):
            first, last = units[example], units[example + 1]
            features[first:last] = found[row, : last - first] if len(encoded.words) else found[row]
    return features


def _mean(hidden_BSd: Tensor, attention_BS: Tensor) -> Tensor:
    """Mean over tokens (B, d), padding left out."""
    weights_BS1 = attention_BS[:, :, None].to(hidden_BSd.dtype)
    return (hidden_BSd * weights_BS1).sum(1) / weights_BS1.sum(1)


class ProbeObserver(QuietObserver):
    """Probes the model being trained every so many updates and after the last; appends to the run's `probes.jsonl`.

    A line holds `update`, `scores` ({task: {dev split: {metric: value}}}) and `timing`: the probe's seconds, and the
    share of the run's time, since it started or went on, that probes have taken.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        tasks: Sequence[Task],
        every: int,
        folder: Path,
        execution: Execution,
        say: Callable[[str], None] = lambda _: None,
        train_examples: int = TRAIN_EXAMPLES,
        dev_examples: int = DEV_EXAMPLES,
    ) -> None:
        """Hand it to `pretrain` or `train` as an observer; the model must be the very object that is trained.

        Args:
            model: `assembled.objective.models()["main"]`.
            tokenizer: `assembled.tokenizer`.
            tasks: what to probe.
            every: updates between probes.
            folder: the run's.
            execution: the run's, for its precision.
            say: is told at the end what the probes took.
            train_examples: as of `probe`; the fewer, the cheaper and the noisier.
            dev_examples: as of `probe`.
        """
        self._model, self._tokenizer, self._tasks = model, tokenizer, tasks
        self._every, self._path = every, folder / "probes.jsonl"
        self._execution, self._say = execution, say
        self._sizes = {"train_examples": train_examples, "dev_examples": dev_examples}
        self._began = time.perf_counter()
        self._updates, self._seconds = 0, 0.0

    def started(self, update: int, updates: int) -> None:
        """Keep the lines up to the update that the run goes on from, and cut the rest."""
        self._updates, self._began = updates, time.perf_counter()
        lines = [line for line in read_metrics(self._path) if line["update"] <= update] if self._path.exists() else []
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(partial, self._path)

    def updated(self, update: int) -> None:
        """Probe, if it is time."""
        if update % self._every and update != self._updates:
            return
        began = time.perf_counter()
        modes = {module: module.training for module in self._model.modules()}
        self._model.eval()
        try:
            with torch.random.fork_rng(), self._execution.autocast():
                scores = {task.name: probe(self._model, self._tokenizer, task, **self._sizes) for task in self._tasks}
        finally:
            for module, training in modes.items():
                module.training = training
        now = time.perf_counter()
        self._seconds += now - began
        timing = {"seconds": now - began, "share": self._seconds / (now - self._began)}
        record: Record = {"update": update, "scores": scores, "timing": timing}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def finished(self) -> None:
        """Say what it took."""
        share = self._seconds / max(time.perf_counter() - self._began, 1e-9)
        self._say(f"probes took {self._seconds:.0f} s, {100 * share:.1f} % of the run.")
