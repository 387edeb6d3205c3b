"""The configuration and the name of every run of the claim study.

Notable:
- joint ELECTRA's generator and Fast-ELECTRA's auxiliary have the same shape: half of the main model's layers;
- a run's name contains a digest of everything that it depends on except paths, so the same run is never trained twice.
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
from fast_electra.studies.claim.corpora import StudyCorpus
from fast_electra.studies.claim.methods import METHODS, Study


def helper_shape(main: ModelConfig) -> dict[str, Any]:
    """The shape of generator and auxiliary: that of the main model with half of its layers, the lower ones."""
    assert main.layers is not None
    kept = ("architecture", "layers", "hidden_size", "heads", "intermediate_size", "dropout", "options")
    return main.with_layers(max(1, main.layers // 2)).model_dump(mode="json", include=set(kept))


def identity_of(config: Config) -> dict[str, Any]:
    """The settings that identify a stored run or speed; `training` includes `execution`, as in earlier versions."""
    tree = config.model_dump(mode="json", exclude={"training": {"trackers"}})
    return tree | {"training": tree["training"] | tree.pop("execution")}


@dataclass(frozen=True)
class Planned:
    """A run that is to be trained or exists already."""

    name: str
    """name of the run's folder"""
    config: Config
    seconds: float
    """budget of training"""
    auxiliary: "Planned | None" = None
    """the auxiliary's run that it needs"""


@dataclass(frozen=True)
class Material:
    """What all runs on one corpus share; it makes their configurations."""

    study: Study
    corpus: StudyCorpus
    runs: Path
    shards: Path
    fingerprint: str
    """fingerprint of the shards"""

    @cached_property
    def base(self) -> Config:
        """The configuration of the quickstart's main model with new weights, on this corpus."""
        return self._of("quickstart", ["main.start=fresh"])

    def _of(self, preset: str, settings: Sequence[str] = ()) -> Config:
        config = load_config(preset, [*settings, *self.study.overrides])
        return with_settings(config, data={**self.corpus.settings(config.data), "shards": str(self.shards)})

    def method(self, name: str, updates: int, seed: int, factor: float = 1.0, auxiliary: Path | None = None) -> Config:
        """The configuration of a method's run.

        Args:
            name: a key of `METHODS`.
            updates: number of updates of the run.
            seed: of the run.
            factor: multiplies the preset's learning rate.
            auxiliary: a run or folder, for methods that need an auxiliary.
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
        """The configuration of the quickstart's auxiliary in the generator's shape; every masked token is [MASK]."""
        return with_settings(
            self._of("quickstart-auxiliary"),
            main=helper_shape(self.base.main),
            objective={"kind": "mlm", "random": 0.0, "kept": 0.0},
            training={"updates": updates, "seed": seed},
        )

    def planned(self, name: str, config: Config, seconds: float, auxiliary: Planned | None = None) -> Planned:
        """Plan a run; its name depends on everything but the paths of shards and auxiliary."""
        tree = identity_of(config)
        tree["data"]["shards"] = self.fingerprint
        tree["auxiliary"]["model"] = auxiliary and auxiliary.name
        digest = canonical_digest(tree)[:12]
        return Planned(f"{name}-{self.corpus.name}-{config.training.seed}-{digest}", config, seconds, auxiliary)
