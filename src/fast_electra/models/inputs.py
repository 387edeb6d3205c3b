"""What a model is given of a batch: ids, and what each token may attend to. Labels never come near it.

Notable: whether documents really stay apart is measured on the model itself, once, when it is wrapped; a class that
lets them mix by a way of its own (a convolution, say) is refused instead of trusted.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from fast_electra.data.batches import Batch
from fast_electra.errors import ConfigError

# Positions of these start after the padding id; MPNet's after 1, whatever its padding id is.
SHIFTED_POSITIONS = ("roberta", "camembert", "xlm-roberta")


def first_position(config: PreTrainedConfig) -> int:
    """The position id of a document's first token: 0, but in RoBERTa's family one after the padding id."""
    if config.model_type == "mpnet":
        return 2
    return (config.pad_token_id or 0) + 1 if config.model_type.startswith(SHIFTED_POSITIONS) else 0


def longest_row(config: PreTrainedConfig) -> int | None:
    """Tokens that a model takes; None where its configuration sets no bound."""
    positions = getattr(config, "max_position_embeddings", None)
    return None if positions is None else positions - first_position(config)


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


@torch.no_grad()
def refuse_leaks(model: PreTrainedModel) -> None:
    """Check that no token sees another document of its row: two short documents, one of them changed.

    Raises:
        ConfigError: one does, or the class doesn't take document ids and positions.
    """
    ids_BS = torch.arange(1, 9, device=model.device)[None, :] % model.config.vocab_size
    documents_BS = torch.tensor([[0] * 4 + [1] * 4], device=model.device)
    positions_BS = torch.arange(4, device=model.device).repeat(2)[None, :] + first_position(model.config)
    changed_BS = torch.cat((ids_BS[:, :4].flip(1), ids_BS[:, 4:]), 1)
    training = model.training
    model.eval()
    try:
        before, after = (
            model.base_model(
                input_ids=ids, attention_mask=documents_BS[:, None, :], position_ids=positions_BS
            ).last_hidden_state[:, 4:]
            for ids in (ids_BS, changed_BS)
        )
        found = None if torch.equal(before, after) else "its tokens see other documents of their row"
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        found = f"its class refuses: {' '.join(str(error).split())[:120]}"
    finally:
        model.train(training)
    if found:
        raise ConfigError(
            f"data.attention=document is not possible with this {model.config.model_type} ({found}): "
            "use data.attention=packed, or another architecture."
        )
