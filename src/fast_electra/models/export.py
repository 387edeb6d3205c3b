"""Writing a folder that `AutoModel.from_pretrained` and `pipeline("token-classification")` load without this package.

Notable:
- ELECTRA keeps its own class; any other main model, trained with one logit, becomes a token classifier with two labels
  whose row "original" is zero: softmax over (0, z) is the sigmoid of z, exactly;
- embeddings that are a base and a difference become one table;
- the folder appears by rename, complete or not at all.
"""

import copy
import json
import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForTokenClassification,
    ElectraForPreTraining,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fast_electra.models.sharing import fold

LABELS = {0: "original", 1: "replaced"}


def export_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str) -> None:
    """Write model, tokenizer and model card to `folder`, replacing what was there.

    Args:
        model: a masked language model, or a main model with one RTD logit; not changed.
        tokenizer: saved beside the weights.
        folder: appears by rename.
        card: text of README.md.
    """
    staged = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staged, ignore_errors=True)
    write_model(model, tokenizer, staged, card)
    if folder.exists():
        shutil.rmtree(folder)
    staged.rename(folder)


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: str) -> None:
    """As `export_model`, into a folder that the caller stages."""
    _with_two_labels(fold(model)).save_pretrained(folder)
    _drop_private_keys(folder / "config.json")
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _with_two_labels(model: PreTrainedModel) -> PreTrainedModel:
    if isinstance(model, ElectraForPreTraining):
        exported = copy.deepcopy(model).float()
        exported.config.id2label = dict(LABELS)
        exported.config.label2id = {label: index for index, label in LABELS.items()}
        return exported
    if getattr(model.config, "num_labels", 2) != 1 or not hasattr(model, "classifier"):
        return copy.deepcopy(model).float()
    config = copy.deepcopy(model.config)
    config.num_labels = 2
    config.id2label = dict(LABELS)
    config.label2id = {label: index for index, label in LABELS.items()}
    exported = AutoModelForTokenClassification.from_config(config)
    state = {name: value.float() for name, value in model.state_dict().items()}
    classifier = model.classifier
    assert isinstance(classifier, nn.Linear)
    for name in ("weight", "bias"):
        row = state.get(f"classifier.{name}")
        if row is not None:
            state[f"classifier.{name}"] = torch.cat((torch.zeros_like(row), row))
    exported.load_state_dict(state)
    return exported


def _drop_private_keys(config_file: Path) -> None:
    """Keys that name our registered attention mean nothing to a process without this package."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    cleaned = {key: value for key, value in config.items() if not key.startswith("_attn")}
    config_file.write_text(json.dumps(cleaned, indent=2, sort_keys=True) + "\n", encoding="utf-8")
