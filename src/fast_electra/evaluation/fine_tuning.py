"""Fine-tuning an encoder on a task, by the training loop of pre-training, and scoring it.

Notable:
- one cell is one model, task, recipe and seed; its record holds everything that is needed to repeat it;
- texts are tokenised once for all seeds; batches hold like lengths, padded to the longest, and are a pure function of
  (seed, update); bfloat16 weights with float32 masters and plain matmul attention, as in pre-training; of the token
  table only the rows that the task reads are trained (models/classifier.py); dropout is ours (models/dropout.py);
- nothing is selected on the dev set: the last weights are scored, once;
- words are judged by their first token, and all their tokens are trained, so that a saved model finds whole entities in
  `pipeline`, which sees tokens alone: behind a word's first token the others continue its entity;
- a run that diverges, or that calls everything one class, is recorded as such;
- values are learned in units of the training labels' deviation from their mean, so one learning rate fits every scale.

Shapes: B examples, S positions, W words, C outputs.
"""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
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
from fast_electra.data.tokenizer import fingerprint
from fast_electra.errors import TrainingError
from fast_electra.evaluation.entities import spans_of
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
from fast_electra.training.loop import Plan, State, train
from fast_electra.training.optimizer import GroupOptimizer
from fast_electra.training.precision import Execution, apply_threads
from fast_electra.training.telemetry import Observer

_WINDOW = 50
"""batches that are sorted by length together, as in Transformers' `group_by_length`"""
_PREDICTED = 64
"""examples that are predicted together"""
_NO_LABEL = -100
_TOKENISED = 10_000
_KEPT = 32
"""tokenised tasks that are kept in memory"""


# --- Tokens -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedSplit:
    """A split as token ids, its examples end to end."""

    ids: NDArray[np.int32]
    types: NDArray[np.int32]
    """segment of each token; empty where there are none"""
    starts: NDArray[np.int64]
    """(N + 1,): example i is ids[starts[i] : starts[i + 1]]"""
    words: NDArray[np.int32]
    """place of each word's first token in its example, -1 where it has none; empty unless words have the labels"""
    word_starts: NDArray[np.int64]
    """(N + 1,), likewise for the words"""
    labels: NDArray[Any]
    """(N,) of examples, or one a word; empty for a split without labels"""
    token_labels: NDArray[np.int64]
    """label of each token, -100 for those that belong to no word; empty unless words have the labels"""
    truncated: int
    """examples that were longer than the model takes"""
    cut_entities: int
    """entities whose last word is beyond the end of an example that was cut"""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class EncodedTask:
    """All splits of a task for one tokenizer and length."""

    train: EncodedSplit
    dev: Mapping[str, EncodedSplit]
    test: Mapping[str, EncodedSplit]

    @cached_property
    def tokens(self) -> Tensor:
        """Every id that occurs (R,) int64, sorted."""
        found = [np.unique(split.ids) for split in (self.train, *self.dev.values(), *self.test.values())]
        return torch.from_numpy(np.unique(np.concatenate(found)).astype(np.int64))


_encoded: dict[tuple[Any, ...], EncodedTask] = {}


def encode_task(task: Task, tokenizer: PreTrainedTokenizerFast, longest: int, segments: bool) -> EncodedTask:
    """Tokenise a task; the last few are kept, so that the next seed finds its tokens ready.

    Args:
        task: its digest must tell its examples.
        tokenizer: of the model.
        longest: tokens of an example, special ones included; longer ones are cut, of a pair the longer text first.
        segments: mark the second text of a pair (`models.classifier.uses_segments`).
    """
    key = (task.digest, fingerprint(tokenizer), longest, segments)
    if key not in _encoded:
        if len(_encoded) >= _KEPT:
            del _encoded[next(iter(_encoded))]
        _encoded[key] = EncodedTask(
            encode(task.train, task.kind, tokenizer, longest, segments, task.has_entities),
            *(
                {name: encode(s, task.kind, tokenizer, longest, segments, task.has_entities) for name, s in of.items()}
                for of in (task.dev, task.test)
            ),
        )
    return _encoded[key]


