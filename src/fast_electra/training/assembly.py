"""The parts of a run, built from its configuration: data, models, corruption, objective.

Notable:
- every refusal happens here, before the first update;
- models are created in float32 on the device; the optimizers copy their float32 masters before the models are cast.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fast_electra import distributed
from fast_electra.config.reading import setting
from fast_electra.config.tree import Config, PlannedPhase
from fast_electra.corruption.auxiliary import Auxiliary, Candidates
from fast_electra.corruption.cache import CachedCorruption
from fast_electra.corruption.initial import initial_temperature
from fast_electra.corruption.masking import Masked, Masker
from fast_electra.corruption.replacement import ByPhase, CorruptionSource, OnTheFly
from fast_electra.corruption.settings import CorruptionConfig
from fast_electra.data.batches import Batch, BatchSchedule, Rows
from fast_electra.data.phases import EPOCHS, PhasedSchedule
from fast_electra.data.random import stage_seed
from fast_electra.data.settings import mixture
from fast_electra.data.shards import Split, TokenShards, open_shards
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.errors import ConfigError, DataError
from fast_electra.models.build import start_from
from fast_electra.models.corrective import CorrectiveHead
from fast_electra.models.loading import function_digest, weights_digest
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.rotary import PhasedRotary
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.models.sharing import disentangle, tie
from fast_electra.objectives.base import Built
from fast_electra.objectives.electra import Electra
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.objectives.mlm import MLM
from fast_electra.objectives.settings import ElectraObjective, FastElectraObjective, MLMObjective
from fast_electra.runs.models import resolve_model
from fast_electra.training.assembled import Assembled, PhaseText
from fast_electra.training.auxiliary import (
    LoadedAuxiliary,
    check_auxiliary,
    excluded_tokens,
    load_auxiliary,
    make_auxiliary,
    needs_auxiliary,
)
from fast_electra.training.cached_corruption import open_run_caches, refuse_unreplayable
from fast_electra.training.precision import Execution
from fast_electra.training.trained_models import model_of, trained_model
from fast_electra.training.validation_rows import differing_replacements, validation_batches

# Number of validation rows for measuring an auxiliary before it is used.
_CHECKED_ROWS = 64


@dataclass(frozen=True)
class Inputs:
    """What every builder of an objective needs; `read_inputs` makes it."""

    config: Config
    execution: Execution
    shards: TokenShards
    tokenizer: PreTrainedTokenizerBase
    special: dict[str, int]
    masker: Masker
    notes: list[str]
    plan: PlannedPhase
    """the phase in numbers; of a run, its first"""
    number: int = 0
    """of the phase, from 0"""
    phases: Sequence["Inputs"] = ()
    """of a run: the inputs of each phase, at least one, with the settings in it"""

    @property
    def seed(self) -> int:
        """Seed of order, masks and noise; it differs between an auxiliary and a main model of one `training.seed`."""
        return stage_seed(self.config.training.seed, self.config.objective.kind)

    @property
    def by_document(self) -> bool:
        """Whether tokens attend only to their own document."""
        return self.config.data.attention == "document"

    def mlm(self, settings: MLMObjective) -> Built:
        """Build masked language modelling."""
        return build_mlm(self, settings)

    def fast_electra(self, settings: FastElectraObjective) -> Built:
        """Build replaced token detection with a frozen auxiliary."""
        return build_fast_electra(self, settings)

    def electra(self, settings: ElectraObjective) -> Built:
        """Build joint ELECTRA."""
        return build_electra(self, settings)

    def rows(self, split: Split) -> Rows:
        """The rows of a split, in the phase."""
        # [UNK] is among the shards' special tokens, and never eligible.
        data = self.config.data
        special = self.shards.special_tokens | self.special
        return Rows(self.shards.sources(split), data.length, special, data.attention, self.number)

    def schedule(self, batch_size: int, share: tuple[int, int] = (0, 1), first: int = 0) -> BatchSchedule:
        """Batches of the training split in the phase's order; the arguments as in `BatchSchedule`."""
        weights, epoch = [*self.shards.mixture.values()], self.plan.order * EPOCHS
        return BatchSchedule(self.rows("train"), batch_size, self.seed, share, weights, first, epoch)


