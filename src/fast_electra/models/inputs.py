"""The inputs of a model's forward pass: ids, positions and what each token may attend to, never labels.

Notable:
- whether documents stay apart is measured on the model, once, when it is wrapped. A class that mixes them in its own
  way (for example by a convolution) is refused;
- the first position id of a class is measured too, on one layer of it: RoBERTa, ESM, Longformer and data2vec start
  after the padding id, MPNet and Nyströmformer at 2, and a list of names would never be complete.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from fast_electra.data.batches import Batch
from fast_electra.errors import ConfigError
from fast_electra.models.attention import takes_starts
from fast_electra.models.layers import keep_layers

_PROBED = 8
"""number of tokens that a class is measured on"""


@dataclass(frozen=True)
class Positions:
    """How a class counts positions."""

    first: int = 0
    """the value of `position_ids` for a document's first token"""
    spent: int = 0
    """how many of `max_position_embeddings` no token can use"""
    table: bool = False
    """whether there is a table of positions, which limits the length; otherwise they are rotary or relative"""


_positions: dict[tuple[Any, ...], Positions] = {}


def positions_of(config: PreTrainedConfig) -> Positions:
    """How the class of a configuration counts positions; measured once and remembered."""
    scalars = ((k, v) for k, v in vars(config).items() if v is None or isinstance(v, bool | int | float | str))
    key = (type(config), *scalars)
    if key not in _positions:
        _positions[key] = _measure(config)
    return _positions[key]


def longest_row(config: PreTrainedConfig) -> int | None:
    """Largest number of tokens that a model takes; None if its configuration sets no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 1:  # XLNet says -1
        return None
    return positions - positions_of(config).spent


@torch.no_grad()
def _measure(config: PreTrainedConfig) -> Positions:
    """Measure the positions of a class by what one fresh layer of it looks up in its table."""
    small = copy.deepcopy(config)
    try:
        keep_layers(small, 1)
        named = [v for name, v in vars(config).items() if name.endswith("_token_id") and isinstance(v, int)]
        small.vocab_size = max(named, default=0) + 2
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            model = AutoModel.from_config(small).eval()
            ids_BS = torch.full((1, _PROBED), small.vocab_size - 1)  # no special token
            with _Lookup() as alone:
                model(input_ids=ids_BS)
            if alone.found is None:
                return Positions()
            first, rows = alone.found
            spent = first - (rows - small.max_position_embeddings)
            try:
                with _Lookup() as given:
                    model(input_ids=ids_BS, position_ids=torch.arange(_PROBED)[None])
            except TypeError:  # it takes none
                return Positions(0, spent, table=True)
            return Positions(first - given.found[0] if given.found else 0, spent, table=True)
    except Exception:  # a class that needs more than tokens has its own error later
        return Positions()


class _Lookup(TorchFunctionMode):
    """Within the block, records the first lookup of consecutive numbers, as positions are."""

    def __init__(self) -> None:
        super().__init__()
        self.found: tuple[int, int] | None = None
        """the first of the numbers, and the number of rows of the table"""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look only at embeddings."""
        if func is nn.functional.embedding and self.found is None:
            ids, table = args[:2]
            row = ids.flatten()[:_PROBED]
            if ids.shape[-1] >= _PROBED and torch.equal(row, row[0] + torch.arange(_PROBED)):
                self.found = int(row[0]), len(table)
        return func(*args, **(kwargs or {}))


def model_inputs(config: PreTrainedConfig, ids_BS: Tensor, batch: Batch, by_document: bool) -> dict[str, Any]:
    """Arguments of a Transformers encoder's forward pass.

    Args:
        config: configuration of the model.
        ids_BS: int64 tokens: those of the batch, masked or corrupted.
        batch: the rows that they come from.
        by_document: tokens attend only to their own document, and positions start at its beginning.

    Returns:
        `input_ids`, and if needed `attention_mask` (document ids (B, 1, S), or padding (B, S)) and `position_ids`.
    """
    inputs: dict[str, Any] = {"input_ids": ids_BS}
    if by_document:
        inputs["attention_mask"] = batch.documents[:, None, :]
        inputs["position_ids"] = batch.positions + positions_of(config).first
    elif batch.padded:
        inputs["attention_mask"] = (~batch.padding).long()
    return inputs


def encoder_inputs(model: PreTrainedModel, ids_BS: Tensor, batch: Batch, by_document: bool) -> dict[str, Any]:
    """`model_inputs` of an encoder, with starts in place of a mask where the flash kernel can use them.

    Then `attention_mask` is (N + 1,) int32: where documents start in the rows one after another. With `by_document`, N
    is `batch.most_documents`; documents that do not exist are empty and at the end. Without it each row is one
    document; this is for models with sliding windows.
    """
    inputs = model_inputs(model.config, ids_BS, batch, by_document)
    rows, length = ids_BS.shape
    if not takes_starts(model):
        return inputs
    if by_document and (most := batch.most_documents) is not None:
        begins_BS = torch.ones_like(batch.documents)
        begins_BS[:, 1:] = batch.documents[:, 1:] != batch.documents[:, :-1]
        numbers = torch.arange(1, most + 2, device=ids_BS.device)
        starts = torch.searchsorted(begins_BS.flatten().cumsum(0), numbers, out_int32=True)
        if dynamo := sys.modules.get("torch._dynamo"):  # otherwise nothing is compiled
            dynamo.maybe_mark_dynamic(starts, 0)  # one compilation serves every N
        inputs["attention_mask"] = starts
    elif not by_document and not batch.padded and getattr(model.config, "sliding_window", None):
        ends = (rows + 1) * length
        inputs["attention_mask"] = torch.arange(0, ends, length, dtype=torch.int32, device=ids_BS.device)
    return inputs


@torch.no_grad()
def refuse_leaks(model: PreTrainedModel) -> None:
    """Check that no token sees another document of its row, by changing one of two short documents.

    Raises:
        ConfigError: a token does, or the class does not take document ids and positions.
    """
    ids_BS = torch.arange(1, 9)[None, :] % model.config.vocab_size
    batch = Batch.of(ids_BS, torch.zeros_like(ids_BS, dtype=torch.bool))
    halves = {"documents": batch.positions // 4, "positions": batch.positions % 4}
    batch = replace(batch, **halves, documents_in_rows=torch.tensor([2])).to(model.device)
    changed_BS = torch.cat((batch.ids[:, :4].flip(1), batch.ids[:, 4:]), 1)
    training = model.training
    model.eval()
    try:
        model.base_model(input_ids=batch.ids)  # an error here is not about documents
    except BaseException:
        model.train(training)
        raise
    try:
        before, after = (
            model.base_model(**encoder_inputs(model, ids, batch, by_document=True)).last_hidden_state[:, 4:]
            for ids in (batch.ids, changed_BS)
        )
        found = None if torch.equal(before, after) else "its tokens see other documents of their row"
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        found = f"its class refuses: {' '.join(str(error).split())[:120]}"
    finally:
        model.train(training)
    if found:
        raise ConfigError(
            f"data.attention=document is not possible with this {model.config.model_type} ({found}): "
            "use data.attention=packed, or another architecture."
        )
