"""Texts and labels of a task as tokens, and batches of them.

Notable:
- texts are tokenised once for all seeds;
- batches contain examples of similar length, are padded to the longest, and are a pure function of (seed, update);
- words are judged by their first token, and all their tokens are trained: the later tokens of a word get the label that
  continues its entity (I-…).

Shapes: B examples, S positions, W words.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fast_electra.data.tokenizer import fingerprint
from fast_electra.evaluation.entities import spans_of
from fast_electra.evaluation.scores import flatten
from fast_electra.evaluation.tasks import Kind, Split, Task

_WINDOW = 50
"""batches that are sorted by length together, as in Transformers' `group_by_length`"""

NO_LABEL = -100
_TOKENISED = 10_000
"""examples that are tokenised together"""
_KEPT = 32
"""tokenised tasks that are kept in memory"""


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
    """(N + 1,) where each example's words begin"""
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
    found = np.full(len(spans), NO_LABEL, dtype=np.int64)
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
    padded: bool
    """whether any example has padding, decided on the host"""

    @property
    def tokens(self) -> int:
        """Non-padding tokens, of a batch on the CPU."""
        return int(np.count_nonzero(self.attention_BS.numpy()))

    def split(self, size: int) -> list["LabelledBatch"]:
        """Micro-batches of `size` examples."""
        parts = [None if field is None else field.split(size) for field in self._fields()]
        count = len(self.ids_BS.split(size))
        return [self._of(None if part is None else part[i] for part in parts) for i in range(count)]

    def to(self, device: Any) -> "LabelledBatch":
        """A copy on a device."""
        return self._of(None if field is None else field.to(device, non_blocking=True) for field in self._fields())

    def pinned(self) -> "LabelledBatch":
        """A copy in page-locked memory."""
        return self._of(None if field is None else field.pin_memory() for field in self._fields())

    def inputs(self) -> dict[str, Tensor]:
        """Arguments of a Transformers model's forward pass; labels are never among them."""
        inputs = {"input_ids": self.ids_BS}
        if self.padded:
            inputs["attention_mask"] = self.attention_BS
        return inputs if self.types_BS is None else inputs | {"token_type_ids": self.types_BS}

    def _of(self, tensors: Iterable[Tensor | None]) -> "LabelledBatch":
        return LabelledBatch(*tensors, padded=self.padded)  # type: ignore[arg-type]

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
        labels = np.full_like(ids_BS, NO_LABEL)
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
        padded=int(encoded.lengths[chosen].min()) < width,
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
