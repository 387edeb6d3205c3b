"""Probing: how well a linear model predicts the labels of a task from the features of a frozen encoder, in seconds.

Notable:
- features are the mean of the last hidden states over the tokens of an example (two texts are encoded together), or the
  last hidden state at the first token of a word. They are standardised, and scikit-learn's logistic or ridge regression
  is fitted to them;
- the same for each layer shows which layer has which information. For pairs with numbers, the cosine of their mean
  hidden states needs no training;
- it is cheap enough for pre-training: at most 2,000 training and 2,000 dev examples, always the same ones.

Shapes: B examples, S positions, W words, N examples or words in total, d width of the hidden states.
"""

import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from fast_electra.data.files import canonical_digest
from fast_electra.evaluation.cells import CellRecord
from fast_electra.evaluation.encoding import EncodedSplit, Padding, collate, encode, encode_task, padding_for
from fast_electra.evaluation.fine_tuning import unseen_class
from fast_electra.evaluation.results import Scores
from fast_electra.evaluation.scores import score_splits
from fast_electra.evaluation.subject import Subject
from fast_electra.evaluation.tasks import Split, Task, sample
from fast_electra.evaluation.token_scores import batches_by_length
from fast_electra.models.classifier import (
    load_classifier,
    load_encoder,
    load_task_tokenizer,
    longest_text,
    uses_segments,
)
from fast_electra.models.layers import cast_weights
from fast_electra.training.precision import Execution, apply_threads

TRAIN_EXAMPLES = 2_000
DEV_EXAMPLES = 2_000
_LONGEST = 128
_TOGETHER = 64
# Of standardised features: without strong regularization the model memorises a few thousand examples.
_LOGISTIC_STRENGTH = 0.003
_RIDGE_STRENGTH = 1_000.0


def probe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    *,
    train_examples: int = TRAIN_EXAMPLES,
    dev_examples: int = DEV_EXAMPLES,
) -> Scores:
    """Fit a linear model on a frozen encoder's features, and score it.

    Args:
        model: with any head or none (`models.classifier.load_encoder`); its weights, device and mode are not changed.
        tokenizer: of the model (`models.classifier.load_task_tokenizer`).
        task: its training examples are fitted, and its dev splits are scored.
        train_examples: maximum number, always the same examples.
        dev_examples: maximum number of each dev split, always the same examples.

    Returns:
        {dev split: {metric: value}}; the same input gives the same values.
    """
    return _probe(model, tokenizer, probed(task, train_examples, dev_examples), every_layer=False)[-1]


def probe_layers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, task: Task) -> list[Scores]:
    """Return `probe` of the embeddings and of the output of each layer; the last one is after a final norm, if any."""
    return _probe(model, tokenizer, probed(task), every_layer=True)


def _probe(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, task: Task, *, every_layer: bool
) -> list[Scores]:
    longest = longest_text(model.config, tokenizer, _LONGEST)
    encoded = encode_task(task, tokenizer, longest, uses_segments(model.config, tokenizer))
    padding = padding_for(tokenizer, longest, model.device)
    known = encoded.train.words >= 0 if task.kind == "tokens" else slice(None)
    labels_N = encoded.train.labels[known]
    dev = {name: _features(model, split, padding, every_layer) for name, split in encoded.dev.items()}
    found: list[Scores] = []
    for layer, train_Nd in enumerate(_features(model, encoded.train, padding, every_layer)):
        if task.kind == "regression":
            linear = Ridge(_RIDGE_STRENGTH)
        elif len(np.unique(labels_N)) == 1:  # a few examples may have only one class
            linear = DummyClassifier()
        else:
            linear = LogisticRegression(C=_LOGISTIC_STRENGTH, max_iter=1_000)
        fitted = make_pipeline(StandardScaler(), linear).fit(train_Nd[known], labels_N)
        predictions: dict[str, list[Any]] = {}
        for name, split in encoded.dev.items():
            answers = fitted.predict(dev[name][layer])
            if task.kind == "tokens":
                answers = np.where(split.words >= 0, answers, unseen_class(task))
                predictions[name] = [words.tolist() for words in np.split(answers, split.word_starts[1:-1])]
            else:
                predictions[name] = answers.tolist()
        found.append(score_splits(task, predictions))
    return found


