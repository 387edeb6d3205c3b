"""Observers that probe a model while it trains.

Notable: they change nothing in the training. They draw no random number and write no weight, and every module returns
to its mode. Their cost is recorded under `timing` and reported, and no result depends on it.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from fast_electra.config.tree import Config
from fast_electra.data.disk import writing
from fast_electra.evaluation.detector import masked_prediction, suspicion_of
from fast_electra.evaluation.minimal_pairs import (
    LONGEST,
    EncodedPairs,
    MinimalPairs,
    Scorer,
    by_detection,
    by_masking,
    encode_pairs,
    judge,
)
from fast_electra.evaluation.probing import DEV_EXAMPLES, TRAIN_EXAMPLES, probe
from fast_electra.evaluation.tasks import Task
from fast_electra.models.classifier import longest_text
from fast_electra.objectives.mlm import MLM
from fast_electra.runs.metrics import Record, cut_metrics
from fast_electra.training.assembly import Assembled
from fast_electra.training.precision import Execution
from fast_electra.training.telemetry import QuietObserver

PROBED_UPDATES = 4
"""minimal pairs cost about as much as this number of updates: 0.4 % of a run with a probe every 1,000 updates"""


class _Probing(QuietObserver):
    """Base class of observers that probe. It leaves the model unchanged and measures the time of the probes.

    They probe when a record is made, since the model is whole then, also where FSDP2 shards it.
    """

    def __init__(
        self, model: nn.Module, every: int, log_every: int, execution: Execution, say: Callable[[str], None]
    ) -> None:
        self._model, self._execution, self._say = model, execution, say
        self._every = -(-every // log_every) * log_every
        self._began = time.perf_counter()
        self._updates, self._seconds = 0, 0.0

    def started(self, update: int, updates: int) -> None:
        """Store the number of updates and the start time."""
        self._updates, self._began = updates, time.perf_counter()

    def logged(self, record: Record) -> None:
        """Probe, if it is time."""
        if record["update"] % self._every == 0 or record["update"] == self._updates:
            self._probe(record)

    def _probe(self, record: Record) -> None:
        raise NotImplementedError

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Use evaluation mode and the run's precision, without compilation; then restore the state from before."""
        began = time.perf_counter()
        modes = {module: module.training for module in self._model.modules()}
        self._model.eval()
        try:
            with torch.random.fork_rng(), self._execution.autocast(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for module, training in modes.items():
                module.training = training
        self._seconds += time.perf_counter() - began

    def finished(self) -> None:
        """Report the time of the probes."""
        share = self._seconds / max(time.perf_counter() - self._began, 1e-9)
        self._say(f"probes took {self._seconds:.0f} s, {100 * share:.1f} % of the run.")


class ProbeObserver(_Probing):
    """Probes the model at regular updates and after the last one, and appends a line to the run's `probes.jsonl`.

    A line has `update`, `scores` ({task: {dev split: {metric: value}}}) and `timing`: the seconds of the probe, and the
    share of all probes in the time since the run started or resumed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        tasks: Sequence[Task],
        every: int,
        log_every: int,
        folder: Path,
        execution: Execution,
        say: Callable[[str], None] = lambda _: None,
        train_examples: int = TRAIN_EXAMPLES,
        dev_examples: int = DEV_EXAMPLES,
    ) -> None:
        """Create an observer for `pretrain` or `train`.

        Args:
            model: the object that is trained, `assembled.objective.models()["main"]`.
            tokenizer: `assembled.tokenizer`.
            tasks: to probe.
            every: updates between probes, rounded up to a multiple of `log_every`.
            log_every: updates between the records of the run.
            folder: of the run.
            execution: of the run, for its precision.
            say: called at the end with the time of the probes.
            train_examples: as in `probe`; fewer examples are cheaper and noisier.
            dev_examples: as in `probe`.
        """
        super().__init__(model, every, log_every, execution, say)
        self._encoder, self._tokenizer, self._tasks = model, tokenizer, tasks
        self._path = folder / "probes.jsonl"
        self._sizes = {"train_examples": train_examples, "dev_examples": dev_examples}

    def started(self, update: int, updates: int) -> None:
        """Keep the lines up to the update from which the run continues, and delete the others."""
        super().started(update, updates)
        cut_metrics(self._path, update)

    def _probe(self, record: Record) -> None:
        before = self._seconds
        with self._undisturbed():
            scores = {task.name: probe(self._encoder, self._tokenizer, task, **self._sizes) for task in self._tasks}
        timing = {
            "seconds": self._seconds - before,
            "share": self._seconds / (time.perf_counter() - self._began),
        }
        line = {"update": record["update"], "scores": scores, "timing": timing}
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class PairObserver(_Probing):
    """Judges minimal pairs at regular updates and after the last one, with the head that is trained.

    It adds the shares to the records of the run (`metrics.jsonl`): `blimp` has `sum`, `mean`, `worst` and `pairs`. So
    it must be before the observers that write the records.
    """

    def __init__(
        self,
        model: nn.Module,
        scorer: Scorer,
        pairs: EncodedPairs,
        every: int,
        log_every: int,
        execution: Execution,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Create an observer for `pretrain`; `pair_probe` makes one from the parts of a run.

        Args:
            model: the object that is trained.
            scorer: `minimal_pairs.by_detection` or `by_masking` of this model.
            pairs: to judge, always the same ones.
            every: updates between probes, rounded up to a multiple of `log_every`.
            log_every: updates between the records of the run.
            execution: of the run, for its precision.
            say: called at the end with the time of the probes.
        """
        super().__init__(model, every, log_every, execution, say)
        self._scorer, self._encoded = scorer, pairs

    def _probe(self, record: Record) -> None:
        before = self._seconds
        with self._undisturbed():
            wins = judge(self._encoded, self._scorer)
        record["blimp"] = {measure: float(won.mean()) for measure, won in wins.items()}
        record["blimp"]["pairs"] = len(self._encoded.places)
        record["timing"]["blimp_seconds"] = self._seconds - before


def pair_probe(
    parts: Assembled,
    pairs: MinimalPairs,
    every: int,
    config: Config,
    execution: Execution,
    say: Callable[[str], None] = lambda _: None,
) -> PairObserver:
    """Make the observer for a run: by pseudo-log-likelihood for masked language modelling, else by the RTD head.

    Args:
        parts: of the run.
        pairs: of a file; a sample with equally many pairs of each set is judged.
        every: updates between probes.
        config: of the run.
        execution: of the run.
        say: called with the number of pairs, and at the end with the time of the probes.

    Returns:
        the observer.
    """
    model = cast(PreTrainedModel, parts.objective.models()["main"])
    tokenizer = cast(PreTrainedTokenizerFast, parts.tokenizer)
    pad_id = parts.shards.special_tokens["pad"]
    longest = longest_text(model.config, tokenizer, LONGEST)
    one_each = encode_pairs(pairs, pairs.sample(1), tokenizer, longest)
    lengths = [len(sequence) for sequence in (*one_each.good, *one_each.bad)]
    if not config.objective.detects:
        objective = cast(MLM, parts.objective)
        scorer = by_masking(masked_prediction(objective.model), objective.mask_id, pad_id)
        tokens = sum(length * (length - 2) for length in lengths)
    else:
        scorer, tokens = by_detection(suspicion_of(model), pad_id), sum(lengths)
    # An update passes each token forward, and backward at twice the cost.
    budget = PROBED_UPDATES * 3 * config.training.batch_size * config.data.length
    chosen = pairs.sample(max(1, budget // tokens))
    say(f"blimp: {len(chosen):,} pairs of {pairs.path.name} are judged every {every:,} updates.")
    encoded = encode_pairs(pairs, chosen, tokenizer, longest)
    return PairObserver(model, scorer, encoded, every, config.training.log_every, execution, say)
