"""`fast-electra doctor`: is a run learning, and if not, why. And the same questions as warnings during training.

Notable:
- checks of the curves are in `curve_checks`, those of the figures from inside the models in `internal_checks`; those
  here look at the folder, the data, and the parts built anew;
- nothing in the run is changed: parts are built in float32 on the CPU, and one batch goes through them;
- what can't be looked at any more (shards moved, an auxiliary deleted) is said and skipped, never guessed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from transformers import PreTrainedModel

from fast_electra.config.tree import Config
from fast_electra.corruption.masking import originals
from fast_electra.data.shards import open_shards
from fast_electra.diagnosis.curve_checks import CURVE_CHECKS, Curves, Finding, plateau_finding
from fast_electra.diagnosis.internal_checks import inside, judge
from fast_electra.errors import CheckpointError, UserError
from fast_electra.models.build import load_model
from fast_electra.objectives.base import Objective, Prepared
from fast_electra.runs.checkpoints import Checkpoint, load_tensors, newest_checkpoint
from fast_electra.runs.folder import RunFolder, load_run
from fast_electra.runs.metrics import Record
from fast_electra.runs.paths import located
from fast_electra.training.assembly import Assembled, assemble
from fast_electra.training.internals import measure, weight_figures
from fast_electra.training.outlook import MOST_EPOCHS
from fast_electra.training.precision import choose_execution
from fast_electra.training.telemetry import QuietObserver

_SEQUENCES = ("input_ids", "inputs_embeds")  # what a model may see of a corrupted sequence
_ROWS = 8  # of the batch that goes through the parts
_TOKENS = 2_000_000  # tokens of the corpus that its entropy is estimated from
_CHECKS = (*CURVE_CHECKS, inside)


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    folder: RunFolder
    curves: Curves

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        return self.curves.config


def examine(folder: Path) -> list[Finding]:
    """Every check on a run folder, finished or not.

    Raises:
        CheckpointError: the folder is no run, or one of another version.
    """
    run = read_run(folder)
    findings = [progress(run)]
    for check in _CHECKS:
        findings += check(run.curves)
    findings += [*unigram_entropy(run), *repetition(run)]
    try:
        parts = assemble(*_on_cpu(run.config))
    except (UserError, OSError) as error:
        reason = f"the run's parts can't be built here: {str(error).rstrip('.')}"
        return [*findings, Finding("parts", "skipped", reason, remedy="run it where data and auxiliary are")]
    prepared = parts.objective.prepare(parts.schedule.at(0).split(_ROWS)[0], parts.seed)
    try:
        checkpoint = newest_checkpoint(run.folder.checkpoints, say=lambda _: None)
    except CheckpointError as error:
        checkpoint = None
        findings.append(Finding("weights", "problem", str(error).rstrip("."), "a sound checkpoint"))
    findings += exported_model(run, parts)
    findings += unchanged_inputs(run, parts)
    findings += auxiliary_plateau(run, parts)
    findings += auxiliary_is_frozen(parts.objective, tensor_names(checkpoint) if checkpoint else ())
    findings += parameter_groups(parts.objective)
    findings += labels_stay_out(parts.objective, prepared)
    if checkpoint:
        findings += weights_move(
            parts.objective, checkpoint, run.curves.updates, continued=run.config.main.model is not None
        )
    return findings


class DoctorObserver(QuietObserver):
    """Speaks of what the curves show while a run trains, once for each check.

    It looks when the records have grown by a twentieth, and at every validation: in the longest run that is a few
    dozen looks beyond the validations.
    """

    def __init__(self, config: Config, say: Callable[[str], None]):
        """`config`: the run's; `say` is told one sentence at a time."""
        self._config, self._say = config, say
        self._updates = 0
        self._records: list[Record] = []
        self._next_look = 1.0
        self._told: set[str] = set()

    def started(self, update: int, updates: int) -> None:
        """Note the run's length."""
        self._updates = updates

    def logged(self, record: Record) -> None:
        """Look, now and then."""
        self._records.append(record)
        if len(self._records) < self._next_look and "validation" not in record:
            return
        self._next_look = 1.05 * len(self._records) + 1
        curves = Curves(self._config, self._updates, self._records)
        for check in _CHECKS:
            for finding in check(curves):
                if finding.severity in ("warning", "problem") and finding.check not in self._told:
                    self._told.add(finding.check)
                    self._say(f"{finding.severity}: {finding.sentence()}.")


def read_run(folder: Path) -> Run:
    """A run folder's configuration, record and metrics.

    Raises:
        CheckpointError: the folder is no run, or one of another version.
    """
    found = load_run(folder)
    return Run(found, Curves(located(found.config, found), found.updates, found.metrics()))


