"""An auxiliary: how often a token follows the one to its left; the unigram where that one is masked or new.

fast-electra pretrain CONFIG --plugin examples/plugins/backoff.py --run RUN auxiliary.kind=backoff
"""

from typing import Literal

from fast_electra.corruption.auxiliary_kinds import AuxiliaryConfig


class BackoffAuxiliary(AuxiliaryConfig):
    """Bigrams with stupid backoff (Brants et al., 2007), as a dense table: for small vocabularies."""

    kind: Literal["backoff"] = "backoff"
    is_counted = True

    def count(self, stream, allowed_V, device):
        """Log-probabilities of each token behind each token."""
        import torch

        tokens = torch.from_numpy(stream.read(0, stream.tokens).astype("int64"))
        size = len(allowed_V)
        pairs_VV = torch.bincount(tokens[:-1] * size + tokens[1:], minlength=size * size).view(size, size)
        unigram_V = (torch.bincount(tokens, minlength=size) + 1.0) * allowed_V
        unigram_V = unigram_V / unigram_V.sum()
        pairs_VV = pairs_VV * allowed_V
        share_VV = pairs_VV / pairs_VV.sum(1, keepdim=True).clamp(min=1)
        table_VV = torch.where(pairs_VV > 0, share_VV, 0.4 * unigram_V).log().masked_fill(~allowed_V, -torch.inf)
        return Backoff(table_VV.to(device), unigram_V.log().to(device))


class Backoff:
    """The tables in use."""

    def __init__(self, table_VV, unigram_V):
        """By the token to the left; without it."""
        self.table_VV, self.unigram_V = table_VV, unigram_V

    def logits(self, batch, masked, difficulty):
        """Unnormalised log-probabilities (N, V)."""
        import torch

        hidden_BS = torch.zeros_like(batch.eligible).scatter(1, masked.positions_BM, masked.valid_BM)
        left_BM = (masked.positions_BM - 1).clamp(min=0)
        known_BM = (batch.eligible & ~hidden_BS).gather(1, left_BM) & (masked.positions_BM > 0)
        logits_NV = self.table_VV[batch.ids.gather(1, left_BM).flatten()]
        return torch.where(known_BM.flatten()[:, None], logits_NV, self.unigram_V)

    def modules(self):
        """None: there is nothing to train."""
        return []
