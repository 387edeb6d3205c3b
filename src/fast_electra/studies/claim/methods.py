"""The claim study's methods, its budgets in seconds, and its plan. This module does not need torch.

Notable: all methods train the quickstart's main model from new weights. A method changes only the settings that it
names.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_electra.errors import ConfigError

if TYPE_CHECKING:
    from fast_electra.studies.claim.corpora import StudyCorpus

REFERENCE = "joint"
"""the method that all others are compared to"""
# Rough estimates for the plan, with four layers × 256 on two cores.
_UPDATE_SECONDS = 0.4
_SHARDS_SECONDS = 60.0
_CHOOSING_SECONDS = 20.0


# --- What is compared -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way to pre-train the main model."""

    title: str
    settings: Mapping[str, dict[str, Any]]
    """sections of the configuration; joint ELECTRA's generator is added later"""
    auxiliary: bool = False
    """whether the method needs a trained auxiliary"""

    @property
    def overrides(self) -> str:
        """The settings as on a command line."""

        def lines(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
            for key, value in settings.items():
                if isinstance(value, Mapping):
                    yield from lines(value, f"{prefix}{key}.")
                else:
                    yield f"{prefix}{key}={value}"

        return " ".join(lines(self.settings))


def _fast_electra(title: str, schedule: dict[str, Any], **sections: dict[str, Any]) -> Method:
    return Method(f"Fast-ELECTRA, {title}", {"corruption": {"schedule": schedule}, **sections}, auxiliary=True)


_EXPONENTIAL = {"kind": "exponential", "initial": 2.0, "tau": 0.1}
METHODS: Mapping[str, Method] = {
    # With BERT's random and kept tokens. The auxiliary is trained without them, because it only ever sees [MASK].
    "mlm": Method("MLM", {"objective": {"kind": "mlm", "random": 0.1, "kept": 0.1}}),
    "joint": Method("joint ELECTRA, tied", {"objective": {"kind": "electra", "sharing": "tied"}}),
    "exponential": _fast_electra("exponential", _EXPONENTIAL),
    "constant-1": _fast_electra("constant 1", {"kind": "constant", "initial": 1.0}),
    "constant-2": _fast_electra("constant 2", {"kind": "constant", "initial": 2.0}),
    "slow": _fast_electra("exponential, tau 1", _EXPONENTIAL | {"tau": 1.0}),
    "adaptive": _fast_electra("adaptive", {"kind": "adaptive"}),
    "copied": _fast_electra("embeddings copied", _EXPONENTIAL, main={"embeddings": "copied"}),
    "delta": _fast_electra("auxiliary's table plus delta", _EXPONENTIAL, main={"embeddings": "auxiliary_plus_delta"}),
    "started": _fast_electra("started from auxiliary", _EXPONENTIAL, main={"start": "auxiliary"}),
    "unigram": Method("unigram", {"auxiliary": {"kind": "unigram"}, "corruption": {"schedule": {"kind": "constant"}}}),
    "uniform": Method("uniform", {"auxiliary": {"kind": "uniform"}, "corruption": {"schedule": {"kind": "constant"}}}),
}


class Contestant(NamedTuple):
    """A method with a budget."""

    method: str
    counted: bool
    """whether the auxiliary's seconds are subtracted from the main model's budget"""

    @property
    def title(self) -> str:
        """The contestant's name in tables and sentences."""
        return METHODS[self.method].title + (", auxiliary counted" if self.counted else "")


@dataclass(frozen=True)
class Study:
    """The settings of a claim study."""

    seconds: float = 120.0
    """seconds of training of each run"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """seeds of pre-training; fine-tuning uses the same seed"""
    methods: tuple[str, ...] = ("mlm", "joint", "exponential", "constant-1")
    auxiliary_share: float = 1 / 3
    """the auxiliary's seconds of training, as a share of `seconds`"""
    choosing_seed: int = 99
    """seed of the runs that choose learning rates"""
    choosing_share: float = 1 / 3
    """seconds of a run that chooses a learning rate, as a share of `seconds`"""
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """factors on the preset's learning rate to try"""
    rounds: int = 7
    """number of turns of each method when speed is measured"""
    timed_updates: int = 8
    """number of timed updates in a turn"""
    overrides: tuple[str, ...] = ()
    """settings `section.key=value` for every run"""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a setting is wrong.
        """
        if not self.seconds > 0:
            raise ConfigError(f"--seconds {self.seconds:g}: give a number above 0.")
        if not 0 < self.auxiliary_share < 1:
            raise ConfigError(f"--auxiliary-share {self.auxiliary_share:g}: give a share between 0 and 1.")
        if not self.factors or len(set(self.factors)) < len(self.factors) or not min(self.factors) > 0:
            raise ConfigError("--factors: give one or more different numbers above 0.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError("--seeds: give one or more different whole numbers from 0.")
        if self.choosing_seed in self.seeds:
            raise ConfigError(
                f"--seeds: {self.choosing_seed} is the seed that chooses learning rates: give other seeds."
            )
        for name in self.methods:
            if name not in METHODS:
                close = difflib.get_close_matches(name, METHODS, n=1)
                remedy = f"did you mean {close[0]}?" if close else f"the methods are {', '.join(METHODS)}."
                raise ConfigError(f"--methods: {name} is no method; {remedy}")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError("--methods: a method appears twice: give each once.")
        if REFERENCE not in self.methods:
            raise ConfigError(f"--methods: {REFERENCE} is missing, and the others are compared with it: add it.")

    @property
    def auxiliary_seconds(self) -> float:
        """The seconds of an auxiliary's training."""
        return self.auxiliary_share * self.seconds

    @property
    def choosing_seconds(self) -> float:
        """The seconds of a run that chooses a learning rate."""
        return self.choosing_share * self.seconds

    @property
    def contestants(self) -> list[Contestant]:
        """All methods; those with an auxiliary appear twice, with both budgets."""
        budgets = {name: (False, True) if METHODS[name].auxiliary else (False,) for name in self.methods}
        return [Contestant(name, counted) for name, found in budgets.items() for counted in found]

    def seconds_of(self, contestant: Contestant) -> float:
        """The seconds of training of a contestant's main model."""
        return self.seconds - self.auxiliary_seconds * contestant.counted


def updates_of(seconds: float, updates_per_second: float) -> int:
    """A budget as a number of updates, at least 1."""
    return max(1, round(seconds * updates_per_second))


def plan(study: Study, corpora: "Sequence[StudyCorpus]") -> list[dict[str, Any]]:
    """List the steps of a study that starts from nothing.

    Returns:
        for each step `corpus`, `what`, `seconds` (the budget of training) and `other_seconds` (an estimate).
    """
    methods = [METHODS[name].title for name in study.methods]
    has_auxiliary = any(METHODS[name].auxiliary for name in study.methods)
    found: list[dict[str, Any]] = []
    for corpus in corpora:
        timed = study.rounds * (study.timed_updates + 1) * (len(methods) + 1)
        steps = {"tokens": (0.0, _SHARDS_SECONDS), "calibration": (0.0, timed * _UPDATE_SECONDS)}
        for seed in (study.choosing_seed, *(study.seeds if has_auxiliary else ())):
            steps[f"auxiliary, seed {seed}"] = study.auxiliary_seconds, 0.0
        for title in methods:
            for factor in study.factors:
                name = f"{title}, seed {study.choosing_seed}, learning rates × {factor:g}"
                steps[name] = study.choosing_seconds, _CHOOSING_SECONDS
        for seed in study.seeds:
            for contestant in study.contestants:
                steps[f"{contestant.title}, seed {seed}"] = study.seconds_of(contestant), corpus.judging_seconds
        steps["baselines"] = 0.0, corpus.judging_seconds
        found += [
            {"corpus": corpus.name, "what": what, "seconds": seconds, "other_seconds": other}
            for what, (seconds, other) in steps.items()
        ]
    return found
