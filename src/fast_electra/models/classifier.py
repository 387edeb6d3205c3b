"""An encoder with a fresh head for fine-tuning, and an encoder without a head for probing.

Notable:
- any encoder that Transformers loads: a run, our exports, a masked language model, a bare encoder, a fine-tuned folder.
  Only the encoder's weights are used: the head is new, from the seed, even if a stored one would fit by its shape;
- heads are Transformers' `…ForSequenceClassification` and `…ForTokenClassification`. A pooler that the checkpoint does
  not have belongs to the head;
- in layer-wise decay the head is the top. The rate of the last layer is multiplied by decay¹, and that of the
  embeddings and of parameters that all layers share (relative positions of DeBERTa and MPNet) by decay^(layers + 1);
- tokens that do not occur in the task have no gradient, and embeddings have no weight decay, so fine-tuning would not
  change these rows. The table is therefore cut down to the rows that are read, and restored at the end. On short texts
  the table's gradient, clipping, AdamW and rounding were half of a step.

Shapes: V vocabulary, R rows that are read, d width of the embeddings.
"""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from fast_electra.data.tokenizer import load_tokenizer, vocabulary_size
from fast_electra.errors import ModelError
from fast_electra.models.attention import MATMUL_ATTENTION
from fast_electra.models.build import not_built, prepare_model, set_dropout
from fast_electra.models.export import longest_export, save_tokenizer, save_weights
from fast_electra.models.inputs import longest_row, positions_of
from fast_electra.models.layers import layer_stacks
from fast_electra.models.loading import read_checkpoint, refuse_missing, stored_config

Unit = Literal["sequence", "token"]
"""what has a label: a whole text, or each token"""

_HEADS: dict[Unit, Any] = {"sequence": AutoModelForSequenceClassification, "token": AutoModelForTokenClassification}
# Modules of an encoder after its last layer; all others outside the layers come before the first.
_BEHIND = re.compile(r"(pooler|final_norm|norm)\.")


def load_encoder(source: str | Path) -> PreTrainedModel:
    """Load the encoder of a folder or a hub name, without a head, in float32 and evaluation mode.

    Raises:
        ModelError: it is not a model, not in safetensors, or its weights are incomplete, NaN or infinite.
    """
    name = str(source)
    encoder, absent, _ = read_checkpoint(name, stored_config(name), AutoModel)
    _refuse_missing(source, encoder.config, absent)
    return encoder.eval()


