"""Measures of a model's hidden states, attention, feed-forward units, weights and logits on a few rows.

Notable:
- a loss can fall while the model degrades inside: layers whose output is far larger than the embeddings, tokens with
  almost equal vectors, attention on single tokens, feed-forward units that are always near zero.
  `diagnosis.internal_checks` has the normal ranges;
- everything is a pure function of weights and rows, in evaluation mode: a resumed run writes the same numbers;
- the cost is below 1 % of a run: a forward pass over about a thousand tokens, at validations and 20 more times;
- it works for any model class: layers are found by the structure of the modules, not by the name of the class, and the
  last linear map of a layer belongs to its feed-forward part.

In a script, call `measure_folder(folder, ids_BS)` or `measure(model, Batch.of(ids_BS, padding_BS))`.

Shapes: B sequences, S positions, H heads, d width, U feed-forward units, V vocabulary, N tokens.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from fast_electra.data.batches import Batch
from fast_electra.models.attention import watching_attention
from fast_electra.models.classifier import load_encoder
from fast_electra.models.export import LABELS
from fast_electra.models.inputs import model_inputs
from fast_electra.models.layers import layer_modules
from fast_electra.models.loading import load_model, stored_config
from fast_electra.models.rtd import replaced_logits
from fast_electra.runs.metrics import Record
from fast_electra.runs.models import resolve_model
from fast_electra.training.precision import Execution
from fast_electra.training.telemetry import QuietObserver

Figures = dict[str, Any]
"""numbers by name, as `measure` returns them; a figure of each layer is a dict by the layer's number"""

_TOKENS = 1024  # largest number of tokens to measure on
_LOGIT_STEP = 8  # logits are computed at every eighth position, because a vocabulary head costs more than small layers
_SILENT = 0.01  # a unit is dead if its rms is below this share of its layer's rms
_LOOKS = 20  # measurements per run, besides those at validations


def measure(
    model: PreTrainedModel, batch: Batch, by_document: bool = False, start: Mapping[str, float] | None = None
) -> Figures:
    """Measure a model on some rows. The model's mode and gradients do not change.

    Args:
        model: any encoder of Transformers, with a masked language model's head, an RTD head or no head.
        batch: uncorrupted rows of text; the first rows are used, up to about a thousand tokens.
        by_document: tokens attend only to their own document.
        start: `weight_figures` of the model that training started with, on the same rows.

    Returns:
        `hidden_rms`: the median over tokens of the hidden state's root mean square: `embedding` is the first layer's
            input (after norm and projection), `1`, `2`, … are the layers' outputs (before a final norm);
        `hidden_ratio`: the largest `hidden_rms` of a layer over that of `embedding`, or over 1 if that is larger;
        `attention_entropy` of each layer: mean over tokens and heads, relative to the entropy of uniform attention over
            all visible tokens; missing for classes with their own attention code (MPNet, DeBERTa);
        `dead_units` of each layer: share of feed-forward units that are near zero on these rows;
        `logits_rms` and `logits_largest`: of logits over a vocabulary their mean is subtracted first; missing without
            a head;
        the figures of `weight_figures`, and `start` if it is given.
    """
    batch = _few(batch).to(model.device)
    inputs = model_inputs(model.config, batch.ids, batch, by_document)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), _watching(model, ~batch.padding) as found:
            output = model(**inputs)
    finally:
        model.train(training)
    logits = getattr(output, "logits", None)
    layers = [rms for name, rms in found["hidden_rms"].items() if name != "embedding"]
    if layers:  # at least 1, the scale of a norm's output, even if the embeddings are smaller
        found["hidden_ratio"] = max(layers) / max(found["hidden_rms"]["embedding"], 1.0)
    figures = found | ({} if logits is None else _logit_figures(logits, ~batch.padding))
    figures |= weight_figures(model, batch)
    return figures | ({"start": dict(start)} if start else {})


