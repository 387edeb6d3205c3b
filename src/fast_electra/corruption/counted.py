"""Auxiliaries that are counted on the training split, not trained: baselines for the models of `auxiliary.py`.

    uniform   the same probability for every token
    unigram   p(x_t), without context
    ngram     p(x_t | x_t-1, x_t+1) ∝ p(x_t | x_t-1) · p(x_t | x_t+1) / p(x_t), exact for a Markov chain of order one.
              The factor of a neighbour that is masked or special is left out; without both factors it is p(x_t)

Bigrams are interpolated with unigrams (Witten and Bell, 1991): with c(l, x) occurrences of l before x and T(l)
different tokens after l, p(x | l) = λ c(l, x) / c(l) + (1 - λ) p(x), λ = c(l) / (c(l) + T(l)). Up to a constant of l,

    log p(x | l) = log p(x) + log(1 + c(l, x) / (T(l) p(x)))

so only pairs that occur are stored. The same holds for x_t+1.

Notable:
- special tokens have probability 0; one is added to the count of every other token;
- memory is bounded. The corpus is read in chunks; of more than 2^27 tokens only chunks spread evenly over the corpus
  are read, and after each chunk the 2^22 most frequent pairs are kept. The same shards give the same tables;
- of several processes on a machine one counts, and the others share its tables.

Shapes: N = B · M masked positions, V vocabulary, P stored pairs.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fast_electra import distributed
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.auxiliary import Auxiliary
from fast_electra.corruption.masking import Masked, masked_tokens
from fast_electra.data.batches import Batch
from fast_electra.data.shards import TokenStream

_CHUNK = 2**22
_MOST_TOKENS = 2**27
_MOST_PAIRS = 2**22


def unigram_log_probabilities(stream: TokenStream, allowed_V: Tensor) -> Tensor:
    """Log-probabilities (V,) float32 of tokens without context; -inf where not allowed.

    Args:
        stream: the training split.
        allowed_V: bool, True for tokens of the tokenizer that are not special.
    """
    made = distributed.once_per_machine(_name("unigram", stream, allowed_V), lambda: _unigram(stream, allowed_V))
    return made["unigram"]


def _unigram(stream: TokenStream, allowed_V: Tensor) -> dict[str, Tensor]:
    counts_V = np.zeros(len(allowed_V), dtype=np.int64)
    for start, stop in _chunks(stream.tokens):
        counts_V += np.bincount(stream.read(start, stop), minlength=len(counts_V))
    weights_V = (torch.from_numpy(counts_V) + 1).double() * allowed_V
    return {"unigram": (weights_V / weights_V.sum()).log().float()}


def _name(table: str, stream: TokenStream, allowed_V: Tensor) -> str:
    """What a table that is counted depends on."""
    return f"{table} {stream.name} {hashlib.sha256(allowed_V.numpy().tobytes()).hexdigest()}"


def uniform_log_probabilities(allowed_V: Tensor) -> Tensor:
    """Log-probabilities (V,) float32, the same for all allowed tokens; -inf elsewhere."""
    return (allowed_V.double() / allowed_V.sum()).log().float()


@dataclass(frozen=True)
class Unigram(Auxiliary):
    """One distribution for all positions: unigram frequencies, or uniform."""

    log_probabilities_V: Tensor

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Log-probabilities (N, V)."""
        return self.log_probabilities_V.expand(masked.positions_BM.numel(), -1)


@dataclass(frozen=True)
class Gains:
    """log(1 + c / (T p)) of every stored pair, by the given token."""

    starts_V: Tensor
    """(V + 1,) int64: the pairs of token v are those from starts_V[v] to starts_V[v + 1]"""
    tokens_P: Tensor
    """int64: the predicted tokens"""
    gains_P: Tensor
    """float32"""

    @classmethod
    def of(cls, given_P: np.ndarray, predicted_P: np.ndarray, counts_P: np.ndarray, unigram_V: Tensor) -> "Gains":
        """From pairs and their counts, in any order, each pair once."""
        order_P = np.argsort(given_P, kind="stable")
        given_P, predicted_P, counts_P = given_P[order_P], predicted_P[order_P], counts_P[order_P]
        different_V = np.bincount(given_P, minlength=len(unigram_V))
        probability_P = unigram_V.double().exp().numpy()[predicted_P]
        gains_P = np.log1p(counts_P / (different_V[given_P] * probability_P)).astype(np.float32)
        starts_V = np.concatenate(([0], np.cumsum(different_V)))
        return cls(torch.from_numpy(starts_V), torch.from_numpy(predicted_P), torch.from_numpy(gains_P))

    def to(self, device: torch.device) -> "Gains":
        """A copy on a device."""
        return Gains(self.starts_V.to(device), self.tokens_P.to(device), self.gains_P.to(device))

    def add(self, logits_NV: Tensor, given_N: Tensor, usable_N: Tensor) -> None:
        """Add the gains of the pairs of `given_N` to the rows of `logits_NV`, in place, where `usable_N` is True."""
        first_N = self.starts_V[given_N]
        count_N = (self.starts_V[given_N + 1] - first_N) * usable_N
        rows = torch.repeat_interleave(count_N)
        behind_N = count_N.cumsum(0) - count_N
        pairs = torch.arange(len(rows), device=rows.device) + (first_N - behind_N)[rows]
        # Each entry gets at most one addend, so the order does not matter.
        logits_NV.view(-1).index_add_(0, rows * logits_NV.shape[1] + self.tokens_P[pairs], self.gains_P[pairs])


