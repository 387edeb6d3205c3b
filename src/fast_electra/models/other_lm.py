"""Causal language models and encoder-decoders; `masked_lm.py` has the masked language model.

Notable:
- hidden states are gathered before the output matrix, which is the whole head of these classes;
- it is measured on the model, when it is wrapped, that it does not read tokens to the right or of other documents.
  `BertForCausalLM` reads both sides unless its configuration forbids it, so it would see the token to predict.

Shapes: B sequences, S positions, E and D positions of encoder and decoder, M chosen positions, N = B · M, V vocabulary.
"""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fast_electra.data.batches import Batch
from fast_electra.errors import ConfigError, ModelError
from fast_electra.models.inputs import model_inputs
from fast_electra.models.masked_lm import GatheringLM


class CausalLM(GatheringLM):
    """Logits for the next token, from any Transformers causal language model."""

    def __init__(self, model: PreTrainedModel, by_document: bool = False):
        """Wrap `model`; with `by_document` tokens attend only to their own document.

        Raises:
            ModelError: the model reads tokens to the right.
            ConfigError: the model cannot keep documents apart.
        """
        super().__init__(model)
        self.by_document = by_document
        cast(nn.Module, model.get_output_embeddings()).register_forward_pre_hook(self._gather)
        self._refuse_leaks()

    def predictions(self, batch: Batch, positions_BM: Tensor) -> Tensor:
        """Logits (N, V) for the tokens at `positions_BM`, from the original tokens to their left.

        Position 0 has no token to its left and gets the logits of position 1.
        """
        return self.logits_at((positions_BM - 1).clamp(min=0), self._inputs(batch))

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        inputs = model_inputs(self.model.config, batch.ids, batch, self.by_document)
        if self.by_document:
            # The additive mask, not document ids: GPT-2 would take them for a padding mask, without an error.
            same_BSS = batch.documents[:, :, None] == batch.documents[:, None, :]
            dtype = next(self.model.parameters()).dtype
            hidden_BSS = torch.zeros(same_BSS.shape, dtype=dtype, device=same_BSS.device)
            hidden_BSS.masked_fill_(~same_BSS.tril(), torch.finfo(torch.bfloat16).min)
            inputs["attention_mask"] = hidden_BSS[:, None]
        return inputs | {"use_cache": False}

    @torch.no_grad()
    def _refuse_leaks(self) -> None:
        """Change half of a short row: logits to its left and in the other document must not change."""
        ids_BS = torch.arange(1, 9, device=self.model.device)[None] % self.model.config.vocab_size
        batch = Batch.of(ids_BS, torch.zeros_like(ids_BS, dtype=torch.bool))
        batch = replace(batch, documents=batch.positions // 4, positions=batch.positions % 4)
        every_BS = torch.arange(8, device=self.model.device)[None]
        training = self.model.training
        self.model.eval()

        def logits(ids_BS: Tensor) -> Tensor:
            return self.logits_at(every_BS, self._inputs(replace(batch, ids=ids_BS)))

        before = logits(ids_BS)
        looks_ahead = not torch.equal(before[:4], logits(torch.cat((ids_BS[:, :4], ids_BS[:, 4:].flip(1)), 1))[:4])
        mixes = not torch.equal(before[4:], logits(torch.cat((ids_BS[:, :4].flip(1), ids_BS[:, 4:]), 1))[4:])
        self.model.train(training)
        if looks_ahead:
            raise ModelError(
                f"this {type(self.model).__name__} reads tokens to the right of the one that it predicts: set "
                "is_decoder in its config.json if it was trained from left to right, else use auxiliary.kind=masked_lm."
            )
        if mixes and self.by_document:
            raise ConfigError(
                f"data.attention=document is not possible with this {self.model.config.model_type} (its tokens see "
                "other documents of their row): use data.attention=packed."
            )

    def _gather(self, _module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.gathered(arguments[0]), *arguments[1:]


class EncoderDecoderLM(GatheringLM):
    """Logits at decoder positions, from any Transformers encoder-decoder with a vocabulary head."""

    def __init__(self, model: PreTrainedModel):
        """Wrap `model`."""
        super().__init__(model)
        start = model.config.decoder_start_token_id
        self.start_id: int = model.config.pad_token_id if start is None else start
        cast(nn.Module, model.get_output_embeddings()).register_forward_pre_hook(self._gather)

    def logits(self, encoder_BE: Tensor, seen_BE: Tensor, decoder_BD: Tensor, positions_BM: Tensor) -> Tensor:
        """Logits (N, V) for the tokens after the decoder positions `positions_BM`.

        Args:
            encoder_BE: int64 tokens.
            seen_BE: bool, True for tokens that the model may attend to.
            decoder_BD: int64 tokens; the first is `start_id`.
            positions_BM: int64 positions in the decoder.
        """
        inputs = {"input_ids": encoder_BE, "attention_mask": seen_BE.long(), "decoder_input_ids": decoder_BD}
        return self.logits_at(positions_BM, inputs | {"use_cache": False})

    def _gather(self, _module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.gathered(arguments[0]), *arguments[1:]
