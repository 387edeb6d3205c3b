"""A masking: one block of neighbouring tokens in each row, at a random place.

fast-electra pretrain CONFIG --plugin examples/plugins/blocks.py --run RUN corruption.masking.kind=block
"""

from typing import Literal

from fast_electra.corruption.masking_kinds import Masking


class BlockMasking(Masking):
    """One block of neighbouring tokens is masked."""

    kind: Literal["block"] = "block"

    def masker(self, tokenizer):
        """A function of batch and seed that draws the masked positions."""
        import torch

        from fast_electra.corruption.masking import counts, row_uniforms, stored

        def mask(batch, seed):
            eligible_BS = batch.eligible
            count_B1 = counts(eligible_BS, self.rate)
            device = eligible_BS.device
            rank_BS = eligible_BS.cumsum(1) - 1  # the number of a token among the eligible ones
            places_B1 = eligible_BS.sum(1, keepdim=True) - count_B1 + 1
            first_B1 = (row_uniforms(batch, seed, torch.zeros(1, dtype=torch.int64, device=device)) * places_B1).long()
            selected_BS = eligible_BS & (rank_BS >= first_B1) & (rank_BS < first_B1 + count_B1)
            return stored(eligible_BS, selected_BS, self.rate)

        return mask
