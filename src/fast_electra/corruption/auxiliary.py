"""Auxiliaries: frozen models that give a distribution over the vocabulary at a masked position (the paper's section 3).

`auxiliary_kinds.py` has their settings, and `counted.py` those that are counted on the corpus.

| kind            | replacement for x_t is drawn from                             | forward passes per row        |
| --------------- | ------------------------------------------------------------- | ----------------------------- |
| masked_lm       | p(x_t | row with [MASK] at M): both sides                     | one                           |
| causal_lm       | p(x_t | x_<t): left context                                   | one                           |
| prefix_lm       | p(x_t | x_<t), the text before M is read in both directions   | one, of encoder and decoder   |
| span_corruption | p(x_t | row without M, and the spans of M before t)           | one, the decoder only over M  |
| ngram           | p(x_t | x_t-1, x_t+1), unmasked neighbours only (counted.py)  | none                          |
| unigram         | p(x_t) (counted.py)                                           | none                          |
| uniform         | 1 / V (counted.py)                                            | none                          |

Notable:
- an auxiliary is frozen: no gradient, no optimizer state, evaluation mode;
- its prediction at a position never depends on the token at this position. Left-to-right models read the *original*
  tokens at masked positions further left, as in their training: they do not know [MASK], and reading their own samples
  would take one pass for each position. So the replacements of one row are independent given the original row;
- special tokens are never drawn. Each auxiliary gives them the logit -inf, so samples, entropies and expected shares
  belong to the distribution over the other tokens;
- the dropout strengths of a difficulty act inside the auxiliary; the sampler applies the temperature.

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
from fast_electra.corruption.masking import Masked, masked_ids, masked_tokens, originals
from fast_electra.data.batches import Batch
from fast_electra.models.layers import dropping
from fast_electra.models.masked_lm import GatheringLM, MaskedLM
from fast_electra.models.other_lm import CausalLM, EncoderDecoderLM


class Auxiliary(Protocol):
    """Gives the distribution that the replacements are drawn from."""

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Unnormalised log-probabilities (N, V) at the masked positions; no row depends on the token that it predicts.

        Rows of slots without a masked position have no meaning.
        """
        ...

    def modules(self) -> list[nn.Module]:
        """The frozen modules, for checks that nothing trains them; empty if it is counted."""
        return []


@dataclass(frozen=True)
class Candidates:
    """The tokens that may be drawn as replacements: all except special tokens and ids that no token has."""

    vocabulary: int
    """V, the vocabulary size of the shards"""
    excluded_E: Tensor
    """int64: ids that are never drawn, each below V"""

    @classmethod
    def of(cls, excluded_V: Tensor, device: torch.device) -> "Candidates":
        """From a bool for each token: True where it is never drawn."""
        return cls(len(excluded_V), excluded_V.nonzero()[:, 0].to(device))

    def to(self, device: torch.device) -> "Candidates":
        """A copy on a device."""
        return Candidates(self.vocabulary, self.excluded_E.to(device))

    def only(self, logits_NV: Tensor) -> Tensor:
        """Logits (N, V) over the shards' vocabulary, -inf where a token is excluded.

        The model's vocabulary may be larger or smaller. If it has the same size, the logits are overwritten: copying
        608 × 30,522 logits takes as long as sampling from them.
        """
        if logits_NV.shape[1] != self.vocabulary:
            model_NV, shared = logits_NV, min(self.vocabulary, logits_NV.shape[1])
            logits_NV = model_NV.new_full((len(model_NV), self.vocabulary), float("-inf"))
            logits_NV[:, :shared] = model_NV[:, :shared]
        return logits_NV.index_fill_(1, self.excluded_E, float("-inf"))


