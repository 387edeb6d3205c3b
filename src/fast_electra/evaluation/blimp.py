"""`--tasks blimp`: minimal pairs without training, compared with baselines and with the auxiliary of a run.

Notable:
- a main model judges by its own head, with one pass for each sentence. A masked language model judges by
  pseudo-log-likelihood, with one pass for each token, and therefore only a sample of the pairs. Both use float32:
  bfloat16 rounds many scores to ties, which are wrong;
- baselines judge a part of the same pairs, and differences are computed on that part. They are the token frequencies of
  the run's shards, untrained models of the same shape, and the auxiliary of the run (the generator in joint ELECTRA).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from fast_electra.config.tree import Config
from fast_electra.corruption.counted import unigram_log_probabilities
from fast_electra.data.shards import TokenShards, open_shards
from fast_electra.data.tokenizer import fingerprint
from fast_electra.errors import ModelError, UserError
from fast_electra.evaluation.cells import CellRecord, finished_cell, keep_cell, make_cell
from fast_electra.evaluation.detector import Detector, detector_of, masked_prediction
from fast_electra.evaluation.evaluations import run_of
from fast_electra.evaluation.minimal_pairs import (
    LONGEST,
    MinimalPairs,
    Scorer,
    Wins,
    by_detection,
    by_frequency,
    by_masking,
    differences,
    encode_pairs,
    judge,
    summarise,
)
from fast_electra.evaluation.results import ZERO_SHOT, Result, Scores, zero_shot_result
from fast_electra.evaluation.subject import Subject
from fast_electra.models.build import build_model
from fast_electra.models.classifier import load_task_tokenizer, longest_text
from fast_electra.models.loading import load_model, stored_config
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.runs.folder import RunFolder
from fast_electra.runs.paths import located
from fast_electra.terminal import Progress, Say
from fast_electra.training.auxiliary import excluded_tokens, load_auxiliary
from fast_electra.training.precision import Execution, apply_threads

TASK = "blimp"
SAMPLED = 6_700
"""pairs that masked language models and untrained detectors judge: 100 of each of BLiMP's 67 sets"""
UNTRAINED = 3
"""number of untrained models"""


@dataclass(frozen=True)
class Judge:
    """A model that can judge sentences."""

    way: str
    tokenizer: PreTrainedTokenizerFast
    length: int
    """maximum number of tokens of a sentence, with special tokens"""
    scorer: Scorer
    untrained: Callable[[int], Scorer]
    """makes a model of the same shape with random weights from a seed"""
    is_masked: bool
    """whether it needs one pass for each token instead of one for each sentence"""


class _Job(NamedTuple):
    """Pairs to judge by one model or table."""

    name: str
    scorer: Scorer
    rows: NDArray[np.int64]
    cost: float
    """in passes of one sentence"""


def open_judge(source: str, device: torch.device) -> Judge:
    """Load a main model or a masked language model as a judge.

    Args:
        source: a folder or a hub name.
        device: of the model.

    Returns:
        the judge.

    Raises:
        ModelError: the model is neither of the two.
    """
    tokenizer = load_task_tokenizer(source)
    mask_id, pad_id = cast(int, tokenizer.mask_token_id), cast(int, tokenizer.pad_token_id)
    length = longest_text(stored_config(source), tokenizer, LONGEST)

    def masked(model: PreTrainedModel) -> Scorer:
        frozen = MaskedLM(model).to(device).freeze(torch.float32)
        return by_masking(masked_prediction(frozen), mask_id, pad_id)

    def detecting(seed: int) -> Scorer:
        model = build_model(stored_config(source), "rtd", seed).to(device)  # type: ignore[arg-type]
        return by_detection(detector_of(model, torch.float32), pad_id)

    refused = None
    if not any("ForMaskedLM" in name for name in stored_config(source).architectures or []):
        try:
            scorer = by_detection(Detector(source, torch.float32, device).suspicion, pad_id)
            return Judge("the detector's logits", tokenizer, length, scorer, detecting, is_masked=False)
        except ModelError as error:
            refused = error
    try:
        model = load_model(source, "mlm")
    except ModelError as error:
        raise ModelError(
            f"{source} has neither an RTD head nor a vocabulary head, so it cannot judge sentences without training "
            f"({refused or error}): give a main model or a masked language model, or leave {TASK} out of --tasks."
        ) from error
    return Judge(
        "pseudo-log-likelihood",
        tokenizer,
        length,
        masked(model),
        lambda seed: masked(build_model(stored_config(source), "mlm", seed)),
        is_masked=True,
    )