def read_inputs(config: Config, execution: Execution) -> Inputs:
    """Read the shards and the tokenizer of a configuration, and make its masker.

    Raises:
        ConfigError, DataError: something is missing or does not fit.
    """
    if config.data.shards is None:
        raise ConfigError("data.shards is not given: name the folder that `fast-electra data build` wrote.")
    if config.objective.uses_auxiliary:  # checked first, because verifying the shards reads every byte
        needs_auxiliary(config)
        for plan in config.planned_phases():
            if plan.config.corruption.replays:
                refuse_unreplayable(plan.config.corruption)
    opened: dict[Path, TokenShards] = {}
    for number, plan in enumerate(config.planned_phases(), start=1):
        folder = cast(Path, plan.config.data.shards)
        if folder not in opened:
            # Several processes check a share each, and all end if one finds damage.
            opened[folder] = open_shards(folder, verify=True, share=(distributed.rank(), distributed.size()))
        if opened[folder].tokenizer_fingerprint != opened[config.data.shards].tokenizer_fingerprint:
            raise ConfigError(
                f"phase {number} has the shards {folder}, whose tokenizer is not that of {config.data.shards}: build "
                f"them with {setting('data.tokenizer.path', config.data.shards / 'tokenizer')}."
            )
    shards = opened[config.data.shards]
    if (asked := mixture(config.data.sources)) not in ({}, shards.mixture):
        raise ConfigError(
            f"data.sources has the weights {asked}, and {shards.folder} was built with {shards.mixture or 'none'}: run "
            "`fast-electra data build` into another folder, or leave the weights out."
        )
    tokenizer = load_tokenizer(shards.folder / "tokenizer")
    phases = [
        Inputs(
            config=plan.config,
            execution=execution,
            shards=opened[cast(Path, plan.config.data.shards)],
            tokenizer=tokenizer,
            special=special_ids(tokenizer),
            masker=plan.config.corruption.masking.masker(tokenizer),
            notes=[],
            plan=plan,
            number=number,
        )
        for number, plan in enumerate(config.planned_phases())
    ]

    def masked(batch: Batch, seed: int) -> Masked:
        return phases[batch.phase].masker(batch, seed)

    return replace(phases[0], config=config, masker=masked, phases=phases)


def assemble(config: Config, execution: Execution) -> Assembled:
    """Build the data, models and objective of a configuration. The models are in float32 on the device.

    Raises:
        ConfigError, DataError, ModelError: something is missing or does not fit.
    """
    inputs = read_inputs(config, execution)
    built = config.objective.build(inputs)
    objective = built.objective
    share = distributed.rank(), distributed.size()
    return Assembled(
        objective=objective,
        schedule=PhasedSchedule(
            [(p.plan.start, p.schedule(p.config.training.batch_size, share, p.plan.first)) for p in inputs.phases]
        ),
        seed=inputs.seed,
        phases=[PhaseText(p.shards, validation_batches(p), p.rows("validation").starts) for p in inputs.phases],
        tokenizer=inputs.tokenizer,
        corruption=built.corruption or config.corruption,
        auxiliary_digest=built.auxiliary_digest,
        auxiliary_measures=built.auxiliary_measures,
        main_digest=_digest(config.main.model) if config.main.model else None,
        notes=inputs.notes,
        rotary=PhasedRotary(objective.models(), [phase.main.rope_theta for phase in config.phases]),
        frozen=built.frozen,
    )


def build_mlm(inputs: Inputs, settings: MLMObjective) -> Built:
    """Build masked language modelling with the main model."""
    model = trained_model(inputs, "mlm")
    objective = MLM(
        MaskedLM(model, inputs.by_document),
        inputs.special["mask"],
        inputs.masker,
        inputs.config.optimizer,
        inputs.shards.most_frequent_token(),
        random=settings.random,
        kept=settings.kept,
    )
    return Built(objective)


