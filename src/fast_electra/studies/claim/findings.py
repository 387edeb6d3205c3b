"""The claim study's findings: means, intervals and differences from joint ELECTRA, in points.

Notable:
- intervals are Student's over pre-training seeds, and differences are paired by seed;
- a difference is not decided if its interval contains 0, or if it is below the minimal detectable difference.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fast_electra.evaluation.comparison import Comparison, minimal_detectable_difference
from fast_electra.evaluation.metrics import student_interval
from fast_electra.studies.claim.corpora import StudyRecord
from fast_electra.studies.claim.methods import METHODS, REFERENCE, Contestant


class Measure(NamedTuple):
    """A measure that methods are compared by."""

    name: str
    title: str
    metric: str
    zero_shot: bool
    """whether it is measured without fine-tuning; then masked language models have no comparable value"""


def summarise(contestant: Contestant, questions: Sequence[Measure], runs: Sequence[StudyRecord]) -> StudyRecord:
    """A contestant's mean over seeds and Student's 95 % interval for each question, in points; None with one seed."""
    found: StudyRecord = {"contestant": contestant.title, "method": contestant.method, "counted": contestant.counted}
    scores: dict[str, StudyRecord] = {}
    for question in questions:
        by_seed = _scores(contestant, question.name, runs)
        if by_seed:
            mean, low, high = (_rounded(value) for value in student_interval(list(by_seed.values())))
            scores[question.name] = {"mean": mean, "low": low, "high": high, "seeds": len(by_seed)}
    return found | {"scores": scores}


def differences(
    contestants: Sequence[Contestant], questions: Sequence[Measure], runs: Sequence[StudyRecord]
) -> list[StudyRecord]:
    """The difference of every other contestant from joint ELECTRA, paired by seed, in points.

    Masked language models are left out of questions without fine-tuning, because they answer a different question.
    """
    reference = Contestant(REFERENCE, counted=False)
    found: list[StudyRecord] = []
    for question in questions:
        base = _scores(reference, question.name, runs)
        for contestant in contestants:
            if contestant == reference or (contestant.method == "mlm" and question.zero_shot):
                continue
            scores = _scores(contestant, question.name, runs)
            seeds = [seed for seed in scores if seed in base]
            if seeds:
                pairs = [scores[seed] for seed in seeds], [base[seed] for seed in seeds]
                found.append({"question": question.name} | _difference(contestant.title, question, *pairs))
    return found


def _difference(title: str, question: Measure, scores: list[float], base: list[float]) -> StudyRecord:
    reference = METHODS[REFERENCE].title
    mean, low, high = student_interval(np.subtract(scores, base))
    detectable = minimal_detectable_difference(scores, base, paired=True)
    seeds = len(scores)
    if detectable is None:
        ahead, behind = (title, reference) if mean >= 0 else (reference, title)
        sentence = f"{ahead} is ahead of {behind} by {abs(mean):.1f} points, 1 seed: not decided"
        decided = False
    else:
        comparison = Comparison(
            title, reference, question.metric, mean, low, high, detectable, (seeds, seeds), paired=True, examples=0
        )
        sentence, decided = comparison.sentence, comparison.decided
    return {
        "contestant": title,
        "difference": _rounded(mean),
        "low": _rounded(low),
        "high": _rounded(high),
        "detectable": None if detectable is None else _rounded(detectable),
        "seeds": seeds,
        "decided": decided,
        "sentence": f"{question.title}: {sentence}.",
    }


def _scores(contestant: Contestant, question: str, runs: Sequence[StudyRecord]) -> dict[int, float]:
    """A contestant's scores of a question by seed, as far as they exist."""
    return {
        run["seed"]: run["scores"][question]
        for run in runs
        if (run["method"], run["counted"]) == contestant and question in run["scores"]
    }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)