def load_classifier(
    source: str | Path, unit: Unit, labels: Sequence[str], seed: int, dropout: float, untrained: bool = False
) -> PreTrainedModel:
    """Load an encoder with a new head, in float32 and training mode.

    Args:
        source: a folder or a hub name.
        unit: what has a label.
        labels: names of the classes in order; empty: one output, for a value.
        seed: seed of the head, or of all weights if `untrained`.
        dropout: rate for hidden states, attention and head, whatever the checkpoint was trained with.
        untrained: draw the encoder's weights too, for a baseline of the same shape.

    Raises:
        ModelError: as `load_encoder`, or the architecture has no such head.
    """
    name = str(source)
    config = stored_config(name)
    config.num_labels = max(1, len(labels))
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "single_label_classification" if labels else "regression"
    set_dropout(config, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = _HEADS[unit].from_config(config, dtype=torch.float32, attn_implementation=MATMUL_ATTENTION)
        except Exception as error:  # a wrong value can raise anything
            raise not_built(config, f"{unit} classification", error) from error
    if not untrained:
        encoder, absent, _ = read_checkpoint(name, copy.deepcopy(config), AutoModel)
        state = {key: value for key, value in encoder.state_dict().items() if key not in absent}
        _refuse_missing(source, config, set(model.base_model.load_state_dict(state, strict=False).missing_keys))
    return prepare_model(model).train()


def load_task_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model.

    Raises:
        DataError: there is none, or it has no pad, cls, sep or mask token.
        ModelError: it has more tokens than the model has embeddings.
    """
    name = str(source)
    tokenizer = load_tokenizer(name)
    config = stored_config(name)
    if vocabulary_size(tokenizer) > config.vocab_size:
        raise ModelError(
            f"{source} has embeddings for {config.vocab_size:,} tokens and a tokenizer of "
            f"{vocabulary_size(tokenizer):,}: save the tokenizer that it was trained with."
        )
    return tokenizer


def longest_text(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, most: int) -> int:
    """Tokens of the longest example, including special tokens: `most`, or less if model or tokenizer take less."""
    bounds = [most, longest_row(config), tokenizer.model_max_length]
    return min(bound for bound in bounds if bound is not None)


def use_padding(config: PreTrainedConfig, token: int) -> None:
    """Set the padding id in the configuration, for classes that classify a text by its last token (GPT-2, Llama).

    It is not changed for classes that count positions from the padding id, since it belongs to their weights.
    """
    if not positions_of(config).first:
        config.pad_token_id = token


def uses_segments(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether token types mark the second text of a pair: tokenizer and model must both have them."""
    return "token_type_ids" in tokenizer.model_input_names and (getattr(config, "type_vocab_size", None) or 0) > 1


def rate_factors(model: PreTrainedModel, decay: float) -> dict[str, float]:
    """The factors of layer-wise decay for the learning rates, by parameter name.

    The head, a pooler and a norm after the last layer have 1, layer i of n (from 0) decay^(n - i), all other parameters
    decay^(n + 1). If all layers share their weights (ALBERT), the whole encoder has the factor decay.
    """
    stacks = layer_stacks(model)
    layers = max((len(stack) for stack in stacks), default=0)
    inside = {
        id(parameter): layers - number
        for stack in stacks
        for number, layer in enumerate(stack)
        for parameter in layer.parameters()
    }
    prefix = model.base_model_prefix + "."
    factors = {}
    for name, parameter in model.named_parameters():
        is_head = not name.startswith(prefix) or _BEHIND.match(name, len(prefix)) is not None
        factors[name] = decay ** inside.get(id(parameter), 0 if is_head else layers + 1)
    return factors


class ReadRows(nn.Module):
    """Token embeddings cut down to the rows that are read; the same ids give the same vectors."""

    def __init__(self, table: nn.Embedding, tokens: Tensor):
        """Copy rows of a table.

        Args:
            table: (V, d); kept for `whole`, but not a module of the model.
            tokens: (R,) int64, all ids that will be read, each once.
        """
        super().__init__()
        self._table = (table,)  # in a tuple, so that Module does not register it
        self._tokens = tokens
        row_of = torch.zeros(table.num_embeddings, dtype=torch.int64, device=table.weight.device)
        row_of[tokens] = torch.arange(len(tokens), device=row_of.device)
        self.register_buffer("row_of", row_of, persistent=False)
        self.weight = nn.Parameter(table.weight.detach()[tokens])
        padding = table.padding_idx
        self.padding_idx = None if padding is None or padding not in tokens else int(row_of[padding])

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (..., d) of `ids` (...)."""
        return nn.functional.embedding(cast(Tensor, self.row_of)[ids], self.weight, self.padding_idx)

    @torch.no_grad()
    def whole(self) -> nn.Embedding:
        """The whole table (V, d) with the current rows, on their device and in their type."""
        table = self._table[0].to(device=self.weight.device, dtype=self.weight.dtype)
        table.weight[self._tokens.to(table.weight.device)] = self.weight
        return table


def cut_table(model: PreTrainedModel, tokens: Tensor) -> None:
    """Cut a model's token embeddings down to the ids (R,) int64 that will be read, in place."""
    model.set_input_embeddings(ReadRows(cast(nn.Embedding, model.get_input_embeddings()), tokens))


def save_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a fine-tuned model in float32 for `AutoModel…` and `pipeline`; its whole table is restored in place."""
    embeddings = model.get_input_embeddings()
    if isinstance(embeddings, ReadRows):
        model.set_input_embeddings(embeddings.whole())
    save_weights(model, folder)
    save_tokenizer(tokenizer, folder, longest_export(model.config, tokenizer))


def output_layer(model: PreTrainedModel) -> nn.Linear:
    """The last layer of the head; its outputs are the logits or the value."""
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels]
    return linear[-1]


def _refuse_missing(source: str | Path, config: PreTrainedConfig, absent: set[str]) -> None:
    refuse_missing(source, config, sorted(key for key in absent if not key.startswith("pooler.")))