def build_fast_electra(inputs: Inputs, settings: FastElectraObjective) -> Built:
    """Build replaced token detection; in its corruption settings T0 is a number."""
    config, shards = inputs.config, inputs.shards
    loaded = load_auxiliary(config, shards, inputs.tokenizer) if needs_auxiliary(config) else None
    model = cast(PreTrainedModel, loaded and loaded.model)  # None if counted; then nothing below uses it
    main = trained_model(inputs, "rtd")
    if config.main.start == "auxiliary":
        copied = start_from(main, model, embeddings_only=False)
        total = sum(1 for _ in main.base_model.named_parameters())  # type: ignore[union-attr]
        inputs.notes.append(f"{len(copied)} of the encoder's {total} weights start from the auxiliary's.")
    if config.main.embeddings == "copied":
        start_from(main, model, embeddings_only=True)
        inputs.notes.append("the token embeddings start from the auxiliary's.")
    detector = ReplacedTokenDetector(main, inputs.by_document)
    head = _corrective_head(inputs, detector, model) if settings.corrective_weight else None
    # Freezing may cast the auxiliary, so the copies above, made from float32 weights, come first.
    if config.corruption.cache is None:
        assert loaded is not None
        auxiliary = make_auxiliary(loaded, config, shards, inputs.special["mask"], inputs.execution)
        digest, measures = loaded.digest, measured(inputs, auxiliary, loaded)
        source = sampled(auxiliary, config.corruption, settings.disallow_correct)
        automatic = config.corruption.schedule.is_automatic
        initial = chosen_temperature(inputs, auxiliary, loaded) if automatic else None
    else:
        caches = open_run_caches(inputs, loaded)
        cached = [CachedCorruption(cache) for cache in caches]
        cache, source = caches[0], cached[0] if len(cached) == 1 else ByPhase(cached)
        digest, measures = cache.about["identity"]["auxiliary.model"], cache.about["auxiliary"]["measures"]
        initial = cache.about["auxiliary"]["initial_temperature"]
    if config.main.embeddings == "auxiliary_plus_delta":
        # The frozen auxiliary's own table, not a copy: this saves memory, and the delta refers to the table in use.
        table = cast(nn.Embedding, model.get_input_embeddings())
        if config.corruption.cache is not None:
            weights = table.weight.detach().to(inputs.execution.device, inputs.execution.auxiliary_dtype)
            table = nn.Embedding.from_pretrained(weights)
        disentangle(main, table)
        inputs.notes.append(
            f"the token embeddings are the auxiliary's {table.weight.numel():,} frozen weights plus a trained "
            "difference; the export folds them into one table."
        )
    corruption = config.corruption if initial is None else config.corruption.with_initial(initial)
    curriculum = config.model_copy(update={"corruption": corruption}).curriculum()
    if corruption != config.corruption:
        start = curriculum.difficulty(0.0).temperature
        inputs.notes.append(f"the temperature starts at {start}, chosen from the auxiliary's entropy.")
    told = (differing_replacements(phase, source, curriculum.difficulty(0.0)) for phase in inputs.phases)
    inputs.notes.extend(filter(None, told))
    objective = FastElectra(
        main=detector,
        source=source,
        curriculum=curriculum,
        masker=inputs.masker,
        optimizer=config.optimizer,
        include_special=settings.include_special,
        masked_weight=settings.masked_weight,
        head=head,
        weights={"rtd": 1.0} | ({"corrective": settings.corrective_weight} if head else {}),
    )
    # Dropout inside the auxiliary changes with every update, and each strength would need its own compilation.
    is_frozen = config.corruption.cache is None and model is not None and not corruption.augmentation.acts_inside
    return Built(objective, corruption, digest, measures, frozen=(model,) if is_frozen else ())


def sampled(auxiliary: Auxiliary, settings: CorruptionConfig, disallow_correct: bool) -> CorruptionSource:
    """Replacements that the sampler of the settings draws from an auxiliary on the fly.

    Raises:
        ConfigError, ModelError: the kernel cannot be used with this auxiliary, or here.
    """
    if settings.sampler == "triton":
        try:
            from fast_electra.corruption.triton_sampling import TritonSampling
        except ImportError:
            raise ConfigError(
                "corruption.sampler=triton needs the package triton, which is not installed: install it, or use "
                "corruption.sampler=inverse_cdf."
            ) from None
        return TritonSampling.of(auxiliary, disallow_correct)
    return OnTheFly(auxiliary, disallow_correct, settings.race_interval if settings.sampler == "race" else None)


