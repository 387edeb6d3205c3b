"""The paper's cost table as a program: joint ELECTRA compared with Fast-ELECTRA, on the fly and cached.

    joint    3 A + 3 D      A, D: FLOPs per token of a forward pass of auxiliary and main model (discriminator);
    online     A + 3 D      a backward pass costs as much as two forward passes
    cached         3 D

Notable:
- FLOPs are computed by formula, and counted on the real modules on the meta device, which needs no memory;
- there are two conventions, because the paper does not say which it uses: the auxiliary's head computes only masked
  positions (as in this program), or all positions;
- the auxiliary's training, which the paper leaves out, and building the cache have separate columns;
- memory is what the auxiliary adds at the main model's peak. What exists only while replacements are sampled has a
  separate row, because of the main model only the weights exist at that time.

Shapes: B rows of a micro-batch, S positions, M positions through the head, V vocabulary.
"""

from dataclasses import dataclass
from math import floor
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from fast_electra.config.tree import Config
from fast_electra.corruption.masking import Masked
from fast_electra.data.batches import Batch
from fast_electra.data.shards import open_shards
from fast_electra.data.tokenizer import load_tokenizer, vocabulary_size
from fast_electra.errors import ConfigError, ModelError
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.corrective import CorrectiveHead
from fast_electra.models.loading import stored_config
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.models.shapes import ShapeConfig
from fast_electra.models.sharing import tie
from fast_electra.objectives.base import Prepared
from fast_electra.objectives.detection import rtd_losses
from fast_electra.objectives.mlm import masked_terms
from fast_electra.runs.folder import RunFolder
from fast_electra.runs.models import resolve_model
from fast_electra.training.flops import count_flops, forward_flops, kept_bytes

LogitPositions = Literal["masked", "all"]

ASSUMPTIONS = (
    "weights and gradients in bfloat16, float32 masters, AdamW: 2 + 2 + 4 + 8 bytes per trained weight",
    "activations in bfloat16, all kept for the backward pass (no checkpointing), including attention weights",
    "joint: the generator shares the embeddings of the main model if their widths are equal, and both losses share one "
    "backward pass, so the generator's activations stay in memory until the main model's peak",
    "transients: logits in bfloat16 and three float32 copies while replacements are sampled; they are freed before the "
    "main model's forward pass, and are in no total",
)

WAYS = ("joint", "online", "cached")

# Bytes per parameter or per logit, by the assumptions above.
_WEIGHT, _GRADIENT, _OPTIMIZER, _SAMPLING = 2, 2, 12, 14
_SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


@dataclass(frozen=True)
class ModelCost:
    """The cost of one model."""

    parameters: int
    """number of parameters"""
    forward: int
    """counted FLOPs of a forward pass over one row"""
    training: int
    """counted FLOPs of forward and backward over one row"""
    forward_by_formula: int
    """FLOPs of a forward pass over one row, by `training.flops.forward_flops`"""
    activations: int
    """bytes that are kept for the backward pass of a micro-batch"""


def cost(
    config: Config,
    vocabulary: int | None = None,
    micro_batch: int = 32,
    auxiliary_layers: int | None = None,
) -> dict[str, Any]:
    """FLOPs and memory of joint ELECTRA and of Fast-ELECTRA, on the fly and cached.

    Args:
        config: gives the main model, the length and the mask rate, and may name an auxiliary (see `auxiliary_shape`).
        vocabulary: number of tokens; None: the configuration's.
        micro_batch: number of rows whose activations are in memory at a time.
        auxiliary_layers: see `auxiliary_shape`.

    Returns:
        the object that `fast-electra cost --json` prints (docs/cost.md). FLOPs are per token of the original text,
        memory is in bytes, and savings are shares of joint ELECTRA's cost that Fast-ELECTRA on the fly avoids.

    Raises:
        ConfigError: the configuration trains no main model, or its auxiliary is no masked language model.
        ModelError: a model cannot be built.
    """
    shape = auxiliary_shape(config, auxiliary_layers)
    size = vocabulary or _vocabulary(config)
    length = config.data.length
    masked = max(1, round(config.corruption.masking.rate * length))
    main_config = _transformers_config(config.main, size, length, "main")
    auxiliary_config = _transformers_config(shape, size, length, "auxiliary")
    ratio, basis = _auxiliary_tokens(config)
    is_corrective = config.objective.has_vocabulary_head
    main = _main_cost(main_config, micro_batch, length, masked if is_corrective else 0)
    own = _unshared_parameters(main_config, auxiliary_config, config)
    found: dict[str, Any] = {
        "shape": {
            "main": _shape_of(main_config),
            "auxiliary": _shape_of(auxiliary_config),
            "vocabulary": size,
            "length": length,
            "micro_batch": micro_batch,
            "masked_positions": masked,
        },
        "assumptions": list(ASSUMPTIONS),
        "auxiliary_training": {"tokens_per_token": ratio, "basis": basis},
    }
    heads: dict[LogitPositions, int] = {"masked": masked, "all": length}
    for head, positions in heads.items():
        auxiliary = _auxiliary_cost(auxiliary_config, micro_batch, length, positions)
        logits = micro_batch * positions * size
        found[f"head_{head}"] = _convention(auxiliary, main, own, logits, length, ratio)
    return found


