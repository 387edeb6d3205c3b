"""What a model is given of a batch: ids, and what each token may attend to. Labels never come near it."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from fast_electra.data.batches import Batch

# Positions of these start after the padding id.
SHIFTED_POSITIONS = ("roberta", "camembert", "xlm-roberta")


def first_position(config: PreTrainedConfig) -> int:
    """The position id of a document's first token: 0, but in RoBERTa's family one after the padding id."""
    return (config.pad_token_id or 0) + 1 if config.model_type.startswith(SHIFTED_POSITIONS) else 0


def model_inputs(config: PreTrainedConfig, ids_BS: Tensor, batch: Batch, by_document: bool) -> dict[str, Any]:
    """Arguments of a Transformers encoder's forward pass.

    Args:
        config: the model's.
        ids_BS: int64 tokens; the batch's own, masked or corrupted.
        batch: the rows that they come from.
        by_document: tokens see their own document alone, with positions counted from its start.

    Returns:
        `input_ids`, and where needed `attention_mask` (document ids (B, 1, S), or padding (B, S)) and `position_ids`.
    """
    inputs: dict[str, Any] = {"input_ids": ids_BS}
    if by_document:
        inputs["attention_mask"] = batch.documents[:, None, :]
        inputs["position_ids"] = batch.positions + first_position(config)
    elif batch.padded:
        inputs["attention_mask"] = (~batch.padding).long()
    return inputs
