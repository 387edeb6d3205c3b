"""Rows from a token stream, and the batch of an update as a pure function of (seed, update).

Notable:
- row i holds the i-th section of the stream, so no token is lost, and no state is needed;
- each epoch visits every row once. A keyed permutation gives the order entry by entry, so the order of a billion rows
  takes no memory, and any update can be computed first. Few rows are sorted by keyed numbers instead, since the
  permutation does not reach all orders of a few rows equally often;
- a mixture draws the source of each place in the order, so that every 1,000 rows hold its shares; each source has
  epochs of its own (order.py);
- a batch contains the epoch and index of each row, from which its masks and noise are drawn.

Shapes: B sequences, S positions.
"""

import contextlib
import queue
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, repeat
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from fast_electra.data.order import Mixture, permute
from fast_electra.data.shards import TokenStream, row_count
from fast_electra.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, with their documents, positions and places in the run."""

    ids: Tensor
    """(B, S) int64: [CLS] documents joined by [SEP] … [SEP] [PAD] …"""
    documents: Tensor
    """(B, S) int64: number of the document in the row, from 0; a separator belongs to the one it ends; padding: -1"""
    positions: Tensor
    """(B, S) int64: position ids, from 0 in each document with `attention: document`, otherwise in each row"""
    eligible: Tensor
    """(B, S) bool: True for tokens that may be masked, neither special nor padding"""
    padding: Tensor
    """(B, S) bool: True for padding"""
    epochs: Tensor
    """(B,) int64: epoch of the row"""
    indices: Tensor
    """(B,) int64: number of the row in its split"""
    samples: Tensor
    """(B,) int64, always on the CPU: place in the run's order over all epochs, or -1 - index for a row outside it"""
    padded: bool = True
    """whether any row has padding, decided on the host; also True if nobody looked, as on a GPU, which would be waited
    for"""
    phase: int = 0
    """number of the run's phase that the rows belong to, from 0"""
    documents_in_rows: Tensor | None = None
    """(B,) int64, always on the CPU: stretches of tokens of one document, or of padding, in each row; None if nobody
    counted"""

    @classmethod
    def of(cls, ids: Tensor, padding: Tensor, eligible: Tensor | None = None, indices: Tensor | None = None) -> "Batch":
        """A batch of sequences that do not come from shards; each row is one document of epoch 0.

        Args:
            ids: (B, S) int64.
            padding: (B, S) bool, True for padding.
            eligible: (B, S) bool, True for tokens that may be masked; None: no token, since ids do not say which are
                special.
            indices: (B,) int64, from which masks and noise are drawn, different for each row; None: 0, 1, …
        """
        rows, length = ids.shape
        numbers = torch.arange(rows, device=ids.device)
        return cls(
            ids=ids,
            documents=torch.zeros_like(ids).masked_fill(padding, -1),
            positions=torch.arange(length, device=ids.device).expand_as(ids),
            eligible=torch.zeros_like(padding) if eligible is None else eligible,
            padding=padding,
            epochs=torch.zeros_like(numbers),
            indices=numbers if indices is None else indices,
            samples=~torch.arange(rows),
            padded=_has_padding(padding),
            documents_in_rows=_documents_in_rows(padding),
        )

    @property
    def tokens(self) -> int:
        """Number of tokens without padding, of a batch on the CPU."""
        return self.padding.numel() - int(np.count_nonzero(self.padding.numpy()))

    def split(self, size: int) -> list["Batch"]:
        """Micro-batches of `size` rows; the last may have fewer."""
        parts = zip(*(tensor.split(size) for tensor in self.tensors()), strict=True)
        samples, counts = self.samples.split(size), self.documents_in_rows
        counted = repeat(None, len(samples)) if counts is None else counts.split(size)
        return [
            Batch(
                *part,
                samples=places,
                padded=self.padded and _has_padding(part[4]),
                phase=self.phase,
                documents_in_rows=count,
            )
            for part, places, count in zip(parts, samples, counted, strict=True)
        ]

    def to(self, device: Any) -> "Batch":
        """A copy on a device."""
        return self._with(tensor.to(device, non_blocking=True) for tensor in self.tensors())

    def pinned(self) -> "Batch":
        """A copy in page-locked memory, from which a GPU copies without being waited for."""
        return self._with(tensor.pin_memory() for tensor in self.tensors())

    def _with(self, tensors: Iterable[Tensor]) -> "Batch":
        """The same rows with their tensors elsewhere."""
        names = (field.name for field in fields(self))
        return replace(self, **dict(zip(names, tensors, strict=False)))

    def tensors(self) -> list[Tensor]:
        """The tensors that move to a device."""
        return [getattr(self, field.name) for field in fields(self)[:-4]]

    @property
    def most_documents(self) -> int | None:
        """A bound of the number of documents, the number of rows times a power of two; None if nobody counted them.

        There are few such numbers, so few graphs are compiled and recorded. It is counted on the host, so nothing waits
        for a GPU.
        """
        if self.documents_in_rows is None:
            return None
        rows = len(self.ids)
        each = -(-int(self.documents_in_rows.numpy().sum()) // rows)
        return rows << (each - 1).bit_length()


class Rows:
    """The rows of a stream: row i is [CLS], tokens i·(S-2) to (i+1)·(S-2) of the stream, [SEP], and padding.

    A separator at either end of this section is left out, since the row has its own [CLS] and [SEP] there. The rows of
    several streams follow each other.
    """

    def __init__(
        self,
        streams: TokenStream | Sequence[TokenStream],
        length: int,
        special: Mapping[str, int],
        attention: Literal["packed", "document"] = "packed",
        phase: int = 0,
    ) -> None:
        """Prepare the rows of a stream; nothing is read yet.

        Args:
            streams: the tokens of a split, or of each of its sources.
            length: S, tokens of a row.
            special: ids by name; `pad`, `cls` and `sep` are needed, and none of the ids is eligible.
            attention: `document`: positions start at 0 in each document; `packed`: in each row.
            phase: of the batches.
        """
        self._phase = phase
        self._streams = [streams] if isinstance(streams, TokenStream) else list(streams)
        self.length = length
        self.attention = attention
        self.counts = [row_count(stream.tokens, length) for stream in self._streams]
        """number of rows of each stream"""
        self.starts = [0, *accumulate(self.counts)]
        """number of each stream's first row, and the number of all rows"""
        self.count = self.starts[-1]
        self._pad, self._cls, self._sep = (special[name] for name in ("pad", "cls", "sep"))
        self._special = torch.tensor(sorted(set(special.values())))

    def rows(
        self, indices: Tensor, epochs: Tensor | None = None, epoch: int = 0, samples: Tensor | None = None
    ) -> Batch:
        """Build rows.

        Args:
            indices: (B,) int64, each in [0, count).
            epochs: (B,) int64, put into the batch; None: `epoch` for all rows.
            epoch: used if `epochs` is None.
            samples: (B,) int64, places in a run's order; None: the rows do not belong to this order.

        Returns:
            the batch, on the CPU.
        """
        numbers = indices.tolist()
        ids_BS = torch.full((len(numbers), self.length), self._pad)
        used_B = torch.empty(len(numbers), dtype=torch.int64)
        for row, number in enumerate(numbers):
            content = torch.from_numpy(self.content(number))
            used = len(content) + 2
            ids_BS[row, 0] = self._cls
            ids_BS[row, 1 : used - 1] = content
            ids_BS[row, used - 1] = self._sep
            used_B[row] = used
        positions_S = torch.arange(self.length)
        padding_BS = positions_S >= used_B[:, None]
        ended_BS = ((ids_BS == self._sep) & ~padding_BS).long()
        documents_BS = (ended_BS.cumsum(1) - ended_BS).masked_fill(padding_BS, -1)
        positions_BS = positions_S.expand_as(ids_BS).contiguous()
        if self.attention == "document":
            positions_BS = _positions_in_documents(ended_BS).masked_fill(padding_BS, 0)
        eligible_BS = ~padding_BS & ~torch.isin(ids_BS, self._special)
        if epochs is None:
            epochs = torch.full((len(numbers),), epoch)
        if samples is None:
            samples = ~indices
        padded = bool((used_B < self.length).any())
        return Batch(
            ids_BS,
            documents_BS,
            positions_BS,
            eligible_BS,
            padding_BS,
            epochs,
            indices.clone(),
            samples,
            padded,
            self._phase,
            _documents_in_rows(documents_BS),
        )

    def content(self, index: int) -> np.ndarray:
        """A row's tokens as int64, without its first [CLS], its last [SEP] and padding."""
        if not 0 <= index < self.count:
            raise IndexError(f"row {index} of {self.count}")
        part = bisect_right(self.starts, index) - 1
        stream, start = self._streams[part], (index - self.starts[part]) * (self.length - 2)
        tokens = stream.read(start, min(start + self.length - 2, stream.tokens))
        first = 1 if tokens[0] == self._sep else 0
        last = len(tokens) - (1 if len(tokens) > first and tokens[-1] == self._sep else 0)
        return tokens[first:last]


class BatchSchedule:
    """The rows of each update, or a process's share of them: a pure function of (seed, update)."""

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        seed: int,
        share: tuple[int, int] = (0, 1),
        weights: Sequence[float] = (),
        first: int = 0,
        first_epoch: int = 0,
    ) -> None:
        """Prepare the order; a batch may hold the end of one epoch and the beginning of the next.

        Args:
            rows: the rows of a split.
            batch_size: number of rows of an update, of all processes together.
            seed: of the order.
            share: this process's rank and the number of processes. Each gets consecutive rows of a batch, the first
                ones one more if the batch cannot be divided evenly.
            weights: of the streams of `rows`; empty: the rows of all streams have one order.
            first: place in the order at which the first update begins.
            first_epoch: number of the first epoch; other epochs have other orders, masks and noise.

        Raises:
            DataError: there are fewer rows than a batch holds, or a weight is too small.
        """
        if rows.count < batch_size:
            raise DataError(
                f"the corpus gives {rows.count} rows of {rows.length} tokens, fewer than a batch of {batch_size}: "
                "give more text, or set a smaller training.batch_size or data.length."
            )
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.left_out: list[int] = []
        """numbers of the batches that no update reads, ascending; the updates after them read the following batches"""
        self._mixture = Mixture(weights, seed) if weights else None
        self._first, self._first_epoch = first, first_epoch
        rank, size = share
        self._share = slice(*((batch_size * end + size - 1) // size for end in (rank, rank + 1)))

    def at(self, update: int) -> Batch:
        """The batch of an update, or this process's share of it; the first update is 0."""
        numbers_B = self._numbers(update)
        indices_B, epochs_B = self._order(numbers_B)
        samples_B = torch.from_numpy(numbers_B)
        return self.rows.rows(torch.from_numpy(indices_B), torch.from_numpy(epochs_B), samples=samples_B)

    def batch_number(self, update: int) -> int:
        """The number of the batch that an update reads: the update's own, and more after batches that are left out."""
        for number in self.left_out:
            update += number <= update
        return update

    def order(self, update: int) -> tuple[np.ndarray, np.ndarray]:
        """The row numbers (B,) and epochs (B,) of an update, int64."""
        return self._order(self._numbers(update))

    def rows_of(self, batch: int) -> np.ndarray:
        """The row numbers of a whole batch, int64, ascending batch numbers from 0."""
        return self._order(self._first + batch * self.batch_size + np.arange(self.batch_size, dtype=np.int64))[0]

    def read(self, updates: int) -> list[int]:
        """The number of rows of each stream that the first updates read, those of batches left out included."""
        first, rows = self._first, self.batch_number(updates) * self.batch_size
        if not self._mixture:
            return [rows]
        counts = zip(self._mixture.counts(first + rows), self._mixture.counts(first), strict=True)
        return [after - before for after, before in counts]

    def _numbers(self, update: int) -> np.ndarray:
        """Places in the run's order over all epochs, int64."""
        first = self._first + self.batch_number(update) * self.batch_size
        return first + np.arange(self.batch_size, dtype=np.int64)[self._share]

    def _order(self, numbers_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._mixture is None:
            return self._ordered(numbers_B, 0, self.rows.count)
        sources_B, places_B = self._mixture.at(numbers_B)
        indices_B, epochs_B = np.empty_like(numbers_B), np.empty_like(numbers_B)
        for source in np.unique(sources_B):
            chosen, first = sources_B == source, self.rows.starts[source]
            indices_B[chosen], epochs_B[chosen] = self._ordered(places_B[chosen], first, self.rows.counts[source])
        return indices_B, epochs_B

    def _ordered(self, places_B: np.ndarray, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and epochs at some places in the endless order of `count` rows, the first of which is `first`."""
        epochs_B, places_B = np.divmod(places_B, count)
        epochs_B += self._first_epoch
        indices_B = np.empty_like(places_B)
        for epoch in np.unique(epochs_B):
            chosen = epochs_B == epoch
            indices_B[chosen] = first + permute(places_B[chosen], count, (self.seed, int(epoch)))
        return indices_B, epochs_B


class Prefetcher(Generic[T]):
    """Computes `function(update)` for start ≤ update < stop in a background thread, up to four results in advance.

    Iterating gives (result, seconds that the reader waited for it). An error of the function is raised there.
    """

    def __init__(self, function: Callable[[int], T], start: int, stop: int) -> None:
        self._results: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=4)
        self._closed = threading.Event()
        self._count = max(0, stop - start)
        self._thread = threading.Thread(
            target=self._run, args=(function, start, stop), name="fast-electra-prefetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[T, float]]:
        while self._count and not self._closed.is_set():
            began = time.perf_counter()
            result, error = self._results.get()
            waited = time.perf_counter() - began
            if error is not None:
                self.close()
                raise error
            self._count -= 1
            yield result, waited  # type: ignore[misc]  # None only together with an error

    def close(self) -> None:
        """Stop the thread; results that were not read are dropped."""
        self._closed.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._results.get(timeout=0.01)
        self._thread.join()

    def _run(self, function: Callable[[int], T], start: int, stop: int) -> None:
        for update in range(start, stop):
            if self._closed.is_set():
                return
            try:
                self._results.put((function(update), None))
            except BaseException as error:
                self._results.put((None, error))
                return


def one_by_one(function: Callable[[int], T], start: int, stop: int) -> Generator[tuple[T, float], None, None]:
    """`Prefetcher` without a thread: gives (result, seconds that it took).

    If the model computes on the CPU, a second thread takes time from it: an update took 5 % longer.
    """
    for update in range(start, stop):
        began = time.perf_counter()
        result = function(update)
        yield result, time.perf_counter() - began


def _has_padding(padding_BS: Tensor) -> bool:
    """Whether any token is padding; True if the answer is on another device, which is not waited for."""
    return padding_BS.device.type != "cpu" or bool(padding_BS.numpy().any())


def _documents_in_rows(documents_BS: Tensor) -> Tensor | None:
    """The number of stretches of equal values in each row (B,); None if they are on another device."""
    if documents_BS.device.type != "cpu":
        return None
    return 1 + (documents_BS[:, 1:] != documents_BS[:, :-1]).sum(1)


def _positions_in_documents(ended_BS: Tensor) -> Tensor:
    """Position ids (B, S) that start at 0 after every separator."""
    positions_S = torch.arange(ended_BS.shape[1])
    starts_BS = torch.zeros_like(ended_BS)
    starts_BS[:, 1:] = torch.where(ended_BS[:, :-1].bool(), positions_S[1:], 0)
    return positions_S - starts_BS.cummax(1).values