@dataclass(frozen=True)
class _FrozenModel(Auxiliary):
    """A frozen Transformers model. A subclass gives `_predict`: its logits (N, V) at the masked positions."""

    model: GatheringLM
    candidates: Candidates

    def logits(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """Logits (N, V), -inf for tokens that are not candidates."""
        with dropping(self.model.model, difficulty.dropout, difficulty.attention_dropping):
            return self.candidates.only(self._predict(batch, masked))

    def _predict(self, batch: Batch, masked: Masked) -> Tensor:
        raise NotImplementedError

    def modules(self) -> list[nn.Module]:
        """The model."""
        return [self.model]


@dataclass(frozen=True)
class MaskedLanguageModel(_FrozenModel):
    """A Transformers masked language model: `p(x_t | the row with [MASK] at M)`, as in ELECTRA."""

    model: MaskedLM
    mask_id: int

    def _predict(self, batch: Batch, masked: Masked) -> Tensor:
        return self.model.masked_logits(batch, masked_ids(batch, masked, self.mask_id), masked.positions_BM)

    def before_output(self, batch: Batch, masked: Masked, difficulty: Difficulty) -> Tensor:
        """What the output layer would read (N, d), if `model.take_output_layer` has taken it out."""
        with dropping(self.model.model, difficulty.dropout, difficulty.attention_dropping):
            return self.model.before_output(batch, masked_ids(batch, masked, self.mask_id), masked.positions_BM)


@dataclass(frozen=True)
class CausalLanguageModel(_FrozenModel):
    """A Transformers causal language model: `p(x_t | x_<t)`, the logits one position to the left of t."""

    model: CausalLM

    def _predict(self, batch: Batch, masked: Masked) -> Tensor:
        return self.model.predictions(batch, masked.positions_BM)


@dataclass(frozen=True)
class PrefixLanguageModel(_FrozenModel):
    """An encoder-decoder as a prefix language model: `p(x_t | x_<t)` (Raffel et al., 2020, figure 4).

    The encoder reads the row up to its first masked position in both directions, and the decoder continues from there,
    left to right. A separate prefix for each t would take one pass for each t.
    """

    model: EncoderDecoderLM

    def _predict(self, batch: Batch, masked: Masked) -> Tensor:
        positions_S = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        # Position 0 is [CLS]. If nothing is masked, the prefix is the whole row except its last token.
        end = len(positions_S) - 1
        first_B1 = torch.where(masked.valid_BM, masked.positions_BM, end).amin(1, keepdim=True).clamp(min=1)
        # The decoder reads a start token, then the row from its first masked position on.
        shifted_BD = (first_B1 - 1 + positions_S).clamp(max=end)
        decoder_BD = batch.ids.gather(1, shifted_BD)
        decoder_BD[:, 0] = self.model.start_id
        wanted_BM = (masked.positions_BM - first_B1).clamp(min=0)
        return self.model.logits(batch.ids, (positions_S < first_B1) & ~batch.padding, decoder_BD, wanted_BM)


@dataclass(frozen=True)
class SpanCorruptionModel(_FrozenModel):
    """A T5-style encoder-decoder: a run of adjacent masked tokens is one sentinel (Raffel et al., 2020, section 3.1.4).

    encoder:  [CLS] the <0> sat on <1> mat [SEP]
    decoder:  start <0> black cat <1> the

    The distribution at t is the decoder's output after the token before t. The first token of a span is conditioned on
    all unmasked tokens and the spans before; a later one also on its span so far. One sentinel for every masked token
    would be an input that such a model was never trained on.
    """

    model: EncoderDecoderLM
    sentinels_K: Tensor
    """int64 ids of <extra_id_0>, <extra_id_1>, …; each span of a row takes one"""

    def _predict(self, batch: Batch, masked: Masked) -> Tensor:
        return self.model.logits(*self.inputs(batch, masked))

    def inputs(self, batch: Batch, masked: Masked) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The inputs of encoder and decoder.

        Returns:
            encoder tokens (B, E = S); a bool (B, E) that says which of them the model attends to; decoder tokens
            (B, D = 2M + 1); and the decoder positions (B, M) whose outputs predict the masked tokens.
        """
        valid_BM, positions_BM = masked.valid_BM, masked.positions_BM
        masked_BS = masked_tokens(batch, masked)
        starts_BS = masked_BS.clone()
        starts_BS[:, 1:] &= ~masked_BS[:, :-1]
        span_BS = (starts_BS.cumsum(1) - 1).clamp(min=0)
        # Encoder: the first token of a span becomes its sentinel, the others are removed, and the rest moves up.
        shown_BS = torch.where(starts_BS, self.sentinels_K[span_BS], batch.ids)
        kept_BS = (~masked_BS | starts_BS) & ~batch.padding
        order_BE = (~kept_BS).long().argsort(dim=1, stable=True)
        # Decoder: before masked token j, which is in span k, are the start, k + 1 sentinels and j tokens.
        token_BM = valid_BM.long().cumsum(1) - 1
        span_BM = span_BS.gather(1, positions_BM)
        wanted_BM = torch.where(valid_BM, token_BM + span_BM + 1, 0)
        slots = 2 * valid_BM.shape[1] + 1
        decoder_BD = torch.full((len(valid_BM), slots + 1), self.model.start_id, device=batch.ids.device)
        begins_BM = valid_BM & starts_BS.gather(1, positions_BM)
        # Slots without a masked position write to an additional column, which is cut off.
        decoder_BD.scatter_(1, torch.where(begins_BM, wanted_BM, slots), self.sentinels_K[span_BM])
        decoder_BD.scatter_(1, torch.where(valid_BM, wanted_BM + 1, slots), originals(batch, masked))
        return shown_BS.gather(1, order_BE), kept_BS.gather(1, order_BE), decoder_BD[:, :slots], wanted_BM


@torch.no_grad()
def measure(
    auxiliary: Auxiliary,
    batches: Iterable[tuple[Batch, Masked]],
    most_frequent: int,
    unigram_V: Tensor,
) -> dict[str, float]:
    """How well an auxiliary and the unigram baseline predict masked tokens at T = 1.

    Args:
        auxiliary: of any kind.
        batches: validation rows and their masked positions, on the auxiliary's device.
        most_frequent: the token that the baseline predicts everywhere.
        unigram_V: log-probabilities of the baseline.

    Returns:
        `masked_accuracy`, `perplexity`, `unigram_accuracy` and `unigram_perplexity`. Accuracies are shares in [0, 1];
        a perplexity is exp of the mean of -log p(original). All are over masked positions.
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