def encode(
    split: Split,
    kind: Kind,
    tokenizer: PreTrainedTokenizerFast,
    longest: int,
    segments: bool = False,
    entities: bool = False,
) -> EncodedSplit:
    """Tokenise one split; arguments as of `encode_task`, and whether classes are tags of entities."""
    if kind == "tokens":
        # Joined by spaces and found again by their characters: a byte-level tokenizer gives a word other pieces where
        # no space is before it, and has never seen text without spaces.
        columns = [[" ".join(words) for words in split.texts]]
    else:
        columns = [list(column) for column in zip(*split.texts, strict=True)]
    options: dict[str, Any] = {
        "return_attention_mask": False,
        "return_token_type_ids": segments,
        "return_offsets_mapping": kind == "tokens",
        "verbose": False,
    }
    ids: list[NDArray[np.int32]] = []
    types: list[NDArray[np.int32]] = []
    words: list[NDArray[np.int32]] = []
    token_labels: list[NDArray[np.int64]] = []
    truncated = cut_entities = 0
    for start in range(0, len(split.texts), _TOKENISED):
        part = [column[start : start + _TOKENISED] for column in columns]
        second = part[1] if len(part) > 1 else None
        found = {key: list(values) for key, values in tokenizer(part[0], second, **options).items()}
        too_long = {row: None for row, tokens in enumerate(found["input_ids"]) if len(tokens) > longest}
        if too_long:
            first, second = ([column[row] for row in too_long] if column else None for column in (part[0], second))
            cut = tokenizer(first, second, truncation="longest_first", max_length=longest, **options)
            for key, values in found.items():
                for row, value in zip(too_long, cut[key], strict=True):
                    values[row] = value
        truncated += len(too_long)
        ids += [np.array(tokens, dtype=np.int32) for tokens in found["input_ids"]]
        if segments:
            types += [np.array(numbers, dtype=np.int32) for numbers in found["token_type_ids"]]
        if kind == "tokens":
            sentences = split.texts[start : start + _TOKENISED]
            words += [_first_tokens(*pair) for pair in zip(sentences, found["offset_mapping"], strict=True)]
            if split.labels:
                for row, offsets in enumerate(found["offset_mapping"]):
                    place = start + row
                    labels = np.asarray(split.labels[place])
                    token_labels.append(_token_labels(words[place], labels, offsets, entities))
                    if entities and row in too_long:
                        seen = int(np.flatnonzero(words[place] >= 0).max(initial=-1))
                        cut_entities += sum(span.last > seen for span in spans_of(labels.tolist()))
    numbers = np.float32 if kind == "regression" else np.int64
    return EncodedSplit(
        ids=_joined(ids),
        types=_joined(types),
        starts=_starts(ids),
        words=_joined(words),
        word_starts=_starts(words),
        labels=flatten(split.labels).astype(numbers) if split.labels else np.zeros(0, numbers),
        token_labels=np.concatenate(token_labels) if token_labels else np.zeros(0, np.int64),
        truncated=truncated,
        cut_entities=cut_entities,
    )


def _first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """The place of the first token of each word in the words' text joined by spaces; -1 where it has none."""
    spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    places = np.flatnonzero(spans[:, 1] > spans[:, 0])  # special tokens have no characters
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    ends = np.cumsum(lengths + 1) - 1
    begins = ends - lengths
    first = np.searchsorted(spans[places, 1], begins, side="right")
    inside = first < len(places)
    token = places[np.minimum(first, len(places) - 1)] if len(places) else np.zeros(len(words), dtype=np.int64)
    inside &= (spans[token, 0] < ends) & (lengths > 0)
    return np.where(inside, token, -1).astype(np.int32)


