"""Probing: what a frozen encoder's features say of a task to a linear model, in seconds.

Notable:
- features are the mean of the last hidden states over an example's tokens (two texts are encoded together), or the last
  hidden state at a word's first token; standardised, then scikit-learn's logistic or ridge regression;
- the same of each layer says which one knows what; of pairs with numbers, the cosine of their mean hidden states needs
  no training at all;
- cheap enough for pre-training: at most 2,000 training and 2,000 dev examples, the same ones every time;
- `ProbeObserver` hangs on the training loop and disturbs nothing: no random number is drawn, no weight is written, and
  every module is put back into its mode. What it costs is recorded under `timing` and said, and decides nothing;
- `PairObserver` does the same with minimal pairs, and needs no linear model: the head that is trained judges them.

Shapes: B examples, S positions, W words, N examples or words in all, d width of the hidden states.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

from fast_electra.config.tree import Config
from fast_electra.data.files import canonical_digest
from fast_electra.evaluation.detector import masked_prediction, suspicion_of
from fast_electra.evaluation.fine_tuning import (
    Encoded,
    Padding,
    collate,
    encode,
    encode_task,
    padding_for,
    unseen_class,
)
from fast_electra.evaluation.minimal_pairs import (
    LONGEST,
    EncodedPairs,
    MinimalPairs,
    Scorer,
    by_detection,
    by_masking,
    encode_pairs,
    judge,
)
from fast_electra.evaluation.scores import score_splits
from fast_electra.evaluation.tasks import Split, Task, sample
from fast_electra.models.classifier import longest_text, uses_segments
from fast_electra.objectives.mlm import MLM
from fast_electra.runs.metrics import Record, cut_metrics
from fast_electra.training.assembly import Assembled
from fast_electra.training.precision import Execution
from fast_electra.training.telemetry import QuietObserver

Scores = dict[str, dict[str, float]]
"""{dev split: {metric: value}}"""
PROBED_UPDATES = 4
"""minimal pairs cost about as much as this number of updates: 0.4 % of a run with a probe every 1,000 updates"""
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
) -> Scores:
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
    return _probe(model, tokenizer, probed(task, train_examples, dev_examples), every_layer=False)[-1]


def probe_layers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, task: Task) -> list[Scores]:
    """`probe` of the embeddings and of each layer's output, the last one's behind a final norm, where there is one."""
    return _probe(model, tokenizer, probed(task), every_layer=True)


def _probe(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, task: Task, *, every_layer: bool
) -> list[Scores]:
    longest = longest_text(model.config, tokenizer, _LONGEST)
    encoded = encode_task(task, tokenizer, longest, uses_segments(model.config, tokenizer))
    padding = padding_for(tokenizer, longest, model.device)
    known = encoded.train.words >= 0 if task.kind == "tokens" else slice(None)
    labels_N = encoded.train.labels[known]
    dev = {name: _features(model, split, padding, every_layer) for name, split in encoded.dev.items()}
    found: list[Scores] = []
    for layer, train_Nd in enumerate(_features(model, encoded.train, padding, every_layer)):
        if task.kind == "regression":
            linear = Ridge(_RIDGE_STRENGTH)
        elif len(np.unique(labels_N)) == 1:  # a rare class need not be among the few examples
            linear = DummyClassifier()
        else:
            linear = LogisticRegression(C=_LOGISTIC_STRENGTH, max_iter=1_000)
        fitted = make_pipeline(StandardScaler(), linear).fit(train_Nd[known], labels_N)
        predictions: dict[str, list[Any]] = {}
        for name, split in encoded.dev.items():
            answers = fitted.predict(dev[name][layer])
            if task.kind == "tokens":
                answers = np.where(split.words >= 0, answers, unseen_class(task))
                predictions[name] = [words.tolist() for words in np.split(answers, split.word_starts[1:-1])]
            else:
                predictions[name] = answers.tolist()
        found.append(score_splits(task, predictions))
    return found


def similarity_layers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, task: Task) -> list[Scores]:
    """How the cosine of two texts' mean hidden states agrees with a pair's number, without any training.

    Each text is encoded on its own. Of the embeddings and of each layer, as `probe_layers`; [] for a task that is not
    of pairs with numbers.
    """
    task = probed(task)
    if task.kind != "regression" or len(task.train.texts[0]) != 2:
        return []
    longest = longest_text(model.config, tokenizer, _LONGEST)
    padding = padding_for(tokenizer, longest, model.device)
    by_layer: list[dict[str, list[float]]] = []
    for name, split in task.dev.items():
        sides = []
        for side in zip(*split.texts, strict=True):
            encoded = encode(Split([(text,) for text in side], []), "regression", tokenizer, longest)
            sides.append(_features(model, encoded, padding, every_layer=True))
        by_layer = by_layer or [{} for _ in sides[0]]
        for layer, (first_Nd, second_Nd) in enumerate(zip(*sides, strict=True)):
            norms_N = np.linalg.norm(first_Nd, axis=1) * np.linalg.norm(second_Nd, axis=1)
            by_layer[layer][name] = ((first_Nd * second_Nd).sum(1) / np.maximum(norms_N, 1e-12)).tolist()
    return [score_splits(task, cosines) for cosines in by_layer]


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
def _features(
    model: PreTrainedModel, encoded: Encoded, padding: Padding, every_layer: bool
) -> list[NDArray[np.float32]]:
    """Mean hidden states (N, d) of examples, or those of words' first tokens, in order; the last layer comes last."""
    encoder = cast(nn.Module, model.base_model)
    units = encoded.word_starts if len(encoded.words) else np.arange(len(encoded.lengths) + 1)
    layers: list[NDArray[np.float32]] = []
    order = np.argsort(encoded.lengths, kind="stable")
    for start in range(0, len(order), _TOGETHER):
        chosen = order[start : start + _TOGETHER]
        batch = collate(encoded, chosen, padding).to(model.device)
        outputs = encoder(**batch.inputs(), output_hidden_states=every_layer)
        states = (
            [*outputs.hidden_states[:-1], outputs.last_hidden_state] if every_layer else [outputs.last_hidden_state]
        )
        layers = layers or [np.zeros((int(units[-1]), state.shape[2]), dtype=np.float32) for state in states]
        for features, state_BSd in zip(layers, states, strict=True):
            hidden_BSd = state_BSd.float()
            if batch.words_BW is not None:
                index_BWd = batch.words_BW[:, :, None].expand(-1, -1, hidden_BSd.shape[2])
                found = hidden_BSd.gather(1, index_BWd).cpu().numpy()
            else:
                found = _mean(hidden_BSd, batch.attention_BS).cpu().numpy()
            for row, example in enumerate(chosen):
                first, last = units[example], units[example + 1]
                features[first:last] = found[row, : last - first] if len(encoded.words) else found[row]
    return layers


