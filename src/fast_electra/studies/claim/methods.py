"""What the claim study compares: methods, budgets in seconds, and the plan of a study; torch is not needed for it.

Notable: all methods train the quickstart's main model from fresh weights, at its preset's settings but for what a
method says.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_electra.errors import ConfigError

if TYPE_CHECKING:
    from fast_electra.studies.claim.corpora import Corpus

REFERENCE = "joint"
"""the method that all others are compared to"""
# Guesses for the plan alone, of four layers of 256 on two cores.
_UPDATE_SECONDS = 0.4
_SHARDS_SECONDS = 60.0
_CHOOSING_SECONDS = 20.0


# --- What is compared -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way to pre-train the main model."""

    title: str
    settings: Mapping[str, dict[str, Any]]
    """sections of the configuration; joint ELECTRA's generator is filled in"""
    auxiliary: bool = False
    """it needs one that was trained"""

    @property
    def overrides(self) -> str:
        """The settings as one would give them."""

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
    # BERT's random and kept tokens; the auxiliary, which only ever sees [MASK], goes without.
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
    """A method under a budget."""

    method: str
    counted: bool
    """the auxiliary's seconds come off the method's own"""

    @property
    def title(self) -> str:
        """Its name in tables and sentences."""
        return METHODS[self.method].title + (", auxiliary counted" if self.counted else "")


@dataclass(frozen=True)
class Study:
    """What is asked for."""

    seconds: float = 120.0
    """of training, each run"""
    seeds: tuple[int, ...] = (1, 2, 3)
    """of pre-training; fine-tuning takes the run's"""
    methods: tuple[str, ...] = ("mlm", "joint", "exponential", "constant-1")
    auxiliary_share: float = 1 / 3
    """the auxiliary's training, as a share of the seconds"""
    choosing_seed: int = 99
    choosing_share: float = 1 / 3
    """of the seconds, for the runs that choose a learning rate"""
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """that the preset's learning rates are tried with"""
    rounds: int = 7
    """turns of each method when speed is measured"""
    timed_updates: int = 8
    """in a turn"""
    overrides: tuple[str, ...] = ()
    """`section.key=value` for every run"""

    def __post_init__(self) -> None:
        """Refuse what can't be.

        Raises:
            ConfigError: says what, and what to do.
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
                f"--seeds: {self.choosing_seed} is the seed that learning rates are chosen by; take others."
            )
        for name in self.methods:
            if name not in METHODS:
                close = difflib.get_close_matches(name, METHODS, n=1)
                remedy = f"did you mean {close[0]}?" if close else f"the methods are {', '.join(METHODS)}."
                raise ConfigError(f"--methods: {name} is no method; {remedy}")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError("--methods: one is there twice.")
        if REFERENCE not in self.methods:
            raise ConfigError(f"--methods: {REFERENCE} is missing, which the others are compared to.")

    @property
    def auxiliary_seconds(self) -> float:
        """The auxiliary's budget."""
        return self.auxiliary_share * self.seconds

    @property
    def choosing_seconds(self) -> float:
        """The budget of a run that chooses a learning rate."""
        return self.choosing_share * self.seconds

    @property
    def contestants(self) -> list[Contestant]:
        """All methods, those with an auxiliary under both budgets."""
        budgets = {name: (False, True) if METHODS[name].auxiliary else (False,) for name in self.methods}
        return [Contestant(name, counted) for name, found in budgets.items() for counted in found]

    def seconds_of(self, contestant: Contestant) -> float:
        """What a contestant may spend on its main model."""
        return self.seconds - self.auxiliary_seconds * contestant.counted


def updates_of(seconds: float, updates_per_second: float) -> int:
    """A budget as updates, one at least."""
    return max(1, round(seconds * updates_per_second))


def plan(study: Study, corpora: "Sequence[Corpus]") -> list[dict[str, Any]]:
    """Everything that a study does where nothing is there yet.

    Returns:
        `corpus`, `what`, `seconds` (of training: those that are given) and `other_seconds` (a guess) of each step.
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