def _token_labels(
    words: NDArray[np.int32], labels: NDArray[np.int64], offsets: Sequence[tuple[int, int]], entities: bool
) -> NDArray[np.int64]:
    """The label of each token: its word's, which behind a word's first token continues an entity.

    Tokens that are in no word, special ones among them, have none. Of words that share a token the first one counts.
    """
    spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    found = np.full(len(spans), _NO_LABEL, dtype=np.int64)
    known = np.flatnonzero(words >= 0)
    firsts, places = np.unique(words[known], return_index=True)
    if not len(firsts):
        return found
    of_first = labels[known[places]]
    owner = np.searchsorted(firsts, np.arange(len(spans)), side="right") - 1
    inside = (owner >= 0) & (spans[:, 1] > spans[:, 0])
    found[inside] = of_first[owner[inside]]
    if entities:
        found[inside & (found % 2 == 1)] += 1
        found[firsts] = of_first
    return found


def _joined(parts: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def _starts(parts: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])


# --- Batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Padding:
    """How batches are padded."""

    token: int
    longest: int
    multiple: int
    """8 for a GPU's kernels; 1 for a CPU, where multiples of 8 cost 30 % more on sentences of 12 tokens"""


def padding_for(tokenizer: PreTrainedTokenizerFast, longest: int, device: torch.device) -> Padding:
    """The padding that suits a tokenizer, a model's longest example and a device."""
    return Padding(cast(int, tokenizer.pad_token_id), longest, multiple=8 if device.type == "cuda" else 1)


@dataclass(frozen=True)
class LabelledBatch:
    """Examples as tensors."""

    ids_BS: Tensor
    """int64, padded"""
    attention_BS: Tensor
    """int64: 1 for tokens, 0 for padding"""
    types_BS: Tensor | None
    words_BW: Tensor | None
    """int64: place of each word's first token, 0 where there is none"""
    labels: Tensor
    """(B,) int64 or float32; (B, S) int64 of tokens where words have the labels, -100 where there is none"""

    @property
    def tokens(self) -> int:
        """Non-padding tokens."""
        return int(self.attention_BS.sum())

    def split(self, size: int) -> list["LabelledBatch"]:
        """Micro-batches of `size` examples."""
        parts = [None if field is None else field.split(size) for field in self._fields()]
        count = len(self.ids_BS.split(size))
        return [LabelledBatch(*(None if part is None else part[i] for part in parts)) for i in range(count)]  # type: ignore[arg-type]

    def to(self, device: Any) -> "LabelledBatch":
        """A copy on a device."""
        moved = (None if field is None else field.to(device, non_blocking=True) for field in self._fields())
        return LabelledBatch(*moved)  # type: ignore[arg-type]

    def inputs(self) -> dict[str, Tensor]:
        """Arguments of a Transformers model's forward pass; labels are never among them."""
        inputs = {"input_ids": self.ids_BS, "attention_mask": self.attention_BS}
        return inputs if self.types_BS is None else inputs | {"token_type_ids": self.types_BS}

    def _fields(self) -> tuple[Tensor | None, ...]:
        return self.ids_BS, self.attention_BS, self.types_BS, self.words_BW, self.labels


