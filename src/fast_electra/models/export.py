"""Writes a folder that `AutoModel.from_pretrained` and `pipeline("token-classification")` load without this package.

Notable:
- ELECTRA keeps its class, whose head no pipeline loads, so its outputs have no names;
- any other main model is trained with one logit z. It becomes a token classifier with two labels, whose row for
  "original" is zero: softmax over (0, z) is exactly the sigmoid of z;
- the tokenizer's `model_max_length` is the length that the model takes;
- embeddings that consist of a base and a difference become one table;
- the folder appears by rename, complete or not at all, and is sealed (`data.seals`).
"""

import copy
import json
from pathlib import Path

import torch
from transformers import (
    AutoModelForTokenClassification,
    ElectraForPreTraining,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fast_electra.data.files import staged_folder
from fast_electra.data.seals import seal_model
from fast_electra.models.inputs import longest_row
from fast_electra.models.sharing import fold

LABELS = {0: "original", 1: "replaced"}


def export_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str, length: int | None = None
) -> None:
    """Write model, tokenizer and model card to `folder`, replacing what was there.

    Args:
        model: a masked language model, or a main model with one RTD logit; not changed.
        tokenizer: saved with the weights.
        folder: appears by rename.
        card: text of README.md.
        length: tokens of the longest text, for `model_max_length`; None: from `longest_export`.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    with staged_folder(folder, replace=True) as staged:
        write_model(model, tokenizer, staged, card, length)


def longest_export(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest text that both a model and its tokenizer take."""
    return min(tokenizer.model_max_length, longest_row(config) or tokenizer.model_max_length)


def write_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str, length: int | None = None
) -> None:
    """Write the same files as `export_model` to a folder that the caller stages."""
    save_weights(_with_two_labels(fold(model)), folder)
    save_tokenizer(tokenizer, folder, length or longest_export(model.config, tokenizer))
    (folder / "README.md").write_text(card, encoding="utf-8")
    seal_model(folder)


def save_weights(model: PreTrainedModel, folder: Path) -> None:
    """Write a model's weights and configuration, on whichever process of several calls this.

    The name of our attention is left out of `config.json`: a process without this package lacks it.
    """
    model.should_save_on_this_rank = lambda is_main_process: True  # Transformers writes on rank 0 only
    try:
        model.save_pretrained(folder)
    finally:
        del model.should_save_on_this_rank
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    cleaned = {key: value for key, value in config.items() if not key.startswith("_attn")}
    file.write_text(json.dumps(cleaned, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, length: int) -> None:
    """Save a tokenizer that cuts texts at `length` tokens; the tokenizer in memory does not change."""
    before = tokenizer.model_max_length
    tokenizer.model_max_length = length
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = before


def _with_two_labels(model: PreTrainedModel) -> PreTrainedModel:
    if isinstance(model, ElectraForPreTraining):
        exported = copy.deepcopy(model).float()
        exported.config.num_labels = 2  # the default of the class, whose names have no meaning
        return exported
    if model.config.num_labels != 1 or not type(model).__name__.endswith("ForTokenClassification"):
        return copy.deepcopy(model).float()
    config = copy.deepcopy(model.config)
    config.num_labels = 2
    config.id2label = dict(LABELS)
    config.label2id = {label: index for index, label in LABELS.items()}
    exported = AutoModelForTokenClassification.from_config(config)
    state = {name: value.float() for name, value in model.state_dict().items()}
    for name, wanted in exported.state_dict().items():
        if wanted.shape != state[name].shape:  # the output layer, whatever it is called
            state[name] = torch.cat((torch.zeros_like(state[name]), state[name]))
    exported.load_state_dict(state)
    return exported
