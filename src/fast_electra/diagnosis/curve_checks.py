"""Checks on a run's curves: each check is a function of the configuration and the metric records.

Notable:
- a check says what was measured, what is normal and what to try; without enough data it returns nothing;
- the same checks run on a finished run (`doctor`) and during training (`DoctorObserver`);
- every limit has a reason next to it: a published setting, an interval of a known distribution, or runs of the presets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log, sqrt
from statistics import NormalDist, median
from typing import Literal

from fast_electra.config.tree import Config
from fast_electra.diagnosis.references import FIELDS, matching_reference
from fast_electra.runs.metrics import Record

Severity = Literal["ok", "skipped", "warning", "problem"]

_EARLY = 0.1  # before this share of a run, no check judges what the model has learned
_LATE = 0.5  # from this share on, such a finding is a problem, not a warning
_GOOD_AUC = 0.7  # the quickstart's main model reaches it after a third of its run
_FALSE_ALARM = 1e-4  # probability of a false alarm in a whole run, for checks against a known distribution


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    severity: Severity
    measured: str
    normal: str = ""
    remedy: str = ""
    """what to try; empty if nothing is wrong"""

    def sentence(self) -> str:
        """The finding on one line: check, measured, normal and remedy."""
        parts = [f"{self.check}: {self.measured}", f"normal: {self.normal}" if self.normal else "", self.remedy]
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class Curves:
    """A run's configuration and its metric records so far."""

    config: Config
    updates: int
    """number of updates of the whole run"""
    records: Sequence[Record]

    def progress(self, record: Record) -> float:
        """The share of the run's updates that are done at a record."""
        return record["update"] / self.updates

    def latest(self, *fields: str) -> tuple[float, Mapping[str, float]] | None:
        """Progress and measures of the newest validation that has all of `fields`; None if there is none."""
        for record in reversed(self.records):
            if set(fields) <= set(record.get("validation", ())):
                return self.progress(record), record["validation"]
        return None

    def trained(self, field: str) -> list[tuple[Record, float]]:
        """The records after the warm-up that have a finite value of a field, with that value."""
        after = self.config.optimizer.warmup
        pairs = [(record, record[field]) for record in self.records if field in record]
        return [(r, value) for r, value in pairs if self.progress(r) > after and isfinite(value)]

    def groups(self, field: str) -> list[str]:
        """The names of a field for all optimizer groups: `clipped`, or `clipped.main` and `clipped.generator`."""
        names = {name for record in self.records for name in record}
        return sorted(name for name in names if name == field or name.startswith(f"{field}."))


CurveCheck = Callable[[Curves], list[Finding]]


def finite_numbers(curves: Curves) -> list[Finding]:
    """Look for NaN and infinity in the records."""
    normal = "every number is finite"
    for record in curves.records:
        for name, value in _numbers(record):
            if not isfinite(value):
                remedy = "lower optimizer.learning_rate or raise optimizer.warmup, and start in a new folder"
                measured = f"{name} is {value} at update {record['update']}"
                return [Finding("finite numbers", "problem", measured, normal, remedy)]
    return [Finding("finite numbers", "ok", f"{len(curves.records)} records", normal)]


def unigram_plateau(curves: Curves) -> list[Finding]:
    """Check that a masked language model (auxiliary or generator) has learned more than token frequencies."""
    found = curves.latest("masked_accuracy", "unigram_accuracy")
    if found is None or found[0] < _EARLY:
        return []
    progress, measures = found
    return [plateau_finding("unigram plateau", measures["masked_accuracy"], measures["unigram_accuracy"], progress)]


def plateau_finding(check: str, accuracy: float, unigram: float, progress: float) -> Finding:
    """Compare a masked language model's accuracy with the unigram baseline's, at a progress of its run.

    On the plateau a model has learned which tokens are frequent, but nothing about context. The quickstart's auxiliary
    leaves the plateau after 8 % of its run. 0.02 is three standard errors at 5,000 masked positions.
    """
    measured = f"masked accuracy {accuracy:.3f}, unigram baseline {unigram:.3f}"
    normal = f"clearly above the baseline after {_EARLY:.0%} of a run"
    if accuracy >= unigram + 0.02:
        return Finding(check, "ok", measured, normal)
    remedy = (
        "train the masked language model longer; a higher learning rate, objective.random=0.2 "
        "or a smaller vocabulary make it leave the plateau sooner"
    )
    return Finding(check, "problem" if progress >= _LATE else "warning", measured, normal, remedy)