def collate(encoded: EncodedSplit, chosen: NDArray[np.int64], padding: Padding) -> LabelledBatch:
    """Some examples of a split, padded to the longest of them, rounded up, and never beyond what the model takes."""
    width = min(padding.longest, -(-int(encoded.lengths[chosen].max()) // padding.multiple) * padding.multiple)
    ids_BS = np.full((len(chosen), width), padding.token, dtype=np.int64)
    attention_BS = np.zeros_like(ids_BS)
    types_BS = np.zeros_like(ids_BS)
    spans = np.stack((encoded.starts[chosen], encoded.starts[chosen + 1]), 1).tolist()
    for row, (start, stop) in enumerate(spans):
        ids_BS[row, : stop - start] = encoded.ids[start:stop]
        attention_BS[row, : stop - start] = 1
        if len(encoded.types):
            types_BS[row, : stop - start] = encoded.types[start:stop]
    words_BW = None
    if len(encoded.words):
        words = [slice(*encoded.word_starts[example : example + 2]) for example in chosen]
        most = max(1, *(part.stop - part.start for part in words))
        words_BW = np.zeros((len(chosen), most), dtype=np.int64)
        labels = np.full_like(ids_BS, _NO_LABEL)
        for row, (part, (start, stop)) in enumerate(zip(words, spans, strict=True)):
            place = encoded.words[part]
            words_BW[row, : len(place)] = np.maximum(place, 0)
            if len(encoded.token_labels):
                labels[row, : stop - start] = encoded.token_labels[start:stop]
    else:
        labels = encoded.labels[chosen] if len(encoded.labels) else np.zeros(len(chosen), encoded.labels.dtype)
    return LabelledBatch(
        torch.from_numpy(ids_BS),
        torch.from_numpy(attention_BS),
        torch.from_numpy(types_BS) if len(encoded.types) else None,
        None if words_BW is None else torch.from_numpy(words_BW),
        torch.from_numpy(labels),
    )


class LengthBuckets:
    """The batch of an update as a pure function of (seed, update): like lengths together, every example once an epoch.

    In every window of 50 batches of a shuffled epoch examples are sorted by length; then the batches are shuffled.
    """

    def __init__(self, encoded: EncodedSplit, size: int, seed: int, padding: Padding) -> None:
        """Batches of `size` examples; the last of an epoch may be smaller."""
        self.encoded, self.size, self.seed, self.padding = encoded, size, seed, padding
        self.per_epoch = -(-len(encoded.lengths) // size)
        self._epoch, self._batches = -1, list[NDArray[np.int64]]()

    def at(self, update: int) -> LabelledBatch:
        """The batch of an update, from 0."""
        epoch, number = divmod(update, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self.epoch(epoch)
        return collate(self.encoded, self._batches[number], self.padding)

    def epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """The examples of each batch of an epoch."""
        random = np.random.Generator(np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64)))
        order = random.permutation(len(self.encoded.lengths))
        order, left_over = np.split(order, [len(order) // self.size * self.size])  # before sorting: of any length
        batches: list[NDArray[np.int64]] = [left_over] if len(left_over) else []
        for start in range(0, len(order), self.size * _WINDOW):
            window = order[start : start + self.size * _WINDOW]
            window = window[np.argsort(self.encoded.lengths[window], kind="stable")]
            batches += [window[first : first + self.size] for first in range(0, len(window), self.size)]
        return [batches[number] for number in random.permutation(len(batches))]


# --- Training ---------------------------------------------------------------------------------------------------------


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
        known = torch.ones_like(labels) if self.kind == "regression" else labels != _NO_LABEL  # a value may be -100
        return {"task": known.sum().clamp(min=1)}

    def terms(self, prepared: LabelledBatch, progress: float, seed: int) -> Terms:
        """The loss, summed over labels."""
        outputs, labels = self.outputs(prepared), prepared.labels
        if self.kind == "regression":
            loss = (outputs[:, 0] - (labels - self.mean) / self.deviation).square().sum()
        else:
            loss = nn.functional.cross_entropy(
                outputs.flatten(0, -2), labels.flatten(), ignore_index=_NO_LABEL, reduction="sum"
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


# --- A cell -----------------------------------------------------------------------------------------------------------


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
    state = State(objective, [optimizer])
    failed, predictions, tests = None, {}, {}
    training = time.perf_counter()
    try:
        train(state, plan, batches.at, lambda: {}, lambda _: None, execution, observers)
    except TrainingError:
        failed = f"diverged: loss or gradient was not finite at update {state.update + 1} of {updates}"
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
    with staged_folder(folder) as staged:
        save_classifier(model, tokenizer, staged)