def judge_minimal_pairs(
    subject: Subject,
    pairs: MinimalPairs,
    per_set: int | None,
    out: Path,
    execution: Execution,
    say: Say,
    progress: Progress,
) -> Result:
    """Judge the pairs of a file by a model; a finished cell is not computed again.

    Args:
        subject: the model.
        pairs: of a file.
        per_set: pairs of each set; None: all, or about `SAMPLED` in total for a masked language model.
        out: the folder for cells.
        execution: device and threads.
        say: called with messages, for example about baselines that are left out.
        progress: called with the finished and the total cost.

    Returns:
        the result of the model.

    Raises:
        ModelError: the model has neither an RTD head nor a vocabulary head.
    """
    apply_threads(execution)
    asked = open_judge(subject.source, execution.device)
    per_set = per_set or (_each(SAMPLED, pairs) if asked.is_masked else None)
    run = run_of(subject.name)
    settings = {
        "name": ZERO_SHOT,
        "way": asked.way,
        "per_set": per_set,
        "longest": LONGEST,
        "shards": run and run.digest("data"),
        "auxiliary": run and run.digest("auxiliary"),
    }
    cell = make_cell(TASK, pairs.digest, settings, 0, untrained=False, model=subject.digest)
    if (found := finished_cell(out, cell)) is None:
        found = keep_cell(out, cell, _judged(asked, pairs, per_set, run, execution, say, progress))
    baselines = {"chance": {"dev": dict.fromkeys(found["scores"]["dev"], 0.5)}, **found["baselines"]}
    name = pairs.path.name.split(".")[0]
    setup = ZERO_SHOT if name == TASK else f"{ZERO_SHOT}, {name}"
    return zero_shot_result(TASK, setup, pairs.digest, settings, found, cell.file, baselines)


