"""The configuration of every run of the claim study, and its name.

Notable:
- joint ELECTRA's generator and Fast-ELECTRA's auxiliary have one shape, the lower half of the main model's layers;
- a run is named after everything that it depends on, so the same run is never made twice, wherever the folder lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fast_electra.config.loading import load_config
from fast_electra.config.tree import Config
from fast_electra.data.files import canonical_digest
from fast_electra.models.shapes import ModelConfig
from fast_electra.objectives.settings import ObjectiveConfig
from fast_electra.studies.bench.setup import with_settings
from fast_electra.studies.claim.corpora import Corpus
from fast_electra.studies.claim.methods import METHODS, Study


def helper_shape(main: ModelConfig) -> dict[str, Any]:
    """Generator and auxiliary: the main model's shape with half of its layers, the lower ones."""
    assert main.layers is not None
    kept = ("architecture", "layers", "hidden_size", "heads", "intermediate_size", "dropout", "options")
    return main.with_layers(max(1, main.layers // 2)).model_dump(mode="json", include=set(kept))


def identity_of(config: Config) -> dict[str, Any]:
    """The settings that a stored run or speed is named after; the execution's are in `training`, as they were first."""
    tree = config.model_dump(mode="json")
    return tree | {"training": tree["training"] | tree.pop("execution")}


@dataclass(frozen=True)
class Planned:
    """A run that may be there already."""

    name: str
    """of its folder"""
    config: Config
    seconds: float
    """that it is given"""
    auxiliary: "Planned | None" = None


@dataclass(frozen=True)
class Material:
    """What all configurations of one corpus share."""

    study: Study
    corpus: Corpus
    runs: Path
    shards: Path
    fingerprint: str
    """of the shards"""

    @cached_property
    def base(self) -> Config:
        """The quickstart's main model with fresh weights, on this corpus."""
        return self._of("quickstart", ["main.start=fresh"])

    def _of(self, preset: str, settings: Sequence[str] = ()) -> Config:
        config = load_config(preset, [*settings, *self.study.overrides])
        return with_settings(config, data={**self.corpus.settings(config.data), "shards": str(self.shards)})

    def method(self, name: str, updates: int, seed: int, factor: float = 1.0, auxiliary: Path | None = None) -> Config:
        """The configuration of a method.

        Args:
            name: of `METHODS`.
            updates: of the run.
            seed: of the run.
            factor: on the learning rate of the preset.
            auxiliary: a run or folder, for the methods that need one.
        """
        base, settings = self.base, {section: dict(values) for section, values in METHODS[name].settings.items()}
        kind = settings.get("objective", {}).get("kind", ObjectiveConfig.default_kind)
        if "generator" in ObjectiveConfig.kinds[kind].model_fields:
            settings["objective"]["generator"] = helper_shape(base.main)
        settings["optimizer"] = {"learning_rate": base.optimizer.learning_rate * factor}
        settings["training"] = {"updates": updates, "seed": seed}
        if METHODS[name].auxiliary:
            settings["auxiliary"] = {"model": str(auxiliary)}
        return with_settings(base, **settings)

    def auxiliary(self, updates: int, seed: int) -> Config:
        """The quickstart's auxiliary in the generator's shape, with [MASK] at every masked position."""
        return with_settings(
            self._of("quickstart-auxiliary"),
            main=helper_shape(self.base.main),
            objective={"kind": "mlm", "random": 0.0, "kept": 0.0},
            training={"updates": updates, "seed": seed},
        )

    def planned(self, name: str, config: Config, seconds: float, auxiliary: Planned | None = None) -> Planned:
        """A run, named after everything that it depends on; where shards and auxiliary lie is not part of that."""
        tree = identity_of(config)
        tree["data"]["shards"] = self.fingerprint
        tree["auxiliary"]["model"] = auxiliary and auxiliary.name
        digest = canonical_digest(tree)[:12]
        return Planned(f"{name}-{self.corpus.name}-{config.training.seed}-{digest}", config, seconds, auxiliary)