@dataclass(frozen=True)
class NGram(Auxiliary):
    """Interpolated bigrams with both neighbours."""

    unigram_V: Tensor
    after: Gains
    """given the token to the left"""
    before: Gains
    """given the token to the right"""

    @classmethod
    def count(cls, stream: TokenStream, allowed_V: Tensor, device: torch.device) -> "NGram":
        """Count the tables of a training split.

        Args:
            stream: the training split.
            allowed_V: bool, True for tokens of the tokenizer that are not special.
            device: of the tables.
        """
        unigram_V = unigram_log_probabilities(stream, allowed_V)

        def count() -> dict[str, Tensor]:
            keys_P, counts_P = _pairs(stream, allowed_V.numpy())
            left_P, right_P = np.divmod(keys_P, len(allowed_V))
            sides = {"after": (left_P, right_P), "before": (right_P, left_P)}
            tables = {side: Gains.of(*of, counts_P, unigram_V) for side, of in sides.items()}
            return {f"{side}.{name}": tensor for side, table in tables.items() for name, tensor in vars(table).items()}

        made = distributed.once_per_machine(_name("ngram", stream, allowed_V), count)
        after, before = (
            Gains(**{name: made[f"{side}.{name}"] for name in Gains.__annotations__}).to(device)
            for side in ("after", "before")
        )
        return cls(unigram_V.to(device), after, before)

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Unnormalised log-probabilities (N, V)."""
        seen_BS = batch.eligible & ~masked_tokens(batch, masked)
        logits_NV = self.unigram_V.repeat(masked.positions_BM.numel(), 1)
        for gains, step in ((self.after, -1), (self.before, 1)):
            # Only slots without a masked position are at the ends of a row.
            neighbours_BM = (masked.positions_BM + step).clamp(0, batch.ids.shape[1] - 1)
            usable_BM = seen_BS.gather(1, neighbours_BM) & masked.valid_BM
            gains.add(logits_NV, batch.ids.gather(1, neighbours_BM).flatten(), usable_BM.flatten())
        return logits_NV


def _chunks(tokens: int) -> Iterator[tuple[int, int]]:
    """Start and stop of the chunks that are counted: all, or the largest allowed number, spread evenly."""
    count = -(-tokens // _CHUNK)
    chosen = min(count, _MOST_TOKENS // _CHUNK)
    for number in range(chosen):
        start = number * count // chosen * _CHUNK
        yield start, min(start + _CHUNK, tokens)


def _pairs(stream: TokenStream, allowed_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbours l, x as keys l · V + x (int64), and their counts."""
    keys_P, counts_P = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    for start, stop in _chunks(stream.tokens):
        tokens = stream.read(start, min(stop + 1, stream.tokens))  # one more, for the pair across the border
        usable = allowed_V[tokens]
        found, counts = np.unique(
            (tokens[:-1] * len(allowed_V) + tokens[1:])[usable[:-1] & usable[1:]], return_counts=True
        )
        both = np.concatenate((keys_P, found))
        order = np.argsort(both, kind="stable")  # merges two sorted runs
        both = both[order]
        first = np.flatnonzero(np.concatenate(([True], both[1:] != both[:-1]))[: len(both)])
        keys_P, counts_P = both[first], np.add.reduceat(np.concatenate((counts_P, counts))[order], first)
        if len(keys_P) > _MOST_PAIRS:
            kept = np.sort(np.argsort(-counts_P, kind="stable")[:_MOST_PAIRS])
            keys_P, counts_P = keys_P[kept], counts_P[kept]
    return keys_P, counts_P