def _each(total: int, pairs: MinimalPairs) -> int:
    """Number of pairs of each set for about `total` pairs."""
    return max(1, total // pairs.set_count)


def _judged(
    asked: Judge,
    pairs: MinimalPairs,
    per_set: int | None,
    run: RunFolder | None,
    execution: Execution,
    say: Say,
    progress: Progress,
) -> CellRecord:
    began = time.perf_counter()
    places = pairs.sample(per_set)
    each = f"{per_set:,} of each of {pairs.set_count} sets" if per_set else "all of them"
    say(f"{TASK}: {len(places):,} pairs of {pairs.path.name} are judged ({each}), by {asked.way}.")
    encoded = encode_pairs(pairs, places, asked.tokenizer, asked.length)
    few = encoded.part(pairs.sample(_each(SAMPLED, pairs)))
    fewer = encoded.part(pairs.sample(_each(SAMPLED // UNTRAINED, pairs))) if asked.is_masked else few
    every = np.arange(len(places))
    passes = float(np.mean([len(sequence) for sequence in encoded.good])) - 2  # for a sentence with each token masked
    each_cost = passes if asked.is_masked else 1.0
    jobs = [_Job("model", asked.scorer, every, each_cost * len(every))]
    jobs += [_Job("untrained", asked.untrained(seed), fewer, each_cost * len(fewer)) for seed in range(UNTRAINED)]
    found = _run_scorers(run, asked, execution.device, say) if run else {}
    if run is None:
        say(f"{TASK}: no run is named, so token frequencies and the auxiliary are left out of its baselines.")
    if "unigram" in found:
        jobs.append(_Job("unigram", found["unigram"], every, 0.0))
    if "auxiliary" in found:
        jobs.append(_Job("auxiliary", found["auxiliary"], few, passes * len(few)))
    total = sum(job.cost for job in jobs)
    done = 0.0
    wins: dict[str, list[Wins]] = {}
    for job in jobs:
        tell = lambda share, done=done, job=job: progress(done + share * job.cost, total, TASK)  # noqa: E731
        wins.setdefault(job.name, []).append(judge(encoded, job.scorer, job.rows, tell))
        done += job.cost
    rows_of = {job.name: job.rows for job in jobs}
    means = {
        name: {measure: np.mean([one[measure] for one in several], axis=0) for measure in several[0]}
        for name, several in wins.items()
    }
    shares = {name: {"dev": {measure: float(won.mean()) for measure, won in of.items()}} for name, of in means.items()}
    sets = pairs.sets[places]
    baselines: dict[str, Scores] = {name: of for name, of in shares.items() if name != "model"}
    apart: dict[str, Any] = {}
    for name in baselines:
        rows = rows_of[name]
        apart[name] = differences(sets[rows], {m: won[rows] for m, won in means["model"].items()}, means[name])
    (model_wins,) = wins["model"]
    return {
        "task": TASK,
        "seed": 0,
        "scores": shares["model"],
        "predictions": {"dev": np.stack([places, model_wins["sum"], sets], axis=1).tolist()},
        "baselines": baselines,
        "n_dev": len(places),
        "truncated": {"dev": encoded.cut},
        "failed": None,
        "details": {
            "way": asked.way,
            "per_set": per_set,
            "groups": summarise(pairs, places, model_wins),
            "differences": apart,
        },
        "timing": {"seconds": time.perf_counter() - began},
    }


# --- Scorers from a run -----------------------------------------------------------------------------------------------


def _run_scorers(run: RunFolder, asked: Judge, device: torch.device, say: Say) -> dict[str, Scorer]:
    """Token frequencies of a run's shards, and its auxiliary, if they still exist and have the same tokenizer."""
    config = located(run.config, run)
    scorers: dict[str, Scorer] = {}
    assert config.data.shards is not None
    try:
        shards = open_shards(config.data.shards, verify=False)
    except UserError as error:
        say(f"{TASK}: token frequencies and the auxiliary are left out: {error}")
        return {}
    if shards.fingerprint != run.digest("data") or shards.tokenizer_fingerprint != fingerprint(asked.tokenizer):
        place = f"{shards.folder} is not what {run.path} used"
        say(f"{TASK}: token frequencies and the auxiliary are left out, since {place}.")
        return {}
    allowed_V = ~excluded_tokens(asked.tokenizer)
    scorers["unigram"] = by_frequency(unigram_log_probabilities(shards.split("train"), allowed_V).numpy())
    try:
        model = _auxiliary(run, config, shards, asked)
    except UserError as error:
        say(f"{TASK}: the auxiliary is left out: {error}")
        model = None
    if model is not None:
        special = shards.special_tokens
        prediction = masked_prediction(MaskedLM(model).to(device).freeze(torch.float32))
        scorers["auxiliary"] = by_masking(prediction, special["mask"], special["pad"])
    return scorers


def _auxiliary(run: RunFolder, config: Config, shards: TokenShards, asked: Judge) -> PreTrainedModel | None:
    """The masked language model that a run trained against; None if it had none.

    Raises:
        UserError: the model does not exist any more, or has changed.
    """
    if config.objective.generator_shape is not None:
        return load_model(run.model("generator"), "mlm")
    if not config.objective.uses_auxiliary or config.auxiliary.model is None:
        return None
    loaded = load_auxiliary(config, shards, asked.tokenizer)
    if not loaded.part.reads_mask:
        return None
    if loaded.digest != run.digest("auxiliary"):
        raise ModelError(f"{config.auxiliary.model} is no longer the one that {run.path} used; put it back.")
    return loaded.model
