"""The parts of a run, built from its configuration: data, models, corruption, objective.

Notable:
- everything that can be refused is refused here, before the first update;
- models come in float32 on the device; the optimizers take their masters from them before any is cast.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fast_electra.config.tree import Config, ElectraObjective, FastElectraObjective, MLMObjective
from fast_electra.corruption.auxiliary import Auxiliary, MaskedLanguageModel
from fast_electra.corruption.masking import Masker, make_masker, mask_random_tokens
from fast_electra.corruption.schedules import make_curriculum
from fast_electra.corruption.sources import OnTheFly
from fast_electra.data.batches import BatchSchedule, Rows
from fast_electra.data.shards import Split, TokenShards, open_shards
from fast_electra.data.tokenizer import fingerprint, load_tokenizer
from fast_electra.errors import ConfigError, DataError, ModelError
from fast_electra.models.build import (
    Head,
    build_model,
    load_model,
    resolve_model,
    start_from,
    transformers_config,
    weights_digest,
)
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.objectives.base import Objective, Prepared
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.objectives.mlm import MLM
from fast_electra.training.precision import Execution

# Validation rows are masked with an epoch that no training reaches, so that their masks and noise are their own.
_VALIDATION_EPOCH = 2**16 - 1
# Measures are over random tokens at this rate whatever a run trains with, so that they can stand beside each other.
_VALIDATION_RATE = 0.15


@dataclass(frozen=True)
class Assembled:
    """The parts of a run, built from its configuration."""

    objective: Objective
    schedule: BatchSchedule
    validation: list[Prepared]
    tokenizer: PreTrainedTokenizerBase
    shards: TokenShards
    auxiliary_digest: str | None
    notes: list[str]
    """what the user should know before the run starts, a sentence each"""


@dataclass(frozen=True)
class _Inputs:
    """What every builder of an objective needs."""

    config: Config
    execution: Execution
    shards: TokenShards
    tokenizer: PreTrainedTokenizerBase
    special: dict[str, int]
    masker: Masker
    notes: list[str]

    @property
    def by_document(self) -> bool:
        return self.config.data.attention == "document"


def assemble(config: Config, execution: Execution) -> Assembled:
    """Data, models and objective of a configuration; models in float32 on the device.

    Raises:
        ConfigError, DataError, ModelError: something is missing or doesn't fit.
    """
    if config.data.shards is None:
        raise ConfigError("data.shards is not given: name the folder that `fast-electra data build` wrote.")
    shards = open_shards(config.data.shards, verify=True)
    tokenizer = load_tokenizer(shards.folder / "tokenizer")
    special = special_ids(tokenizer)
    schedule = BatchSchedule(_rows(config, shards, "train", special), config.training.batch_size, config.training.seed)
    validation_rows = _rows(config, shards, "validation", special)
    masker = make_masker(config.corruption.masking, tokenizer)
    inputs = _Inputs(config, execution, shards, tokenizer, special, masker, [])
    digest = None
    match config.objective:
        case MLMObjective():
            objective: Objective = _mlm(inputs, config.objective)
        case FastElectraObjective():
            objective, digest = _fast_electra(inputs, config.objective)
        case ElectraObjective():
            objective = _electra(inputs, config.objective)
    if config.training.compile:
        for model in objective.models().values():
            model.compile(dynamic=False)
    batches = validation_batches(validation_rows, config)
    return Assembled(objective, schedule, batches, tokenizer, shards, digest, inputs.notes)


def _mlm(inputs: _Inputs, settings: MLMObjective) -> MLM:
    model = _trained_model(inputs, "mlm")
    return MLM(
        MaskedLM(model, inputs.by_document).to(inputs.execution.device),
        inputs.special["mask"],
        inputs.masker,
        inputs.config.optimizer,
        inputs.shards.most_frequent_token(),
        random=settings.random,
        kept=settings.kept,
    )


def _fast_electra(inputs: _Inputs, settings: FastElectraObjective) -> tuple[FastElectra, str | None]:
    """The objective, and the digest of the auxiliary's weights."""
    config = inputs.config
    model, digest = load_auxiliary(config, inputs.shards)
    main = _trained_model(inputs, "rtd")
    if config.main.start == "auxiliary":
        copied = start_from(main, model, embeddings_only=False)
        total = sum(1 for _ in main.base_model.named_parameters())  # type: ignore[union-attr]
        inputs.notes.append(f"{len(copied)} of the encoder's {total} weights start from the auxiliary's.")
    elif config.main.embeddings == "copied":
        start_from(main, model, embeddings_only=True)
        inputs.notes.append("the token embeddings start from the auxiliary's.")
    auxiliary = _frozen(inputs, model)  # after the copies, which are taken from float32 weights
    objective = FastElectra(
        main=ReplacedTokenDetector(main, inputs.by_document).to(inputs.execution.device),
        source=OnTheFly(auxiliary, settings.disallow_correct),
        curriculum=make_curriculum(config.corruption),
        masker=inputs.masker,
        optimizer=config.optimizer,
        include_special=settings.include_special,
    )
    return objective, digest