def rtd_chance(curves: Curves) -> list[Finding]:
    """Check that the main model detects replaced tokens better than chance.

    The check uses the validation's `rtd_auc` (standard error 0.005 at 256 rows of 128 tokens). Before the first
    validation it compares the RTD loss with the entropy of the share of replaced tokens, which is the loss of always
    predicting that share. A run that ends below 0.7 has learned something, but too little.
    """
    if not curves.config.objective.detects:
        return []
    found = curves.latest("rtd_auc")
    if found and found[0] >= _EARLY:
        progress, auc = found[0], found[1]["rtd_auc"]
        measured, normal = f"ROC-AUC {auc:.3f}", f"above {_GOOD_AUC} at the end of the presets' runs; 0.5 is chance"
        sick = auc < 0.52
        if not sick and auc <= _GOOD_AUC and progress >= 1:
            remedy = (
                "first follow the findings on hidden states and learning rate; then train longer, or start from a "
                "frozen auxiliary's weights (main.start=auxiliary)"
            )
            return [Finding("rtd chance", "warning", measured, normal, remedy)]
    else:
        records = [r for r in curves.records if curves.progress(r) >= _EARLY and {"rtd", "replaced_fraction"} <= set(r)]
        if len(records) < 5:
            return []
        progress, newest = curves.progress(records[-1]), records[-5:]
        rate, weight = curves.config.corruption.masking.rate, getattr(curves.config.objective, "masked_weight", 1.0)
        rates = [r["replaced_fraction"] * rate * weight / (1.0 + rate * (weight - 1.0)) for r in newest]
        base = sum(-p * log(p) - (1 - p) * log(1 - p) for p in rates if 0 < p < 1) / len(rates)
        loss = sum(r["rtd"] for r in newest) / len(newest)
        measured = f"RTD loss {loss:.3f}; always predicting the share of replaced tokens has a loss of {base:.3f}"
        normal, sick = f"at least 2 % below that loss after {_EARLY:.0%} of a run", loss > 0.98 * base
    if not sick:
        return [Finding("rtd chance", "ok", measured, normal)]
    remedy = (
        "first follow the findings on learning rate, weights and auxiliary; if these are ok, train longer, or start "
        "with easier replacements: raise corruption.schedule.initial"
    )
    return [Finding("rtd chance", "problem" if progress >= _LATE else "warning", measured, normal, remedy)]


def replaced_share(curves: Curves) -> list[Finding]:
    """Compare the share of replaced positions with its known expectation, for each record and for the whole run.

    Over n masked positions, the expected number of replacements is the sum of `1 - p_T(original)`. Its variance is at
    most n e (1 - e), where e is the expected share. The limit has Bonferroni's correction for all records and their
    total; a difference of 0.001 is allowed for rounding.
    """
    counted = []
    previous = 0
    for record in curves.records:
        share, expected = record.get("replaced_fraction"), record.get("replaced_fraction_expected")
        window = min(curves.config.training.log_every, record["update"])
        tokens = record["tokens"] - previous if previous else record["tokens"] * window / record["update"]
        previous = record["tokens"]
        if share is not None and expected is not None and isfinite(share) and isfinite(expected):
            counted.append((record["update"], tokens * curves.config.corruption.masking.rate, share, expected))
    if not counted:
        return []
    limit = NormalDist().inv_cdf(1 - _FALSE_ALARM / 2 / (len(counted) + 1))
    total = sum(n for _, n, _, _ in counted)
    whole = (0, total, sum(n * s for _, n, s, _ in counted) / total, sum(n * e for _, n, _, e in counted) / total)
    deviations = [
        (
            max(0.0, abs(share - expected) - 1e-3) / sqrt(max(expected * (1 - expected), 1e-9) / n),
            update,
            share,
            expected,
        )
        for update, n, share, expected in [*counted, whole]
    ]
    worst, update, share, expected = max(deviations)
    where = f"at update {update}" if update else "over the run"
    measured = f"{share:.4f} {where}, expected {expected:.4f}: {worst:.1f} standard errors apart"
    normal = f"at most {limit:.1f} standard errors from the expectation, in every record"
    if worst <= limit:
        return [Finding("replaced fraction", "ok", measured, normal)]
    remedy = (
        "the sampling is wrong, or the cache was made by another auxiliary: report it with run.json and metrics.jsonl"
    )
    return [Finding("replaced fraction", "problem", measured, normal, remedy)]