def progress(run: Run) -> Finding:
    """How far the run is; a run without any record stopped before it could say anything."""
    if not run.curves.records:
        every = run.config.training.log_every
        remedy = (
            "look at what it printed when it stopped; a loss that is not finite within the first updates: lower "
            "optimizer.learning_rate or raise optimizer.warmup"
        )
        normal = f"a line of metrics.jsonl every {every} updates"
        return Finding("progress", "warning", "no record of metrics", normal, remedy)
    done = f"{run.folder.status}, update {run.curves.records[-1]['update']:,} of {run.curves.updates:,}"
    return Finding("progress", "ok", done)


def unigram_entropy(run: Run) -> list[Finding]:
    """The masked language model's loss beside the entropy of the corpus's token frequencies.

    A model that has learned the frequencies and nothing of the context has just that loss: the other sign of the
    unigram plateau.
    """
    field = run.config.objective.mlm_loss
    found = run.curves.latest(field, "masked_accuracy")
    shards = _shards(run)
    if found is None or found[0] < 0.1 or shards is None:
        return []
    stream = shards.split("train")
    counts = np.bincount(stream.read(0, min(stream.tokens, _TOKENS)), minlength=shards.vocabulary_size).astype(float)
    counts[list(shards.special_tokens.values())] = 0
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    done, loss = found[0], found[1][field]
    measured, normal = f"MLM loss {loss:.2f} nats, the corpus's unigram entropy {entropy:.2f}", "clearly below it"
    if loss < 0.97 * entropy:
        return [Finding("unigram entropy", "ok", measured, normal)]
    remedy = "as for the unigram plateau: train longer, or raise the learning rate"
    return [Finding("unigram entropy", "problem" if done >= 0.5 else "warning", measured, normal, remedy)]


def repetition(run: Run) -> list[Finding]:
    """How often the whole run sees each token of the corpus.

    BERT saw its corpus about 40 times (arXiv 1810.04805, appendix A.2), each sequence under ten masks; here every epoch
    has its own. Of causal language models, which have no masks, 4 epochs are as good as new text, and after about 40
    repeated text is worth nothing (Muennighoff et al., arXiv 2305.16264).
    """
    shards = _shards(run)
    if shards is None:
        return [Finding("repetition", "skipped", f"no shards at {run.config.data.shards}")]
    training = run.config.training
    corpus = shards.split("train").tokens
    epochs = run.curves.updates * training.batch_size * run.config.data.length / corpus
    measured = f"{epochs:.1f} epochs of {corpus:,} tokens"
    normal = f"at most {MOST_EPOCHS} (BERT: about 40)"
    if epochs <= MOST_EPOCHS:
        return [Finding("repetition", "ok", measured, normal)]
    remedy = "give more text, or train a smaller model for fewer updates"
    return [Finding("repetition", "warning", measured, normal, remedy)]


def unchanged_inputs(run: Run, parts: Assembled) -> list[Finding]:
    """Whether auxiliary and data are still what the run was started with, by their digests."""
    findings = []
    for name, now in (("auxiliary", parts.auxiliary_digest), ("data", parts.shards.fingerprint)):
        before = run.folder.digest(name)
        if before is None or now is None:
            continue
        measured = f"digest {before[:12]} at the start" + ("" if before == now else f", {now[:12]} now")
        normal = "the same from start to end: it is frozen" if name == "auxiliary" else "the same from start to end"
        if before == now:
            findings.append(Finding(f"{name} unchanged", "ok", measured, normal))
        else:
            remedy = f"put the old {name} back, or start the run again in another folder: its curve mixes two of them"
            findings.append(Finding(f"{name} unchanged", "problem", measured, normal, remedy))
    return findings


def exported_model(run: Run, parts: Assembled) -> list[Finding]:
    """The inside of a finished run's exported models, where its records are of a version that didn't look there."""
    if any("internals" in record for record in run.curves.records):
        return []
    findings: list[Finding] = []
    models = parts.objective.models()
    for name, fresh in models.items():
        folder = run.folder.model(name)
        if not folder.exists():
            continue
        head = run.config.objective.head_of(name)
        rows, by_document = parts.validation[0].batch, run.config.data.attention == "document"
        start = weight_figures(cast(PreTrainedModel, fresh), rows)
        figures = measure(load_model(folder, head), rows, by_document, start)
        findings += judge(figures, 1.0, name if len(models) > 1 else "", "its exported model")
    return findings


