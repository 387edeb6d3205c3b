"""What a model looks like inside, on a few rows: hidden states, attention, feed-forward units, weights, logits.

Notable:
- a loss can fall while the model goes wrong inside: layers that drown the embeddings, tokens that all look alike,
  attention on single tokens, feed-forward units that say nothing. `internal_checks` has the bands;
- everything is a pure function of weights and rows, in evaluation mode: a resumed run writes the same numbers;
- it is cheap: about a thousand tokens forward, at validations and at every twentieth of a run, under 1 % of a run;
- no table of classes: layers are found by structure, the last linear map of a layer is its feed-forward part's.

For a script: `measure_folder(folder, ids_BS)`, or `measure(model, Batch.of(ids_BS, padding_BS))`.

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
"""numbers by name, those of layers one level deeper; from `measure`"""

_TOKENS = 1024  # of the rows that are looked at
_LOGIT_STEP = 8  # logits are computed at every eighth position: a vocabulary's head costs more than small layers
_SILENT = 0.01  # a unit whose rms is below this share of its layer's says nothing
_LOOKS = 20  # looks a run, besides its validations


def measure(
    model: PreTrainedModel, batch: Batch, by_document: bool = False, start: Mapping[str, float] | None = None
) -> Figures:
    """The figures of a model on some rows. The model's mode and gradients are left as they are.

    Args:
        model: any encoder of Transformers, with a masked language model's head, an RTD head or none.
        batch: rows of text, not corrupted; the first of them are used, up to about a thousand tokens.
        by_document: tokens see their own document alone.
        start: `weight_figures` of the model that training started with, on the same rows.

    Returns:
        `hidden_rms`: the middle token's root mean square, of the first layer's input (`embedding`: after its norm and
            projection) and of each layer's output (`1`, `2`, …: before a norm behind the last one);
        `attention_entropy` of each layer: mean over tokens and heads, over the entropy of looking at all visible
            tokens alike; missing for classes that compute attention in a way of their own (MPNet, DeBERTa);
        `dead_units` of each layer: share of feed-forward units that say nothing on these rows;
        `logits_rms` and `logits_largest`, a vocabulary's logits over their mean; missing without a head;
        those of `weight_figures`, and `start` where it is given.
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
    if layers:  # of layers that write on the scale of a norm's output, whatever the embeddings' is
        found["hidden_ratio"] = max(layers) / max(found["hidden_rms"]["embedding"], 1.0)
    figures = found | ({} if logits is None else _logit_figures(logits, ~batch.padding))
    figures |= weight_figures(model, batch)
    return figures | ({"start": dict(start)} if start else {})


def measure_folder(folder: str | Path, ids_BS: Tensor) -> Figures:
    """`measure` of a model on disk: a run, a folder that Transformers can load, or a hub name.

    Args:
        folder: with a masked language model, an RTD model of this program, or any other encoder (then without logits).
        ids_BS: (B, S) int64 of its tokenizer, with the padding token where a row is shorter.

    Raises:
        ModelError: it holds no such model.
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
    """What `measure` says of the weights alone.

    Returns:
        `layer_weights_rms` and `token_table_rms`: root mean square of the layers' matrices and of the token table;
        `token_table_rank`: `effective_rank` of the rows' tokens in the table.
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
    """The participation ratio of vectors around their mean: 1 when they lie on a line, d when no direction is larger.

    (sum λ)² / sum λ² over the eigenvalues λ of their covariance. No eigenvalue is computed: the sum is a trace, that of
    squares a matrix's squared norm. A vector that all tokens share says nothing of any, so the mean is taken off; and a
    token counts as often as it comes in the text, for most rows of a table are of tokens that are hardly ever seen.
    """
    centred_Nd = vectors_Nd.float() - vectors_Nd.float().mean(0)
    covariance_dd = centred_Nd.mT @ centred_Nd
    return float(covariance_dd.trace().square() / covariance_dd.square().sum().clamp(min=1e-30))


