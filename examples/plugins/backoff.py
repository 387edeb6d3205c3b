"""An auxiliary: frequencies of a token after the one to its left, or unigrams if that one is masked or unknown.

fast-electra pretrain CONFIG --plugin examples/plugins/backoff.py --run RUN auxiliary.kind=backoff
"""

from typing import Literal

from fast_electra.corruption.auxiliary_kinds import AuxiliaryConfig


class BackoffAuxiliary(AuxiliaryConfig):
    """Bigrams with stupid backoff (Brants et al., 2007), as a dense table for small vocabularies."""

    kind: Literal["backoff"] = "backoff"
    is_counted = True

    def count(self, stream, allowed_V, device):
        """Count the log-probabilities of each token after each token."""
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
    """The auxiliary that looks up these tables."""

    def __init__(self, table_VV, unigram_V):
        """Log-probabilities (V, V) by the token to the left, and (V,) without it."""
        self.table_VV, self.unigram_V = table_VV, unigram_V

    def logits(self, batch, masked, difficulty):
        """Unnormalised log-probabilities (N, V)."""
        import torch

        from fast_electra.corruption.masking import masked_tokens

        left_BM = (masked.positions_BM - 1).clamp(min=0)
        known_BM = (batch.eligible & ~masked_tokens(batch, masked)).gather(1, left_BM) & (masked.positions_BM > 0)
        logits_NV = self.table_VV[batch.ids.gather(1, left_BM).flatten()]
        return torch.where(known_BM.flatten()[:, None], logits_NV, self.unigram_V)

    def modules(self):
        """No modules: there is nothing to train."""
        return []