def auxiliary_plateau(run: Run, parts: Assembled) -> list[Finding]:
    """The frozen auxiliary's masked accuracy on the run's validation text, beside the unigram baseline's."""
    measures = parts.auxiliary_measures
    if not measures or run.config.auxiliary.is_baseline:  # those are the baselines themselves
        return []
    accuracy, unigram = measures["masked_accuracy"], measures["unigram_accuracy"]
    return [plateau_finding("auxiliary plateau", accuracy, unigram, progress=1.0)]


def auxiliary_is_frozen(objective: Objective, checkpointed: tuple[str, ...]) -> list[Finding]:
    """Whether the auxiliary takes gradients, or holds masters or optimizer state.

    Args:
        objective: built anew.
        checkpointed: names of a checkpoint's tensors, `<group>.<kind>.<parameter>`.
    """
    auxiliary = _auxiliary(objective)
    if auxiliary is None:
        return []
    groups = objective.parameter_groups()
    trained = {id(p) for group in groups for p in group.parameters.values()}
    parameters = [p for module in auxiliary.modules() for p in module.parameters()]
    awake = sum(p.requires_grad or p.grad is not None or id(p) in trained for p in parameters)
    own = {(group.name, name) for group in groups for name in group.parameters}
    foreign = [name for name in checkpointed if (name.split(".", 2)[0], name.split(".", 2)[-1]) not in own]
    normal = "no gradient, no optimizer group, nothing of it in a checkpoint"
    if not awake and not foreign:
        return [Finding("auxiliary frozen", "ok", f"{len(parameters)} tensors, all frozen", normal)]
    measured = f"{awake} of its {len(parameters)} tensors take gradients or are in an optimizer group" + (
        f"; the checkpoint holds {len(foreign)} tensors that the run doesn't train, {foreign[0]} first"
        if foreign
        else ""
    )
    remedy = "freeze it (MaskedLM.freeze) and leave it out of Objective.parameter_groups"
    return [Finding("auxiliary frozen", "problem", measured, normal, remedy)]