def auxiliary_shape(config: Config, layers: int | None = None) -> ShapeConfig:
    """The shape of the auxiliary that a configuration trains with.

    It is joint ELECTRA's generator, or the model that `auxiliary.model` names, otherwise the main model's shape with
    `layers` layers. The default is a third of the main model's layers and at most 6: the paper's 4 of 12 and 6 of 24.

    Raises:
        ConfigError: the configuration has no auxiliary, or one that is no masked language model.
    """
    objective = config.objective
    if objective.generator_shape is not None:
        shape = objective.generator_shape
    elif objective.uses_auxiliary:
        if not config.auxiliary.reads_mask:
            raise ConfigError(
                f"auxiliary.kind={config.auxiliary.kind}: costs are known only for masked language models: "
                "leave auxiliary.kind and auxiliary.model out."
            )
        shape = config.main.model_copy(update={"model": config.auxiliary.model})
        layers = layers or config.auxiliary.layers
        if shape.model is None:
            full = config.main.layers or _stored(config.main.model).num_hidden_layers
            shape = config.main.with_layers(max(1, min(full // 3, 6)))
    else:
        raise ConfigError(
            f"objective.kind={objective.kind} trains no main model, so there is nothing to compare: give "
            "objective.kind=fast_electra or electra."
        )
    return shape if layers is None else shape.with_layers(layers)


def row_flops(shape: ShapeConfig, head: Literal["mlm", "rtd"], vocabulary: int, length: int, positions: int) -> int:
    """FLOPs of a forward pass over one row, by `training.flops.forward_flops`.

    Args:
        shape: of the model.
        head: of the model.
        vocabulary: number of tokens.
        length: of the row.
        positions: number of positions that the head computes.
    """
    return forward_flops(_meta(_transformers_config(shape, vocabulary, length, "main"), head), length, positions)


def savings(before: dict[str, dict[str, float]], after: str = "online") -> dict[str, float]:
    """Shares of joint ELECTRA's cost that another way of training avoids: of the total and of the auxiliary's cost."""
    return {part: 1.0 - before[after][part] / before["joint"][part] for part in ("total", "auxiliary")}


def _convention(
    auxiliary: ModelCost, main: ModelCost, own: int, logits: int, length: int, ratio: float
) -> dict[str, Any]:
    """Costs and savings of one convention: `logits` is the number of the auxiliary's logits in a micro-batch."""
    counted = _flops(auxiliary.forward, auxiliary.training, main.training, length, ratio)
    formula = _flops(
        auxiliary.forward_by_formula, 3 * auxiliary.forward_by_formula, 3 * main.forward_by_formula, length, ratio
    )
    memory = {
        "joint": {"weights": own * _WEIGHT, "gradients": own * _GRADIENT, "optimizer": own * _OPTIMIZER}
        | {"activations": auxiliary.activations},
        "online": {"weights": auxiliary.parameters * _WEIGHT, "gradients": 0, "optimizer": 0, "activations": 0},
        "cached": {"weights": 0, "gradients": 0, "optimizer": 0, "activations": 0},
    }
    mains = main.parameters * (_WEIGHT + _GRADIENT + _OPTIMIZER) + main.activations
    rows: dict[str, Any] = {}
    for way, parts in memory.items():
        total = sum(parts.values())
        transients = 0 if way == "cached" else logits * _SAMPLING
        rows[way] = {"auxiliary": total, "main": mains, "total": total + mains, "transients": transients}
        rows[way]["auxiliary_parts"] = parts
    found: dict[str, Any] = {}
    for way in ("online", "cached"):
        compute, bytes_ = savings(counted, way), savings(rows, way)
        found[way] = {
            "total_compute_saving": compute["total"],
            "auxiliary_compute_saving": compute["auxiliary"],
            "auxiliary_memory_saving": bytes_["auxiliary"],
            "total_memory_saving": bytes_["total"],
        }
    once = {"online": counted["online"]["auxiliary_training"]}
    once["cached"] = once["online"] + counted["cached"]["cache_building"]
    pays = {
        way: _first_paying_run(spent, counted["joint"]["total"] - counted[way]["total"]) for way, spent in once.items()
    }
    against_online = _first_paying_run(counted["cached"]["cache_building"], counted["online"]["auxiliary"])
    return {
        **found["online"],
        "cached": found["cached"],
        "flops_per_token": counted,
        "flops_per_token_by_formula": formula,
        "memory_bytes": rows,
        "pays_from_run": pays | {"cached_against_online": against_online},
    }


def _flops(forward: int, training: int, main: int, length: int, ratio: float) -> dict[str, dict[str, float]]:
    """FLOPs per token of each way and part, from FLOPs per row."""
    auxiliary = {"joint": training, "online": forward, "cached": 0}
    own = {"joint": 0.0, "online": training * ratio, "cached": training * ratio}
    building = {"joint": 0, "online": 0, "cached": forward}
    found = {}
    for way in WAYS:
        parts = {
            "auxiliary": auxiliary[way],
            "main": main,
            "total": auxiliary[way] + main,
            "auxiliary_training": own[way],
            "cache_building": building[way],
            "total_with_preparation": auxiliary[way] + main + own[way] + building[way],
        }
        found[way] = {name: value / length for name, value in parts.items()}
    return found


def _first_paying_run(spent_once: float, saved_a_run: float) -> int | None:
    """The number of runs after which the saving exceeds what is spent once; None: never."""
    return floor(spent_once / saved_a_run) + 1 if saved_a_run > 0 else None


def _main_cost(config: PreTrainedConfig, rows: int, length: int, corrected: int) -> ModelCost:
    """The main model's cost; `corrected` is the number of positions that its vocabulary head computes, or 0."""
    model = _meta(config, "rtd")
    wrapped = ReplacedTokenDetector(model)
    batch, ids_BS = _batch(rows, length, model.config.vocab_size)
    parameters, by_formula = list(model.parameters()), forward_flops(model, length, length)
    head, prepared = None, _prepared(ids_BS, corrected)
    if corrected:
        masked_lm = _meta(config, "mlm")
        head = CorrectiveHead(masked_lm, wrapped)
        parameters += head.parameters().values()
        by_formula += forward_flops(masked_lm, length, corrected) - forward_flops(masked_lm, length, 0)

    def loss() -> Tensor:
        logits_BS, hidden_states = wrapped.logits_and_hidden_states(batch, ids_BS)
        rtd = rtd_losses(logits_BS, ids_BS > 0).sum()
        if head is None or hidden_states is None:
            return rtd
        logits_NV = head.logits(hidden_states[-1], prepared.masked.positions_BM)
        return rtd + masked_terms(logits_NV, prepared).losses["mlm"][0]

    return _measured(parameters, loss, rows, by_formula)


def _auxiliary_cost(config: PreTrainedConfig, rows: int, length: int, positions: int) -> ModelCost:
    model = _meta(config, "mlm")
    wrapped = MaskedLM(model)
    batch, ids_BS = _batch(rows, length, model.config.vocab_size)
    prepared = _prepared(ids_BS, positions)

    def loss() -> Tensor:
        logits_NV = wrapped.masked_logits(batch, ids_BS, prepared.masked.positions_BM)
        return masked_terms(logits_NV, prepared).losses["mlm"][0]

    return _measured(list(model.parameters()), loss, rows, forward_flops(model, length, positions))


def _measured(parameters: list[nn.Parameter], loss: Any, rows: int, by_formula: int) -> ModelCost:
    try:
        with torch.no_grad():
            forward = count_flops(loss)
    except RuntimeError as error:
        if "meta tensors" not in str(error):
            raise
        raise ModelError(
            "FLOPs are counted without values, but this model class needs values, as DeBERTa-v2 and Longformer do: "
            "measure its time with fast-electra bench, or give another main.architecture."
        ) from error
    return ModelCost(
        parameters=sum(parameter.numel() for parameter in parameters),
        forward=forward // rows,
        training=count_flops(lambda: loss().backward()) // rows,
        forward_by_formula=by_formula,
        activations=kept_bytes(loss, parameters),
    )


def _batch(rows: int, length: int, vocabulary: int) -> tuple[Batch, Tensor]:
    """A batch without padding on the CPU, because its mask is read, and its ids on the meta device."""
    ids_BS = torch.zeros(rows, length, dtype=torch.int64)
    return Batch.of(ids_BS, torch.zeros(rows, length, dtype=torch.bool)), ids_BS.to("meta")


def _prepared(ids_BS: Tensor, positions: int) -> Prepared:
    """Rows on the meta device with a given number of masked positions each."""
    rows, length = ids_BS.shape
    positions_BM = torch.arange(positions, device="meta").expand(rows, -1).contiguous()
    masked = Masked(positions_BM, torch.ones(rows, positions, dtype=torch.bool, device="meta"))
    return Prepared(Batch.of(ids_BS, torch.zeros(rows, length, dtype=torch.bool, device="meta")), masked)


def _meta(config: PreTrainedConfig, head: Literal["mlm", "rtd"]) -> PreTrainedModel:
    with torch.device("meta"):
        return build_model(config, head, seed=0).to(torch.bfloat16)  # type: ignore[arg-type]


def _unshared_parameters(main: PreTrainedConfig, auxiliary: PreTrainedConfig, config: Config) -> int:
    """The number of parameters of a joint generator that it does not share with the main model."""
    detector, generator = _meta(main, "rtd"), _meta(auxiliary, "mlm")
    tables = [model.get_input_embeddings().weight.shape for model in (detector, generator)]
    if config.objective.shares_table and tables[0] == tables[1]:
        tie(detector, generator)
    shared = {id(parameter) for parameter in detector.parameters()}
    return sum(parameter.numel() for parameter in generator.parameters() if id(parameter) not in shared)


def _transformers_config(shape: ShapeConfig, vocabulary: int, length: int, key: str) -> PreTrainedConfig:
    if shape.model is None:
        return transformers_config(shape, vocabulary, _SPECIAL, length, key)
    config = _stored(shape.model)
    config.vocab_size = vocabulary
    return config


def _stored(name: str | None) -> PreTrainedConfig:
    assert name is not None
    return stored_config(resolve_model(name))


def _vocabulary(config: Config) -> int:
    """The vocabulary size of the shards if they exist, otherwise of the tokenizer that is named or to be trained."""
    if config.data.shards is not None and config.data.shards.exists():
        return open_shards(config.data.shards, verify=False).vocabulary_size
    if config.data.tokenizer.path is not None:
        return vocabulary_size(load_tokenizer(config.data.tokenizer.path))
    return config.data.tokenizer.vocabulary_size


def _auxiliary_tokens(config: Config) -> tuple[float, str]:
    """Tokens of the auxiliary's training per token of the run, and a sentence about the source of this number."""
    training = config.training
    planned = training.tokens or (training.updates or 0) * training.batch_size * config.data.length
    run = RunFolder.find(config.auxiliary.model) if config.auxiliary.model else None
    if run is not None and run.is_finished and planned:
        tokens = run.result["tokens"]
        return tokens / planned, f"{run.path}: {tokens:,} tokens, for a run of {planned:,}"
    return 1.0, "equal tokens: no auxiliary.model whose run says how many tokens it was trained on"


def _shape_of(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "architecture": config.model_type,
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": getattr(config, "intermediate_size", None),
    }
