"""Checks that a corruption cache fits the settings of a run, and opens it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_electra.config.reading import setting
from fast_electra.corruption.cache import CorruptionCache, open_cache
from fast_electra.corruption.settings import CorruptionConfig
from fast_electra.errors import ConfigError
from fast_electra.training.auxiliary import LoadedAuxiliary

if TYPE_CHECKING:
    from fast_electra.training.assembly import Inputs


def open_run_caches(inputs: "Inputs", loaded: LoadedAuxiliary | None) -> list[CorruptionCache]:
    """Open the corruption cache of each phase, and add a sentence about each cache to the run's `inputs.notes`.

    Raises:
        ConfigError, DataError: it was made for another run, has too few rows, or is damaged.
    """
    opened: dict[Path, CorruptionCache] = {}
    for phase in inputs.phases:
        folder = phase.config.corruption.cache
        assert folder is not None
        cache = opened[folder] if folder in opened else open_cache(folder)
        cache.refuse_other(cache_identity(phase, loaded))
        if inputs.config.known_updates is not None:
            cache.refuse_short(phase.plan.end)
        if folder in opened:
            continue
        opened[folder] = cache
        made = cache.about["numerics"]
        inputs.notes.append(
            f"replacements come from the cache {cache.folder} of {cache.rows:,} rows, computed in {made['precision']} "
            f"on {made['device']}."
        )
    auxiliaries = {cache.about["identity"]["auxiliary.model"]: cache for cache in opened.values()}
    if len(auxiliaries) > 1:
        one, other, *_ = auxiliaries.values()
        raise ConfigError(
            f"the corruption caches {one.folder} and {other.folder} were made with different auxiliaries: run "
            "`fast-electra corrupt` with one auxiliary for every phase."
        )
    return [opened[phase.config.corruption.cache] for phase in inputs.phases if phase.config.corruption.cache]


def cache_identity(inputs: "Inputs", loaded: LoadedAuxiliary | None) -> dict[str, Any]:
    """What a cache must have been made with, by configuration key; without `loaded`, the auxiliary is not included."""
    config, shards = inputs.config, inputs.shards
    found = {
        "data.shards": shards.fingerprint,
        "data.tokenizer": shards.tokenizer_fingerprint,
        "data.length": config.data.length,
        "data.attention": config.data.attention,
        "training.seed": config.training.seed,
        "training.validation_sequences": min(config.training.validation_sequences, inputs.rows("validation").count),
        "corruption.masking": config.corruption.masking.model_dump(mode="json"),
        "corruption.race_interval": list(config.corruption.race_interval),
        "objective.disallow_correct": config.objective.never_draws_original,
    }
    if inputs.plan.order:
        found["phases"] = inputs.plan.order
    return found | ({"auxiliary.model": loaded.digest, "auxiliary.kind": loaded.part.kind} if loaded else {})


def refuse_unreplayable(config: CorruptionConfig) -> None:
    """Check that the schedule stays within `race_interval`, the temperatures that the cache can replay.

    Raises:
        ConfigError: it does not.
    """
    # `initial=auto` chooses 2 at most.
    schedule, (low, high) = config.schedule.with_initial(2.0), config.race_interval
    lowest, highest = schedule.bounds()
    if lowest < low or highest > high:
        raise ConfigError(
            f"corruption.schedule ({schedule.kind}) goes from {highest:g} to {lowest:g}, outside of "
            f"corruption.race_interval=[{low:g}, {high:g}]: change the schedule, or give "
            + setting("corruption.race_interval", [min(low, lowest), max(high, highest)])
            + (" and another cache." if config.cache else ".")
        )
