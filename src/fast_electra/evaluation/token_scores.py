"""Scores of every token of many sequences, by a main model or by a masked language model.

Notable: scorers are plain functions on tensors, so models, baselines and tests are used in the same way.

Shapes: N sequences, B sequences of a batch, S tokens of a padded sequence, K tokens asked about, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fast_electra.errors import ModelError

# (ids (B, S) int64, padding (B, S) bool) -> logits (B, S) float32; a high logit means "replaced".
Suspicion = Callable[[Tensor, Tensor], Tensor]
# (ids (B, S) int64 with one [MASK] per row, padding (B, S) bool, positions of [MASK] (B,) int64)
# -> log-probabilities (B, V).
MaskedPrediction = Callable[[Tensor, Tensor, Tensor], Tensor]
# Sequences are padded to the next of these lengths: few shapes, and few padding tokens.
PADDED_LENGTHS = (8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def batches_by_length(lengths: ArrayLike, size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of examples of similar length, `size` at a time, from short to long."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Return the ids of [CLS] and [SEP].

    Raises:
        ModelError: the tokenizer has no [CLS] or no [SEP].
    """
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    if not isinstance(first, int) or not isinstance(last, int):
        raise ModelError("the tokenizer has no [CLS] or no [SEP] token: add them, or use another tokenizer.")
    return first, last


def tokens_with_offsets(
    texts: list[str], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Return for each text its token ids without special tokens, and their character ranges (start, end)."""
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids: Any = encoded["input_ids"]
    offsets: Any = encoded["offset_mapping"]
    return list(zip(ids, offsets, strict=True))


def score_tokens(
    sequences: Sequence[NDArray[np.int64]], suspicion: Suspicion, *, pad_id: int = 0, batch_size: int = 64
) -> list[NDArray[np.float32]]:
    """Return the logits of every token, an array for each sequence.

    Args:
        sequences: token ids with special tokens, N arrays.
        suspicion: the model.
        pad_id: of the tokenizer.
        batch_size: sequences in one forward pass.

    Raises:
        ModelError: a logit is not finite.
    """
    result: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(sequences)
    for chosen, ids, padding in _batches(sequences, pad_id, batch_size):
        with torch.no_grad():  # not inference mode: probes score a model that continues training
            logits = suspicion(ids, padding).float().cpu().numpy()
        for row, index in enumerate(chosen):
            result[index] = logits[row, : len(sequences[index])].copy()
            if not np.isfinite(result[index]).all():
                raise ModelError("the model gives logits that are not finite: train it again at a lower learning rate.")
    return result


def mask_in_turn(
    sequences: Sequence[NDArray[np.int64]],
    prediction: MaskedPrediction,
    *,
    mask_id: int,
    pad_id: int = 0,
    batch_size: int = 64,
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Mask every token but the first and the last of each sequence, one at a time, with a forward pass for each token.

    Args:
        sequences: token ids with special tokens, N arrays.
        prediction: the masked language model.
        mask_id: of the tokenizer.
        pad_id: of the tokenizer.
        batch_size: sequences in one forward pass.

    Returns:
        log-probabilities of the masked tokens, and of the most likely tokens at their places; an array for each
        sequence.
    """
    if not sequences:
        return [], []
    questions, positions, tokens = [], [], []
    for sequence in sequences:
        for position in range(1, len(sequence) - 1):
            question = sequence.copy()
            question[position] = mask_id
            questions.append(question)
            positions.append(position)
            tokens.append(sequence[position])
    wanted = np.array(tokens, dtype=np.int64)[:, None]
    chosen, best = predict_at(
        questions, np.array(positions, dtype=np.int64), wanted, prediction, pad_id=pad_id, batch_size=batch_size
    )
    ends = np.cumsum([max(0, len(sequence) - 2) for sequence in sequences])[:-1]
    return np.split(chosen[:, 0], ends), np.split(best, ends)


def predict_at(
    sequences: Sequence[NDArray[np.int64]],
    positions: NDArray[np.int64],
    wanted: NDArray[np.int64],
    prediction: MaskedPrediction,
    *,
    pad_id: int,
    batch_size: int = 64,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Predict the token at one position of each sequence.

    Args:
        sequences: token ids, N arrays.
        positions: of [MASK], (N,).
        wanted: token ids that are asked about, (N, K).
        prediction: the masked language model.
        pad_id: of the tokenizer.
        batch_size: sequences in one forward pass.

    Returns:
        log-probabilities of the wanted tokens, (N, K), and of the most likely token, (N,).
    """
    chosen_NK = np.empty(wanted.shape)
    best_N = np.empty(len(sequences))
    for chosen, ids, padding in _batches(sequences, pad_id, batch_size):
        with torch.no_grad():
            log_probabilities = prediction(ids, padding, torch.from_numpy(positions[chosen])).float()
            wanted_BK = torch.from_numpy(wanted[chosen]).to(log_probabilities.device)
        chosen_NK[chosen] = log_probabilities.gather(1, wanted_BK).cpu().numpy()
        best_N[chosen] = log_probabilities.amax(dim=1).cpu().numpy()
    return chosen_NK, best_N


def _batches(
    sequences: Sequence[NDArray[np.int64]], pad_id: int, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Batches of sequences of similar length: indices (B,), ids (B, S) and padding (B, S)."""
    for chosen in batches_by_length([len(sequence) for sequence in sequences], batch_size):
        longest = len(sequences[chosen[-1]])
        width = next((length for length in PADDED_LENGTHS if length >= longest), longest)
        ids = torch.full((len(chosen), width), pad_id, dtype=torch.int64)
        padding = torch.ones((len(chosen), width), dtype=torch.bool)
        for row, index in enumerate(chosen):
            ids[row, : len(sequences[index])] = torch.from_numpy(sequences[index])
            padding[row, : len(sequences[index])] = False
        yield chosen, ids, padding