def similarity_layers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, task: Task) -> list[Scores]:
    """Score the cosine of the mean hidden states of two texts against the number of the pair, without training.

    Each text is encoded separately.

    Returns:
        scores of the embeddings and of each layer, as in `probe_layers`; [] if the task has no pairs with numbers.
    """
    task = probed(task)
    if task.kind != "regression" or len(task.train.texts[0]) != 2:
        return []
    longest = longest_text(model.config, tokenizer, _LONGEST)
    padding = padding_for(tokenizer, longest, model.device)
    by_layer: list[dict[str, list[float]]] = []
    for name, split in task.dev.items():
        sides = []
        for side in zip(*split.texts, strict=True):
            encoded = encode(Split([(text,) for text in side], []), "regression", tokenizer, longest)
            sides.append(_features(model, encoded, padding, every_layer=True))
        by_layer = by_layer or [{} for _ in sides[0]]
        for layer, (first_Nd, second_Nd) in enumerate(zip(*sides, strict=True)):
            norms_N = np.linalg.norm(first_Nd, axis=1) * np.linalg.norm(second_Nd, axis=1)
            by_layer[layer][name] = ((first_Nd * second_Nd).sum(1) / np.maximum(norms_N, 1e-12)).tolist()
    return [score_splits(task, cosines) for cosines in by_layer]


def probed(task: Task, train_examples: int = TRAIN_EXAMPLES, dev_examples: int = DEV_EXAMPLES) -> Task:
    """Return the task with the examples that a probe uses."""
    return replace(
        task,
        train=sample(task.train, train_examples),
        dev={name: sample(split, dev_examples) for name, split in task.dev.items()},
        test={},
        digest=canonical_digest([task.digest, train_examples, dev_examples]),
    )


@torch.no_grad()  # not inference mode: a tensor that a module keeps from it could never be trained through
def _features(
    model: PreTrainedModel, encoded: EncodedSplit, padding: Padding, every_layer: bool
) -> list[NDArray[np.float32]]:
    """Mean hidden states (N, d) of examples, or hidden states of the first tokens of words, for each layer in order."""
    encoder = cast(nn.Module, model.base_model)
    units = encoded.word_starts if len(encoded.words) else np.arange(len(encoded.lengths) + 1)
    layers: list[NDArray[np.float32]] = []
    for chosen in batches_by_length(encoded.lengths, _TOGETHER):
        batch = collate(encoded, chosen, padding).to(model.device)
        outputs = encoder(**batch.inputs(), output_hidden_states=every_layer)
        states = (
            [*outputs.hidden_states[:-1], outputs.last_hidden_state] if every_layer else [outputs.last_hidden_state]
        )
        layers = layers or [np.zeros((int(units[-1]), state.shape[2]), dtype=np.float32) for state in states]
        for features, state_BSd in zip(layers, states, strict=True):
            hidden_BSd = state_BSd.float()
            if batch.words_BW is not None:
                index_BWd = batch.words_BW[:, :, None].expand(-1, -1, hidden_BSd.shape[2])
                found = hidden_BSd.gather(1, index_BWd).cpu().numpy()
            else:
                found = _mean(hidden_BSd, batch.attention_BS).cpu().numpy()
            for row, example in enumerate(chosen):
                first, last = units[example], units[example + 1]
                features[first:last] = found[row, : last - first] if len(encoded.words) else found[row]
    return layers


def _mean(hidden_BSd: Tensor, attention_BS: Tensor) -> Tensor:
    """Mean over tokens without padding, (B, d)."""
    weights_BS1 = attention_BS[:, :, None].to(hidden_BSd.dtype)
    return (hidden_BSd * weights_BS1).sum(1) / weights_BS1.sum(1)


def probe_record(subject: Subject, task: Task, seed: int, untrained: bool, execution: Execution) -> CellRecord:
    """The record of a frozen encoder under a linear model."""
    began = time.perf_counter()
    apply_threads(execution)
    if untrained:
        model = load_classifier(subject.source, "sequence", task.labels, seed, 0.0, untrained=True).eval()
    else:
        model = load_encoder(subject.source)
    model.to(execution.device)  # type: ignore[arg-type]
    cast_weights(model, execution.weights_dtype)
    tokenizer = load_task_tokenizer(subject.source)
    with execution.autocast():
        layers, similarity = probe_layers(model, tokenizer, task), similarity_layers(model, tokenizer, task)
    return {
        "task": task.name,
        "untrained": untrained,
        "seed": seed,
        "scores": layers[-1],
        "layers": layers,
        "similarity": similarity,
        "predictions": {},
        "test_predictions": {},
        "truncated": {},
        "failed": None,
        "degenerate": [],
        "execution": execution.record(),
        "timing": {"seconds": time.perf_counter() - began},
        "versions": {name: version(name) for name in ("fast-electra", "torch", "transformers", "scikit-learn")},
    }
