"""Auxiliaries: whatever gives a distribution over the vocabulary at a masked position.

| kind            | replacement for x_t is drawn from                             | forward passes a row          |
| --------------- | ------------------------------------------------------------- | ----------------------------- |
| masked_lm       | p(x_t | row with [MASK] at M): both sides                     | one                           |
| causal_lm       | p(x_t | x_<t): left context                                   | one                           |
| prefix_lm       | p(x_t | x_<t), what precedes M read in both directions        | one, of encoder and decoder   |
| span_corruption | p(x_t | row without M, and the spans of M before t)           | one, the decoder's over M     |
| ngram           | p(x_t | x_t-1, x_t+1), unmasked neighbours only (counted.py)  | none                          |
| unigram         | p(x_t) (counted.py)                                           | none                          |
| uniform         | 1 / V (counted.py)                                            | none                          |

Notable:
- an auxiliary is frozen: no gradient, no optimizer state, evaluation mode;
- what it says of a position never depends on the token that stands there. Those that go from left to right read the
  *originals* at masked positions further left, as in their training: [MASK] is unknown to them, and reading their own
  samples would take one pass for each position. Replacements of one row are then independent given the original row;
- special tokens are never drawn: each auxiliary leaves them out of its logits, so that samples, entropies and expected
  shares are of the distribution over the other tokens;
- a difficulty's dropout strengths act inside it; its temperature is applied by the sampler.

Shapes: B sequences, S positions, M masked positions (padded), N = B · M, V vocabulary, K sentinels, E and D positions
of encoder and decoder.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp
from typing import Protocol

import torch
from torch import Tensor, nn

from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.masking import Masked, masked_ids, originals
from fast_electra.data.batches import Batch
from fast_electra.models.layers import dropping
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.other_lm import CausalLM, EncoderDecoderLM


class Auxiliary(Protocol):
    """Gives the distribution that replacements are drawn from."""

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Unnormalised log-probabilities (N, V) at the masked positions; each row ignores the token that it predicts.

        Rows of slots that hold no masked position mean nothing.
        """
        ...

    def modules(self) -> list[nn.Module]:
        """The frozen modules, for checks that nothing trains them."""
        ...


@dataclass(frozen=True)
class Candidates:
    """The tokens that may be drawn as replacements: all but special ones, and ids that no token has."""

    vocabulary: int
    """V of the shards"""
    excluded_E: Tensor
    """int64 ids, each below V"""

    @classmethod
    def of(cls, excluded_V: Tensor, device: torch.device) -> "Candidates":
        """From a bool for each token."""
        return cls(len(excluded_V), excluded_V.nonzero()[:, 0].to(device))

    def to(self, device: torch.device) -> "Candidates":
        """A copy on a device."""
        return Candidates(self.vocabulary, self.excluded_E.to(device))

    def only(self, logits_NV: Tensor) -> Tensor:
        """Logits in the shards' vocabulary, -inf where a token is excluded; a model may have more rows or fewer.

        They are written in place where their size fits: a copy of 608 × 30,522 takes as long as sampling from it.
        """
        if logits_NV.shape[1] != self.vocabulary:
            model_NV, shared = logits_NV, min(self.vocabulary, logits_NV.shape[1])
            logits_NV = model_NV.new_full((len(model_NV), self.vocabulary), float("-inf"))
            logits_NV[:, :shared] = model_NV[:, :shared]
        return logits_NV.index_fill_(1, self.excluded_E, float("-inf"))


@dataclass(frozen=True)
class MaskedLanguageModel:
    """A Transformers masked language model: `p(x_t | the row with [MASK] at M)`, ELECTRA's own choice."""

    model: MaskedLM
    mask_id: int
    candidates: Candidates

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Logits (N, V); only masked positions pass through the output layer."""
        with dropping(self.model.model, difficulty.dropout, difficulty.attention_dropping):
            logits_NV = self.model.masked_logits(batch, masked_ids(batch, masked, self.mask_id), masked.positions_BM)
        return self.candidates.only(logits_NV)

    def modules(self) -> list[nn.Module]:
        """The model."""
        return [self.model]


@dataclass(frozen=True)
class CausalLanguageModel:
    """A Transformers causal language model: `p(x_t | x_<t)`, the logits one position to the left of t."""

    model: CausalLM
    candidates: Candidates

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Logits (N, V); originals stand at the masked positions to the left."""
        with dropping(self.model.model, difficulty.dropout, difficulty.attention_dropping):
            logits_NV = self.model.predictions(batch, masked.positions_BM)
        return self.candidates.only(logits_NV)

    def modules(self) -> list[nn.Module]:
        """The model."""
        return [self.model]