def parameter_groups(objective: Objective) -> list[Finding]:
    """Whether every trained parameter of every model is in exactly one optimizer group."""
    names = {
        id(parameter): f"{model}.{name}"
        for model, module in objective.models().items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    times = Counter(id(p) for group in objective.parameter_groups() for p in group.parameters.values())
    normal = "each in exactly one group"
    wrong = {
        "in no group": [name for key, name in names.items() if times[key] == 0],
        "in several": [name for key, name in names.items() if times[key] > 1],
    }
    measured = "; ".join(f"{len(found)} {what}, {found[0]} first" for what, found in wrong.items() if found)
    if not measured:
        return [Finding("parameter groups", "ok", f"{len(names)} parameters", normal)]
    remedy = "mend the objective's parameter_groups: a parameter in no group never trains, one in two moves twice"
    return [Finding("parameter groups", "problem", measured, normal, remedy)]


def labels_stay_out(objective: Objective, prepared: Prepared) -> list[Finding]:
    """Whether what the models are given depends on the labels in any way but through the corrupted sequence.

    The same batch goes through twice, with other labels: other replacements at the same masked positions, or, for
    masked language modelling, other originals behind `[MASK]`. All arguments but the sequence must stay the same, the
    sequence itself must differ from the original at masked positions only, and behind `[MASK]` not at all.
    """
    hiding = objective.behind_masks()
    if hiding is not None:
        versions = (_inputs(hiding, prepared, 0), _inputs(hiding, _relabelled(prepared), 0))
        compared: tuple[str, ...] = ()
    else:
        versions = (_inputs(objective, prepared, 0), _inputs(objective, prepared, 1))
        compared = _SEQUENCES
    leaks = set()
    was_masked_BS = torch.zeros_like(prepared.batch.eligible).scatter(
        1, prepared.masked.positions_BM, prepared.masked.valid_BM
    )
    for (model, first), (_, second) in zip(*versions, strict=True):
        leaks |= {f"{model}: {name}" for name in first if "label" in name and first[name] is not None}
        for name in (first | second).keys() - set(compared):
            if not _equal(first.get(name), second.get(name)):
                leaks.add(f"{model}: {name}")
        ids_BS = first.get("input_ids")
        if ids_BS is not None and ((ids_BS != prepared.batch.ids) & ~was_masked_BS).any():
            leaks.add(f"{model}: input_ids outside of the masked positions")
    arguments = sorted({name for _, given in versions[0] for name in given})
    normal = "the corrupted sequence and what doesn't depend on the labels"
    if not leaks:
        return [Finding("labels", "ok", f"the models are given {', '.join(arguments)}", normal)]
    remedy = "the model is told the answer, and will be useless without it: take it out of the model's arguments"
    return [Finding("labels", "problem", f"labels reach {', '.join(sorted(leaks))}", normal, remedy)]


def weights_move(objective: Objective, checkpoint: Checkpoint, updates: int, continued: bool = False) -> list[Finding]:
    """How far the newest checkpoint's weights are from those that the run started with, the embeddings before all.

    The start is built from the seed. A relative change of the embeddings below 1e-4 is none: it is under 1 % of the
    rounding of a bfloat16 number. Those that start fresh have to move by more until the end: the quickstart's end at
    0.1 to 1.

    Args:
        objective: built anew.
        checkpoint: the newest.
        updates: of the whole run.
        continued: the main model started from a published one, which learns at small rates.
    """
    start = {
        f"{group.name}.master.{name}": parameter.detach().float()
        for group in objective.parameter_groups()
        for name, parameter in group.parameters.items()
        if parameter.requires_grad
    }
    now = {name: torch.empty_like(tensor) for name, tensor in start.items()}
    load_tensors(checkpoint, now)
    broken = [name for name, tensor in now.items() if not tensor.isfinite().all()]
    if broken:
        remedy = "lower optimizer.learning_rate and start in a new folder"
        return [Finding("weights", "problem", f"{broken[0]} holds NaN or infinity", "all finite", remedy)]
    if checkpoint.update < 0.1 * updates:
        return [Finding("weights", "skipped", f"the checkpoint of update {checkpoint.update} is too early to judge")]
    still = [name for name, tensor in now.items() if torch.equal(tensor, start[name])]
    embeddings = [name for name in now if "embed" in name and now[name].ndim == 2]
    moved = _change([start[name] for name in embeddings], [now[name] for name in embeddings])
    measured = f"embeddings changed by {moved:.1e} of their size" if embeddings else "embeddings aren't trained"
    measured += f"; {len(still)} of {len(now)} tensors have not moved at all" + (f", {still[0]} first" if still else "")
    least = 1e-4 if continued or checkpoint.update < updates else 1e-2
    normal = f"embeddings by {least:.0e} or more, every tensor by something"
    remedy = "raise optimizer.learning_rate; look at the findings on parameter groups and on clipping"
    if embeddings and moved < 1e-4:
        return [Finding("weights", "problem", measured, normal, remedy)]
    little = bool(still) or (bool(embeddings) and moved < least)
    return [Finding("weights", "warning" if little else "ok", measured, normal, remedy if little else "")]


def tensor_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names of a checkpoint's tensors."""
    return tuple(HuggingFaceStorageReader(str(checkpoint.folder)).read_metadata().state_dict_metadata)


def _on_cpu(config: Config) -> tuple[Config, Any]:
    chosen = {"device": "cpu", "precision": "float32", "compile": False, "threads": None}
    training = type(config.training).model_validate(config.training.model_dump() | chosen)
    return config.model_copy(update={"training": training}), choose_execution(training)


def _shards(run: Run) -> Any:
    """The run's shards, their bytes unchecked; None when they are not here."""
    try:
        return open_shards(run.config.data.shards, verify=False) if run.config.data.shards else None
    except (UserError, OSError):
        return None


def _auxiliary(objective: Objective) -> Any:
    """The auxiliary that runs along, where one does."""
    return getattr(getattr(objective, "source", None), "auxiliary", None)


def _relabelled(prepared: Prepared) -> Prepared:
    """The batch with other originals at its masked positions: each row's eligible tokens, moved on by one."""
    batch, masked = prepared.batch, prepared.masked
    others_BM = originals(batch, masked).roll(1, dims=1)
    ids_BS = batch.ids.scatter(
        1, masked.positions_BM, torch.where(masked.valid_BM, others_BM, originals(batch, masked))
    )
    return Prepared(replace(batch, ids=ids_BS), masked)


@torch.no_grad()
def _inputs(objective: Objective, prepared: Prepared, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """What every call of every trained model is given in one evaluation of the objective: model, arguments by name."""
    seen: list[tuple[str, dict[str, Any]]] = []
    with _told_of_calls(objective.models(), lambda name, given: seen.append((name, given))):
        objective.terms(prepared, 0.0, seed)
    return seen


@contextmanager
def _told_of_calls(models: Mapping[str, nn.Module], tell: Callable[[str, dict[str, Any]], None]) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def told(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            tell(name, {f"argument {place}": value for place, value in enumerate(arguments)} | keywords)

        return told

    handles = [model.register_forward_pre_hook(hook(name), with_kwargs=True) for name, model in models.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return first is second or (not isinstance(first, Tensor) and not isinstance(second, Tensor) and first == second)


def _change(before: list[Tensor], after: list[Tensor]) -> float:
    """The norm of the difference over the norm of what was there; absolute where that was zero."""
    size = sum(float(b.square().sum()) for b in before)
    difference = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))
    return (difference / (size or 1.0)) ** 0.5