class InternalsObserver(QuietObserver):
    """Adds `internals`, the figures of each trained model by its name, to records: at validations and now and then.

    It must see a record before those that write it.
    """

    def __init__(
        self, models: Mapping[str, nn.Module], batch: Batch, by_document: bool, log_every: int, execution: Execution
    ):
        """See the class.

        Args:
            models: as training starts; from a checkpoint they are loaded later.
            batch: validation rows.
            by_document: tokens see their own document alone.
            log_every: updates between records.
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
        """Note the run's length."""
        self._updates = updates

    def logged(self, record: Record) -> None:
        """Look, where a twentieth of the run was passed since the record before, or at a validation."""
        after, before = record["update"], max(0, record["update"] - self._log_every)
        if "validation" not in record and after * _LOOKS // self._updates == before * _LOOKS // self._updates:
            return
        with self._execution.autocast():
            record["internals"] = {
                name: measure(model, self._batch, self._by_document, self._start[name])
                for name, model in self._models.items()
            }


def _few(batch: Batch) -> Batch:
    """The first rows, up to about a thousand tokens; of longer rows one, cut: attention's weights are kept whole."""
    few = batch.split(max(1, _TOKENS // batch.ids.shape[1]))[0]
    cut = ("ids", "documents", "positions", "eligible", "padding")
    return replace(few, **{name: getattr(few, name)[:, :_TOKENS] for name in cut})


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


@contextmanager
def _watching(model: PreTrainedModel, real_BS: Tensor) -> Iterator[Figures]:
    """Within it, a forward pass of the model fills the figures that are of layers; its head sees few positions."""
    found: Figures = {"hidden_rms": {}, "attention_entropy": {}, "dead_units": {}}
    units: list[Tensor] = []
    done = 0

    def middle_rms(hidden_BSd: Tensor) -> float:
        return float(hidden_BSd[_as_wide(real_BS, hidden_BSd.shape[1])].float().square().mean(-1).sqrt().median())

    def before(_layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not done:
            found["hidden_rms"]["embedding"] = middle_rms(arguments[0] if arguments else keywords["hidden_states"])

    def linear(_linear: nn.Module, arguments: tuple[Any, ...]) -> None:
        units[:] = [arguments[0]]  # the last of a layer stays

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
    """The mask of real tokens for layers that see more positions: Longformer pads rows to its window."""
    return nn.functional.pad(real_BS, (0, width - real_BS.shape[1]))


def _silent_share(units: Tensor, real_BS: Tensor) -> float:
    """Share of the feed-forward units (B, S, U) or (B · S, U) whose rms is under a hundredth of all units'."""
    units = units.reshape(len(real_BS), -1, units.shape[-1])
    units_NU = units[_as_wide(real_BS, units.shape[1])].float()
    power_U = units_NU.square().mean(0)
    return float((power_U < _SILENT**2 * power_U.mean()).float().mean())


def _attention_entropy(weights_BHSS: Tensor, mask: Tensor | None, real_BS: Tensor) -> float:
    """Mean entropy over real tokens that see more than themselves, each over the logarithm of what it sees."""
    weights = weights_BHSS.float()
    entropy_BHS = -torch.xlogy(weights, weights).sum(-1)
    lowest = torch.finfo(torch.bfloat16).min / 2
    visible = torch.ones_like(weights) if mask is None else (mask > lowest).expand_as(weights).float()
    most_BHS = visible.sum(-1).log()
    counted_BHS = real_BS[:, None, :] & (most_BHS > 0)
    return float((entropy_BHS / most_BHS)[counted_BHS].mean()) if counted_BHS.any() else 1.0


def _logit_figures(logits: Tensor, real_BS: Tensor) -> Figures:
    """Size of the logits at the real ones of the positions that the head saw."""
    is_vocabulary = logits.ndim == 3 and logits.shape[-1] > 2
    values = logits if is_vocabulary else replaced_logits(logits)
    values = values[real_BS[:, ::_LOGIT_STEP]].float()
    if is_vocabulary:
        values = values - values.mean(-1, keepdim=True)
    return {"logits_rms": _rms(values), "logits_largest": float(values.abs().max())}
