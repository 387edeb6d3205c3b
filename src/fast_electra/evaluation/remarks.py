"""Sentences about results: what a table of scores does not show.

Notable: a model that does not beat a baseline is named, and so is one whose lead is smaller than its seeds can detect.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fast_electra.evaluation.glue_scores import AVERAGES, averages
from fast_electra.evaluation.results import BASELINES, Result, Scores, spread


def remarks(result: Result) -> list[str]:
    """Return sentences about a result: failures, weak results, chosen rates, repeated texts, overlap."""
    found: list[str] = []
    if result.n_train < result.n_all and not result.curve:
        found.append(
            f"{result.task}: {result.n_train:,} of {result.n_all:,} training examples were used, by the encoder and "
            "every baseline."
        )
    for seed, reason in result.failed.items():
        found.append(f"{result.title}: seed {seed} has no score ({reason}) and is left out of median and mean.")
    if result.degenerate:
        seeds = ", ".join(map(str, result.degenerate))
        found.append(f"{result.title}: every dev example got the same answer from seed {seeds}.")
    if weak := _not_beaten(result):
        found.append(weak)
    found += _pair_remarks(result)
    if result.against is not None:
        found.append(f"{result.title}: {result.against['sentence']}.")
    if result.selection is not None:
        own, other = result.selection, result.selection["untrained"]
        sentence = (
            f"{result.title}: the learning rate {result.recipe['learning_rate']:g} was chosen on {own['examples']:,} "
            f"training examples held out ({_tried(own['scores'])})"
        )
        if other:
            sentence += (
                f", and for the untrained encoder {other['learning_rate']:g} on the same ones "
                f"({_tried(other['scores'])})"
            )
        found.append(f"{sentence}.")
    for split, count in result.repeated.items():
        examples = f"1 {split} example is" if count == 1 else f"{count:,} {split} examples are"
        end = (
            "left out of the scores, since equal texts are in train."
            if result.drops_repeated
            else "also in train, which makes the scores too good: --drop-overlap leaves out such examples."
        )
        found.append(f"{result.title}: {examples} {end}")
    for split, count in result.cut_entities.items():
        entities = "1 entity is" if count == 1 else f"{count:,} entities are"
        found.append(
            f"{result.title}: {entities} beyond the longest text of the model in {split}, and counted as missed."
        )
    if result.overlap is not None:
        for split, counts in result.overlap["counts"].items():
            if counts["checked"]:
                found.append(
                    f"{result.title}: {counts['seen']:,} of {counts['checked']:,} {split} texts of eight words or more "
                    f"occur in {result.overlap['corpus']}; {counts['texts'] - counts['checked']:,} shorter ones are "
                    "not checked."
                )
    return found


def _tried(scores: Mapping[str, float | None]) -> str:
    return ", ".join(f"{rate}: {'failed' if score is None else f'{100 * score:.1f}'}" for rate, score in scores.items())


def _pair_remarks(result: Result) -> list[str]:
    """Sentences about a task of minimal pairs: how it was judged, and its baselines on the same pairs."""
    if not (details := result.details):
        return []
    whole = details["groups"]["all"]["all"]
    metric = result.metric
    how = "whole sets resampled" if whole["sets"] > 1 else "Wilson's"
    per_set = "all" if details["per_set"] is None else f"at most {details['per_set']:,} of each set, by their digests"
    found = [
        f"{result.task}: {whole['n']:,} pairs in {whole['sets']} set{'s' * (whole['sets'] > 1)} ({per_set}), judged by "
        f"{details['way']}: {metric} {100 * whole[metric][0]:.1f}, 95 % interval {100 * whole[metric][1]:.1f} to "
        f"{100 * whole[metric][2]:.1f} ({how})."
    ]
    for name, of in details["differences"].items():
        difference, low, high = (100 * value for value in of[metric])
        if difference < 0:
            difference, low, high = -difference, -high, -low
            side = "behind"
        else:
            side = "ahead of"
        found.append(
            f"{result.task}: by the {metric} {side} {BASELINES[name]} by {difference:.1f} points on the same "
            f"{of['n']:,} pairs, interval {low:.1f} to {high:.1f}."
        )
    return [sentence.replace(" -", " −") for sentence in found]


def _not_beaten(result: Result) -> str | None:
    """A sentence if the median is not clearly above every baseline, except baselines that are compared pair by pair."""
    found = spread(result.of())
    if found.median is None:
        return None
    by_pairs = result.details.get("differences", {})
    names = [name for name in BASELINES if name not in by_pairs]
    scores = {name: score for name in names if (score := result.baseline(name)) is not None}
    if result.against is not None:  # it has a sentence of its own
        scores.pop("untrained", None)
    score = f"{result.title}: {result.metric} {100 * found.median:.1f}"
    if worse := [name for name, score in scores.items() if found.median <= score]:
        names = [f"{BASELINES[name]} ({100 * scores[name]:.1f})" for name in worse]
        return f"{score} does not beat {listed(names)}."
    near = [name for name, score in scores.items() if found.detectable and found.median - score < found.detectable]
    if near:
        names = [f"{BASELINES[name]} ({100 * scores[name]:.1f})" for name in near]
        return f"{score} is above {listed(names)} by less than these seeds can detect."
    return None


def listed(names: Sequence[str]) -> str:
    """Return names as part of a sentence: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


class Averaged(NamedTuple):
    """The value of a published average of GLUE."""

    name: str
    setup: str
    value: float
    of: str
    """which scores are averaged"""


def averages_of(results: Sequence[Result]) -> list[Averaged]:
    """Return the averages, of medians over seeds, for each setup that has all tasks of an average."""
    found: list[Averaged] = []
    for setup in dict.fromkeys(result.setup for result in results):
        medians: dict[str, Scores] = {}
        for result in results:
            if result.setup == setup and result.of():
                medians[result.task] = {
                    split: {metric: statistics.median(result.of(split, metric)) for metric in metrics}
                    for split, metrics in result.scores.items()
                }
        found += [Averaged(name, setup, value, AVERAGES[name].of) for name, value in averages(medians).items()]
    return found