def gradient_norm(curves: Curves) -> list[Finding]:
    """Check for large changes of the gradients: compare the last fifth of the run with the first third."""
    findings = []
    for field in curves.groups("gradient_norm"):
        pairs = curves.trained(field)
        if len(pairs) < 15:
            continue
        values = [value for _, value in pairs]
        early, late = median(values[: len(values) // 3]), median(values[-max(3, len(values) // 5) :])
        measured = f"{field} {late:.2g} now, {early:.2g} after the warm-up"
        normal = "at most 10 times larger or 50 times smaller at the end than after the warm-up (presets: about 1)"
        if late > 10 * early:
            remedy = "exploding: lower optimizer.learning_rate, raise optimizer.warmup, or lower optimizer.clip"
            findings.append(Finding("gradient norm", "warning", measured, normal, remedy))
        elif late < early / 50 or late < 1e-6:
            remedy = (
                "vanishing: check whether the loss still falls; if it does not, the model has collapsed or the task "
                "is trivial: check rtd_auc, the replaced fraction and the finding on labels"
            )
            findings.append(Finding("gradient norm", "warning", measured, normal, remedy))
        else:
            findings.append(Finding("gradient norm", "ok", measured, normal))
    return findings


def clipping(curves: Curves) -> list[Finding]:
    """Check whether most updates are clipped, and whether this matters.

    The steps of Adam and Muon do not depend on the scale of the gradients, so clipping all of them by about the same
    factor changes almost nothing: the quickstart's auxiliary clips every update, at about twice the limit, and learns.
    Far above the limit every batch has the same weight, and a bad batch counts as much as a good one.
    """
    findings, weight = [], curves.config.objective.main_loss_weight
    for field in curves.groups("clipped"):
        shares = [value for _, value in curves.trained(field)]
        norms = [value for _, value in curves.trained(field.replace("clipped", "gradient_norm"))]
        limit = curves.config.objective.optimizer_of(field, curves.config.optimizer).clip
        if len(shares) < 5 or not norms or limit is None:
            continue
        share, ratio = sum(shares) / len(shares), median(norms) / limit
        measured = f"{field}: {share:.0%} of the updates, at a median norm of {ratio:.1f} times the limit"
        normal = f"below 90 % of the updates, or any share if the norm is below {10 * weight:.0f} times the limit"
        if share > 0.9 and ratio > 10 * weight:
            remedy = (
                "lower the learning rate; if the loss falls as it should, raise optimizer.clip to about "
                f"{float(f'{2 * median(norms):.1g}'):g}"
            )
            findings.append(Finding("clipping", "warning", measured, normal, remedy))
        else:
            findings.append(Finding("clipping", "ok", measured, normal))
    return findings


# Usual peak learning rates by width, for AdamW and for Muon, whose updates are as large: largest width, lowest rate,
# highest rate, published settings. The range extends a factor of two to five beyond the published settings.
_RATES = (
    (128, 1e-4, 1e-2, "no published setting of this width"),
    (512, 1e-4, 3e-3, "ELECTRA-small 5e-4, arXiv 2003.10555"),
    (768, 5e-5, 2e-3, "BERT 1e-4, ELECTRA 2e-4, RoBERTa 6e-4, ModernBERT 8e-4"),
    (10**6, 2e-5, 1e-3, "BERT 1e-4, ELECTRA 2e-4, RoBERTa 4e-4, ModernBERT 5e-4, all large"),
)
# Continued pre-training: BERT's authors recommend 2e-5, Gururangan et al. (arXiv 2004.10964) used up to 5e-4.
_CONTINUED = (2e-6, 1e-3, "continued: BERT recommends 2e-5; up to 5e-4 in arXiv 2004.10964")


def learning_rate_range(curves: Curves) -> list[Finding]:
    """Compare the peak learning rates with the usual range for the model's width."""
    config, asked = curves.config, []
    if config.main.freeze == "encoder":
        return []  # training only a head works with almost any rate
    if config.main.model is not None:
        asked.append(("optimizer.learning_rate", config.optimizer.learning_rate, *_CONTINUED))
    elif config.main.hidden_size is not None:
        usual = _usual_rates(config.main.hidden_size)
        asked.append(("optimizer.learning_rate", config.optimizer.learning_rate, *usual))
    generator, own = config.objective.generator_shape, config.objective.optimizer_of(".generator", config.optimizer)
    if generator is not None and own is not config.optimizer:
        width = generator.hidden_size
        if width is not None:
            name = "objective.generator_optimizer.learning_rate"
            asked.append((name, own.learning_rate, *_usual_rates(width)))
    findings = []
    for key, rate, least, largest, published in asked:
        measured, normal = f"{key}={rate:g}", f"{least:g} to {largest:g} ({published})"
        if least <= rate <= largest:
            findings.append(Finding("learning rate", "ok", measured, normal))
        else:
            remedy = f"set {key} inside that range, unless your own trials show that this value is better"
            findings.append(Finding("learning rate", "warning", measured, normal, remedy))
    return findings


def loss_spikes(curves: Curves) -> list[Finding]:
    """Find sudden rises of the training loss: a quarter above the median of the nine records before, and above noise.

    A rise together with a fall of the temperature is caused by the curriculum and is not counted.
    """
    pairs = curves.trained("loss")
    if len(pairs) < 15:
        return []
    spikes: list[tuple[int, float]] = []
    for (record, value), before in zip(pairs[9:], (pairs[i : i + 9] for i in range(len(pairs))), strict=False):
        level = median(v for _, v in before)
        noise = median(abs(v - level) for _, v in before)
        temperatures = [r["temperature"] for r, _ in before if "temperature" in r]
        harder = temperatures and record.get("temperature", 0.0) < 0.95 * max(temperatures)
        if value > level + max(0.25 * level, 6 * noise) and not harder:
            spikes.append((record["update"], level))
    normal = "no record a quarter above the nine records before it"
    if not spikes:
        return [Finding("loss spikes", "ok", f"none in {len(pairs)} records", normal)]
    lasting = median(v for _, v in pairs[-3:]) > 1.25 * spikes[0][1]
    measured = f"{len(spikes)} record(s) with a spike, the first at update {spikes[0][0]}" + (
        "; the loss has not gone back" if lasting else "; the loss went back"
    )
    remedy = (
        "lower optimizer.learning_rate or optimizer.beta2 (0.98), raise optimizer.warmup, or check the text of these "
        "updates"
    )
    return [Finding("loss spikes", "problem" if lasting else "warning", measured, normal, remedy)]


def waiting_for_data(curves: Curves) -> list[Finding]:
    """Check the share of time that the loop waited for its next batch, without the first record (the start)."""
    timings = [r["timing"] for r in curves.records[1:] if {"seconds", "data_wait_share"} <= set(r.get("timing", ()))]
    seconds = sum(timing["seconds"] for timing in timings)
    if not seconds:
        return []
    share = sum(timing["data_wait_share"] * timing["seconds"] for timing in timings) / seconds
    measured, normal = f"{share:.1%} of the time", "below 1 % (presets), at most 10 %"
    if share <= 0.1:
        return [Finding("waiting for data", "ok", measured, normal)]
    remedy = "put the shards on a local disk, give the loop a free core, or use larger updates"
    return [Finding("waiting for data", "warning", measured, normal, remedy)]


def reference_curve(curves: Curves) -> list[Finding]:
    """Compare the newest value of each curve with the reference runs of the same preset, at equal tokens."""
    validated = curves.latest("unigram_accuracy")
    reference = matching_reference(curves.config, validated[1]["unigram_accuracy"] if validated else None)
    if reference is None:
        return []
    findings = []
    for field, better in FIELDS.items():
        section, _, name = field.rpartition(".")
        for record in reversed(curves.records):
            value = (record.get(section, {}) if section else record).get(name)
            band = reference.band(field, record["tokens"]) if value is not None else None
            if value is None or band is None:
                continue
            low, high = band
            measured = f"{field} {value:.3f} at {record['tokens']:,} tokens"
            normal = f"{low:.3f} to {high:.3f} ({reference.runs} runs of {reference.preset})"
            if value > high if better == "lower" else value < low:
                remedy = (
                    "if settings, corpus and auxiliary are the preset's, something is wrong: see the other findings"
                )
                findings.append(Finding("reference curve", "warning", measured, normal, remedy))
            else:
                findings.append(Finding("reference curve", "ok", measured, normal))
            break
    return findings


CURVE_CHECKS: tuple[CurveCheck, ...] = (
    finite_numbers,
    unigram_plateau,
    rtd_chance,
    replaced_share,
    gradient_norm,
    clipping,
    learning_rate_range,
    loss_spikes,
    waiting_for_data,
    reference_curve,
)


def _usual_rates(width: int) -> tuple[float, float, str]:
    return next((least, largest, published) for up_to, least, largest, published in _RATES if width <= up_to)


def _numbers(record: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)