def _mean(hidden_BSd: Tensor, attention_BS: Tensor) -> Tensor:
    """Mean over tokens (B, d), padding left out."""
    weights_BS1 = attention_BS[:, :, None].to(hidden_BSd.dtype)
    return (hidden_BSd * weights_BS1).sum(1) / weights_BS1.sum(1)


class _Probing(QuietObserver):
    """Base of observers that probe: leaves the model as it was, and counts the time that this takes."""

    def __init__(self, model: nn.Module, execution: Execution, say: Callable[[str], None]) -> None:
        self._model, self._execution, self._say = model, execution, say
        self._began = time.perf_counter()
        self._updates, self._seconds = 0, 0.0

    def started(self, update: int, updates: int) -> None:
        """So many in all."""
        self._updates, self._began = updates, time.perf_counter()

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Evaluation mode, the run's precision, nothing compiled for the probe's shapes; then all is as before."""
        began = time.perf_counter()
        modes = {module: module.training for module in self._model.modules()}
        self._model.eval()
        try:
            with torch.random.fork_rng(), self._execution.autocast(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for module, training in modes.items():
                module.training = training
        self._seconds += time.perf_counter() - began

    def finished(self) -> None:
        """Say what it took."""
        share = self._seconds / max(time.perf_counter() - self._began, 1e-9)
        self._say(f"probes took {self._seconds:.0f} s, {100 * share:.1f} % of the run.")


class ProbeObserver(_Probing):
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
            say: gets a sentence at the end on what the probes took.
            train_examples: as of `probe`; the fewer, the cheaper and the noisier.
            dev_examples: as of `probe`.
        """
        super().__init__(model, execution, say)
        self._encoder, self._tokenizer, self._tasks = model, tokenizer, tasks
        self._every, self._path = every, folder / "probes.jsonl"
        self._sizes = {"train_examples": train_examples, "dev_examples": dev_examples}

    def started(self, update: int, updates: int) -> None:
        """Keep the lines up to the update that the run goes on from, and cut the rest."""
        super().started(update, updates)
        cut_metrics(self._path, update)

    def updated(self, update: int) -> None:
        """Probe, if it is time."""
        if update % self._every and update != self._updates:
            return
        before = self._seconds
        with self._undisturbed():
            scores = {task.name: probe(self._encoder, self._tokenizer, task, **self._sizes) for task in self._tasks}
        timing = {
            "seconds": self._seconds - before,
            "share": self._seconds / (time.perf_counter() - self._began),
        }
        record: Record = {"update": update, "scores": scores, "timing": timing}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class PairObserver(_Probing):
    """Judges minimal pairs at regular updates and after the last, with the head that is trained.

    The shares go into the run's own records (`metrics.jsonl`): `blimp` has `sum`, `mean`, `worst` and `pairs`. So it
    must come before the observers that write them.
    """

    def __init__(
        self,
        model: nn.Module,
        scorer: Scorer,
        pairs: EncodedPairs,
        every: int,
        log_every: int,
        execution: Execution,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Hand it to `pretrain` by `observe`; `pair_probe` makes one.

        Args:
            model: that is trained, the very object that `scorer` asks.
            scorer: `minimal_pairs.by_detection` or `by_masking` of it.
            pairs: that are judged, always the same ones.
            every: updates between probes; the next record there is from then on has the shares.
            log_every: updates between the run's records.
            execution: the run's, for its precision.
            say: gets a sentence at the end on what the probes took.
        """
        super().__init__(model, execution, say)
        self._scorer, self._encoded, self._every = scorer, pairs, -(-every // log_every) * log_every

    def logged(self, record: Record) -> None:
        """Add the shares, if it is time."""
        if record["update"] % self._every and record["update"] != self._updates:
            return
        before = self._seconds
        with self._undisturbed():
            wins = judge(self._encoded, self._scorer)
        record["blimp"] = {measure: float(won.mean()) for measure, won in wins.items()}
        record["blimp"]["pairs"] = len(self._encoded.places)
        record["timing"]["blimp_seconds"] = self._seconds - before


def pair_probe(
    parts: Assembled,
    pairs: MinimalPairs,
    every: int,
    config: Config,
    execution: Execution,
    say: Callable[[str], None] = lambda _: None,
) -> PairObserver:
    """The observer for a run's parts: by pseudo-log-likelihood for masked language modelling, else by the RTD head.

    Args:
        parts: of the run.
        pairs: of a file; a sample of them is judged, of all sets alike.
        every: updates between probes.
        config: the run's.
        execution: the run's.
        say: gets sentences on how many pairs are judged and, at the end, what the probes took.
    """
    model = cast(PreTrainedModel, parts.objective.models()["main"])
    tokenizer = cast(PreTrainedTokenizerFast, parts.tokenizer)
    pad_id = parts.shards.special_tokens["pad"]
    longest = longest_text(model.config, tokenizer, LONGEST)
    one_each = encode_pairs(pairs, pairs.sample(1), tokenizer, longest)
    lengths = [len(sequence) for sequence in (*one_each.good, *one_each.bad)]
    if not config.objective.detects:
        objective = cast(MLM, parts.objective)
        scorer = by_masking(masked_prediction(objective.model), objective.mask_id, pad_id)
        tokens = sum(length * (length - 2) for length in lengths)
    else:
        scorer, tokens = by_detection(suspicion_of(model), pad_id), sum(lengths)
    # An update passes each token forward, and backward at twice the cost.
    budget = PROBED_UPDATES * 3 * config.training.batch_size * config.data.length
    chosen = pairs.sample(max(1, budget // tokens))
    say(f"blimp: {len(chosen):,} pairs of {pairs.path.name} are judged every {every:,} updates.")
    encoded = encode_pairs(pairs, chosen, tokenizer, longest)
    return PairObserver(model, scorer, encoded, every, config.training.log_every, execution, say)