def _electra(inputs: _Inputs, settings: ElectraObjective) -> Objective:
    """Joint ELECTRA: generator and main model."""
    raise NotImplementedError


def _trained_model(inputs: _Inputs, head: Head) -> PreTrainedModel:
    """The main model of the configuration, fresh or continued, with its head."""
    config = inputs.config
    shape = transformers_config(config.main, inputs.shards.vocabulary_size, inputs.special, config.data.length)
    if inputs.by_document:
        _refuse_eager_only(config.main.architecture)
    return build_model(shape, head, config.training.seed)


def _frozen(inputs: _Inputs, model: PreTrainedModel) -> Auxiliary:
    """The auxiliary of a loaded model, frozen, in the type that the precision gives it."""
    frozen = MaskedLM(model, inputs.by_document).to(inputs.execution.device)
    return MaskedLanguageModel(frozen.freeze(inputs.execution.auxiliary_dtype), inputs.special["mask"])


def load_auxiliary(config: Config, shards: TokenShards) -> tuple[PreTrainedModel, str | None]:
    """The auxiliary in float32, and the digest of its weights.

    Raises:
        ConfigError: none is named.
        ModelError: it is no masked language model, or its tokens are not the shards'.
    """
    name = config.auxiliary.model
    if name is None:
        raise ConfigError(
            "auxiliary.model is not given: name a run, a folder or a hub name of a masked language model, "
            "or train one with objective.kind=mlm."
        )
    model = load_model(name, "mlm")
    source = resolve_model(name)
    tokenizer = load_tokenizer(source)
    if fingerprint(tokenizer) != shards.tokenizer_fingerprint:
        raise ModelError(
            f"the auxiliary {name} has another tokenizer than the shards {shards.folder} "
            f"({len(tokenizer)} and {shards.vocabulary_size} tokens"
            + (", in another order" if len(tokenizer) == shards.vocabulary_size else "")
            + "): build the shards with data.tokenizer.path set to the auxiliary."
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and config.data.length > positions:
        raise ModelError(
            f"the auxiliary {name} takes {positions} tokens, fewer than data.length={config.data.length}: "
            "shorten the rows."
        )
    return model, weights_digest(Path(source)) if Path(source).is_dir() else None


def validation_batches(rows: Rows, config: Config) -> list[Prepared]:
    """Rows spread evenly over the validation split, with masks of their own, the same each time."""
    count = min(config.training.validation_sequences, rows.count)
    indices = torch.arange(count) * rows.count // count
    batches = []
    for chunk in indices.split(config.training.micro_batch_size or config.training.batch_size):
        batch = rows.rows(chunk, epoch=_VALIDATION_EPOCH)
        batches.append(Prepared(batch, mask_random_tokens(batch, _VALIDATION_RATE, seed=0)))
    return batches


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of the special tokens that rows and masks need.

    Raises:
        DataError: the tokenizer lacks one.
    """
    found = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
    for name, value in found.items():
        if value is None:
            raise DataError(f"the tokenizer {tokenizer.name_or_path} has no {name} token: take one that has.")
    return found


def _rows(config: Config, shards: TokenShards, split: Split, special: dict[str, int]) -> Rows:
    # [UNK] is among the shards' special tokens, and never eligible.
    return Rows(shards.split(split), config.data.length, shards.special_tokens | special, config.data.attention)


def _refuse_eager_only(architecture: str) -> None:
    if architecture in ("mpnet", "deberta", "deberta-v2"):
        raise ConfigError(
            f"data.attention=document is not possible with {architecture}, whose attention ignores it; use packed."
        )