def chosen_temperature(inputs: Inputs, auxiliary: Auxiliary, loaded: LoadedAuxiliary) -> float:
    """Choose T0 for `corruption.schedule.initial=auto` from the auxiliary's entropy on some validation rows."""
    rows = validation_batches(inputs, _CHECKED_ROWS)
    with inputs.execution.autocast():
        moved = (prepared.to(inputs.execution.device) for prepared in rows)
        tokens = int((~loaded.excluded_V).sum())
        return initial_temperature(auxiliary, ((p.batch, p.masked) for p in moved), tokens)


def _corrective_head(inputs: Inputs, detector: ReplacedTokenDetector, auxiliary: PreTrainedModel) -> CorrectiveHead:
    """A vocabulary head on the main model's encoder; `main.start=auxiliary` starts it from the auxiliary's head."""
    config = inputs.config
    # Another seed than the RTD head's, so that the first layers of the two heads start different.
    masked_lm = model_of(inputs, config.main, "main", "mlm", config.training.seed + 1)
    head = CorrectiveHead(masked_lm, detector)
    if config.main.start == "auxiliary":
        copied, total = len(head.start_from(auxiliary)), len(head.parameters())
        inputs.notes.append(f"{copied} of the vocabulary head's {total} weights start from the auxiliary's.")
    return head


def measured(inputs: Inputs, auxiliary: Auxiliary, loaded: LoadedAuxiliary) -> dict[str, float]:
    """The auxiliary's measures on some validation rows; also adds a sentence about them to `inputs.notes`."""
    rows = validation_batches(inputs, _CHECKED_ROWS)
    with inputs.execution.autocast():
        rows = [batch.to(inputs.execution.device) for batch in rows]
        measures, sentences = check_auxiliary(auxiliary, loaded, inputs.config, inputs.shards, rows)
    inputs.notes.extend(sentences)
    return measures


def build_electra(inputs: Inputs, settings: ElectraObjective) -> Built:
    """Build joint ELECTRA: a generator and a main model, with the weights that they share."""
    config = inputs.config
    # Another seed than the main model's, so that the two do not start with equal weights.
    generator = model_of(inputs, settings.generator, "objective.generator", "mlm", config.training.seed + 1)
    main = trained_model(inputs, "rtd")
    if settings.sharing == "tied":
        shared = set(tie(main, generator))
        count = sum(p.numel() for name, p in main.named_parameters() if name in shared)
        inputs.notes.append(f"main model and generator share {count:,} parameters: {', '.join(sorted(shared))}.")
    elif settings.sharing == "disentangled":
        table = cast(nn.Embedding, generator.get_input_embeddings())
        disentangle(main, table)
        inputs.notes.append(
            f"the main model's token embeddings are the generator's {table.weight.numel():,} parameters plus a trained "
            "difference; the export folds them into one table."
        )
    objective = Electra(
        main=ReplacedTokenDetector(main, inputs.by_document),
        generator=MaskedLM(generator, inputs.by_document),
        config=settings,
        mask_id=inputs.special["mask"],
        masker=inputs.masker,
        optimizer=config.optimizer,
        most_frequent=inputs.shards.most_frequent_token(),
        candidates=Candidates.of(excluded_tokens(inputs.tokenizer), inputs.execution.device),
    )
    return Built(objective)


def _digest(name: str) -> str | None:
    """The digest of a model's weights and configuration; None if they come from the hub."""
    source = Path(resolve_model(name))
    return function_digest(weights_digest(source), source) if source.is_dir() else None


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids of the special tokens that rows and masks need, by `pad`, `cls`, `sep` and `mask`.

    Raises:
        DataError: the tokenizer lacks one of them.
    """
    found = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
    for name, value in found.items():
        if value is None:
            raise DataError(f"the tokenizer {tokenizer.name_or_path} has no {name} token: use one that has it.")
    return found