def measure_folder(folder: str | Path, ids_BS: Tensor) -> Figures:
    """`measure` of a model on disk: a run, a folder that Transformers can load, or a hub name.

    Args:
        folder: holds a masked language model, an RTD model of this program, or another encoder (then without logits).
        ids_BS: (B, S) int64, token ids of the model's tokenizer; shorter rows end with the padding token.

    Raises:
        ModelError: there is no such model.
    """
    source = resolve_model(folder)
    config = stored_config(source)
    kind = (getattr(config, "architectures", None) or [""])[0]
    if kind.endswith("ForMaskedLM"):
        model = load_model(source, "mlm")
    elif kind == "ElectraForPreTraining" or dict(config.id2label or {}) == LABELS:
        model = load_model(source, "rtd")
    else:
        model = load_encoder(source)
    return measure(model, Batch.of(ids_BS, ids_BS == config.pad_token_id))


@torch.no_grad()
def weight_figures(model: PreTrainedModel, batch: Batch) -> dict[str, float]:
    """The figures of `measure` that depend on the weights only.

    Returns:
        `layer_weights_rms` and `token_table_rms`: root mean square of the layers' matrices and of the token table;
        `token_table_rank`: `effective_rank` of the embeddings of the rows' tokens.
    """
    matrices = {id(p): p for layer in layer_modules(model) for p in layer.parameters() if p.ndim >= 2}.values()
    squares = sum(float(p.float().square().sum()) for p in matrices)
    table = cast(nn.Embedding, model.get_input_embeddings())
    batch = _few(batch)
    return {
        "layer_weights_rms": math.sqrt(squares / max(1, sum(p.numel() for p in matrices))),
        "token_table_rms": _rms(table.weight.float()),
        "token_table_rank": effective_rank(table(batch.ids[~batch.padding].to(model.device))),
    }


def effective_rank(vectors_Nd: Tensor) -> float:
    """The participation ratio of centred vectors: 1 if they lie on a line, d if they vary equally in all directions.

    It is (sum λ)² / sum λ² over the eigenvalues λ of the covariance, computed from the covariance's trace and squared
    norm. The mean is subtracted because a vector that all tokens share does not distinguish them. Callers pass one
    vector per token of a text, not one per row of the table, because most rows belong to rare tokens.
    """
    centred_Nd = vectors_Nd.float() - vectors_Nd.float().mean(0)
    covariance_dd = centred_Nd.mT @ centred_Nd
    return float(covariance_dd.trace().square() / covariance_dd.square().sum().clamp(min=1e-30))


class InternalsObserver(QuietObserver):
    """Adds `internals`, the figures of each trained model by name, to records: at validations and 20 more times.

    It must come before the observers that write the record.
    """

    def __init__(
        self, models: Mapping[str, nn.Module], batch: Batch, by_document: bool, log_every: int, execution: Execution
    ):
        """Measure the models' weights at the start of training.

        Args:
            models: the trained models with their initial weights; a checkpoint is loaded only later.
            batch: validation rows.
            by_document: tokens attend only to their own document.
            log_every: number of updates between records.
            execution: device and precision.
        """
        self._models = {name: cast(PreTrainedModel, model) for name, model in models.items()}
        self._batch = _few(batch)
        self._start = {name: weight_figures(model, self._batch) for name, model in self._models.items()}
        self._by_document = by_document
        self._log_every = log_every
        self._execution = execution
        self._updates = 1

    def started(self, update: int, updates: int) -> None:
        """Store the run's number of updates."""
        self._updates = updates

    def logged(self, record: Record) -> None:
        """Measure at a validation, and when another twentieth of the run is done since the previous record."""
        after, before = record["update"], max(0, record["update"] - self._log_every)
        if "validation" not in record and after * _LOOKS // self._updates == before * _LOOKS // self._updates:
            return
        with self._execution.autocast():
            record["internals"] = {
                name: measure(model, self._batch, self._by_document, self._start[name])
                for name, model in self._models.items()
            }