@dataclass(frozen=True)
class PrefixLanguageModel:
    """An encoder-decoder as a prefix language model: `p(x_t | x_<t)` (Raffel et al., 2020, figure 4).

    The encoder reads the row up to its first masked position, in both directions, and the decoder goes on from there,
    left to right. A prefix up to each t would take a pass for each.
    """

    model: EncoderDecoderLM
    candidates: Candidates

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Logits (N, V)."""
        positions_S = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        # Position 0 is [CLS]; a row in which nothing is masked is all prefix but for its last token.
        end = len(positions_S) - 1
        first_B1 = torch.where(masked.valid_BM, masked.positions_BM, end).amin(1, keepdim=True).clamp(min=1)
        # The decoder is given a start token, then x from the first masked position on.
        shifted_BD = (first_B1 - 1 + positions_S).clamp(max=end)
        decoder_BD = batch.ids.gather(1, shifted_BD)
        decoder_BD[:, 0] = self.model.start_id
        wanted_BM = (masked.positions_BM - first_B1).clamp(min=0)
        with dropping(self.model.model, difficulty.dropout, difficulty.attention_dropping):
            logits_NV = self.model.logits(batch.ids, (positions_S < first_B1) & ~batch.padding, decoder_BD, wanted_BM)
        return self.candidates.only(logits_NV)

    def modules(self) -> list[nn.Module]:
        """The model."""
        return [self.model]


@dataclass(frozen=True)
class SpanCorruptionModel:
    """A T5-style encoder-decoder: a run of adjacent masked tokens is one sentinel (Raffel et al., 2020, section 3.1.4).

    encoder:  [CLS] the <0> sat on <1> mat [SEP]
    decoder:  start <0> black cat <1> the

    The distribution at t is what follows the decoder's token before t: that of the first token of a span conditions on
    all that is unmasked and on the spans before, that of a later one on its span so far too. One sentinel for every
    masked token would be a text that such a model was never trained on.
    """

    model: EncoderDecoderLM
    sentinels_K: Tensor
    """int64 ids of <extra_id_0>, <extra_id_1>, …: one for each span of a row"""
    candidates: Candidates

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Logits (N, V); the decoder reads the originals of the spans before."""
        encoder_BE, seen_BE, decoder_BD, wanted_BM = self.inputs(batch, masked)
        with dropping(self.model.model, difficulty.dropout, difficulty.attention_dropping):
            logits_NV = self.model.logits(encoder_BE, seen_BE, decoder_BD, wanted_BM)
        return self.candidates.only(logits_NV)

    def inputs(self, batch: Batch, masked: Masked) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What encoder and decoder are given.

        Returns:
            tokens of the encoder (B, E = S), which of them count, tokens of the decoder (B, D = 2M + 1), and the
            positions in it (B, M) whose outputs predict the masked tokens.
        """
        valid_BM, positions_BM = masked.valid_BM, masked.positions_BM
        masked_BS = torch.zeros_like(batch.eligible).scatter(1, positions_BM, valid_BM)
        starts_BS = masked_BS.clone()
        starts_BS[:, 1:] &= ~masked_BS[:, :-1]
        span_BS = (starts_BS.cumsum(1) - 1).clamp(min=0)
        # Encoder: a span's first token becomes its sentinel, the others go, and what is left moves up.
        shown_BS = torch.where(starts_BS, self.sentinels_K[span_BS], batch.ids)
        kept_BS = (~masked_BS | starts_BS) & ~batch.padding
        order_BE = (~kept_BS).long().argsort(dim=1, stable=True)
        # Decoder: token j of all masked ones, in span k, stands behind the start, k + 1 sentinels and j tokens.
        token_BM = valid_BM.long().cumsum(1) - 1
        span_BM = span_BS.gather(1, positions_BM)
        wanted_BM = torch.where(valid_BM, token_BM + span_BM + 1, 0)
        slots = 2 * valid_BM.shape[1] + 1
        decoder_BD = torch.full((len(valid_BM), slots + 1), self.model.start_id, device=batch.ids.device)
        begins_BM = valid_BM & starts_BS.gather(1, positions_BM)
        # What has no place goes to one more column, which is cut off.
        decoder_BD.scatter_(1, torch.where(begins_BM, wanted_BM, slots), self.sentinels_K[span_BM])
        decoder_BD.scatter_(1, torch.where(valid_BM, wanted_BM + 1, slots), originals(batch, masked))
        return shown_BS.gather(1, order_BE), kept_BS.gather(1, order_BE), decoder_BD[:, :slots], wanted_BM

    def modules(self) -> list[nn.Module]:
        """The model."""
        return [self.model]


@torch.no_grad()
def measure(
    auxiliary: Auxiliary,
    batches: Iterable[tuple[Batch, Masked]],
    most_frequent: int,
    unigram_V: Tensor,
) -> dict[str, float]:
    """How well an auxiliary predicts masked tokens at T = 1, beside the unigram baseline.

    Args:
        auxiliary: of any kind.
        batches: validation rows and their masked positions, on the auxiliary's device.
        most_frequent: token that the baseline predicts everywhere.
        unigram_V: the baseline's log-probabilities.

    Returns:
        `masked_accuracy`, `perplexity`, `unigram_accuracy`, `unigram_perplexity`; perplexities are exp of the mean of
        -log p(original), over masked positions.
    """
    count = correct = frequent = 0
    loss = unigram_loss = 0.0
    for batch, masked in batches:
        valid_N = masked.valid_BM.flatten()
        logits_NV = auxiliary.logits(batch, masked, Difficulty(1.0))[valid_N].float()
        originals_N = originals(batch, masked).flatten()[valid_N]
        count += len(originals_N)
        correct += int((logits_NV.argmax(1) == originals_N).sum())
        frequent += int((originals_N == most_frequent).sum())
        loss += float(nn.functional.cross_entropy(logits_NV, originals_N, reduction="sum"))
        unigram_loss -= float(unigram_V.to(originals_N.device)[originals_N].sum())
    return {
        "masked_accuracy": correct / count,
        "perplexity": exp(min(loss / count, 700.0)),  # the largest that a float holds
        "unigram_accuracy": frequent / count,
        "unigram_perplexity": exp(unigram_loss / count),
    }