def _few(batch: Batch) -> Batch:
    """The first rows, up to about a thousand tokens, or the start of one longer row: attention weights need memory."""
    few = batch.split(max(1, _TOKENS // batch.ids.shape[1]))[0]
    cut = ("ids", "documents", "positions", "eligible", "padding")
    return replace(few, **{name: getattr(few, name)[:, :_TOKENS] for name in cut})


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


@contextmanager
def _watching(model: PreTrainedModel, real_BS: Tensor) -> Iterator[Figures]:
    """Context in which a forward pass fills the figures of layers, and the head computes every eighth position."""
    found: Figures = {"hidden_rms": {}, "attention_entropy": {}, "dead_units": {}}
    units: list[Tensor] = []
    done = 0

    def middle_rms(hidden_BSd: Tensor) -> float:
        return float(hidden_BSd[_as_wide(real_BS, hidden_BSd.shape[1])].float().square().mean(-1).sqrt().median())

    def before(_layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not done:
            found["hidden_rms"]["embedding"] = middle_rms(arguments[0] if arguments else keywords["hidden_states"])

    def linear(_linear: nn.Module, arguments: tuple[Any, ...]) -> None:
        units[:] = [arguments[0]]  # the layer's last linear map overwrites the earlier ones

    def after(_layer: nn.Module, _arguments: Any, output: Any) -> None:
        nonlocal done
        done += 1
        found["hidden_rms"][str(done)] = middle_rms(output if isinstance(output, Tensor) else output[0])
        if units:
            found["dead_units"][str(done)] = _silent_share(units.pop(), real_BS)

    def attended(weights_BHSS: Tensor, mask: Tensor | None) -> None:
        found["attention_entropy"][str(done + 1)] = _attention_entropy(weights_BHSS, mask, real_BS)

    def shortened(_model: nn.Module, _arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, ::_LOGIT_STEP]
        return output

    hooks = []
    for layer in layer_modules(model):
        hooks += [layer.register_forward_pre_hook(before, with_kwargs=True), layer.register_forward_hook(after)]
        hooks += [m.register_forward_pre_hook(linear) for m in layer.modules() if isinstance(m, nn.Linear)]
    if model.base_model is not model:
        hooks.append(cast(nn.Module, model.base_model).register_forward_hook(shortened))
    try:
        with watching_attention(attended):
            yield found
    finally:
        for hook in hooks:
            hook.remove()


def _as_wide(real_BS: Tensor, width: int) -> Tensor:
    """The mask of real tokens, padded to `width`: inside Longformer, rows are padded to its window."""
    return nn.functional.pad(real_BS, (0, width - real_BS.shape[1]))


def _silent_share(units: Tensor, real_BS: Tensor) -> float:
    """Share of the feed-forward units (B, S, U) or (B · S, U) whose rms is below a hundredth of all units' rms."""
    units = units.reshape(len(real_BS), -1, units.shape[-1])
    units_NU = units[_as_wide(real_BS, units.shape[1])].float()
    power_U = units_NU.square().mean(0)
    return float((power_U < _SILENT**2 * power_U.mean()).float().mean())


def _attention_entropy(weights_BHSS: Tensor, mask: Tensor | None, real_BS: Tensor) -> float:
    """Mean over real tokens of entropy / log(visible tokens); tokens that see only themselves are left out."""
    weights = weights_BHSS.float()
    entropy_BHS = -torch.xlogy(weights, weights).sum(-1)
    lowest = torch.finfo(torch.bfloat16).min / 2
    visible = torch.ones_like(weights) if mask is None else (mask > lowest).expand_as(weights).float()
    most_BHS = visible.sum(-1).log()
    counted_BHS = real_BS[:, None, :] & (most_BHS > 0)
    return float((entropy_BHS / most_BHS)[counted_BHS].mean()) if counted_BHS.any() else 1.0


def _logit_figures(logits: Tensor, real_BS: Tensor) -> Figures:
    """Size of the logits at real tokens, at the positions that the head computed."""
    is_vocabulary = logits.ndim == 3 and logits.shape[-1] > 2
    values = logits if is_vocabulary else replaced_logits(logits)
    values = values[real_BS[:, ::_LOGIT_STEP]].float()
    if is_vocabulary:
        values = values - values.mean(-1, keepdim=True)
    return {"logits_rms": _rms(values), "logits_largest": float(values.abs().max())}
