"""Checks on the parts of a run: what is trained, what is frozen, and what the models get as input.

Notable:
- the parts are built again from the configuration, in float32 on the CPU, and one batch goes through them; the run does
  not change.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from fast_electra.corruption.masking import masked_tokens, originals
from fast_electra.diagnosis.curve_checks import Finding
from fast_electra.objectives.base import Objective, Prepared
from fast_electra.runs.checkpoints import Checkpoint, load_tensors

_SEQUENCES = ("input_ids", "inputs_embeds")  # arguments that may contain the corrupted sequence


def auxiliary_is_frozen(objective: Objective, checkpointed: tuple[str, ...]) -> list[Finding]:
    """Check that the auxiliary has no gradients, and no masters or optimizer state in a checkpoint.

    Args:
        objective: built again from the run's configuration.
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
    normal = "no gradient, no optimizer group, none of its tensors in a checkpoint"
    if not awake and not foreign:
        return [Finding("auxiliary frozen", "ok", f"{len(parameters)} tensors, all frozen", normal)]
    measured = f"{awake} of its {len(parameters)} tensors have gradients or are in an optimizer group" + (
        f"; the checkpoint holds {len(foreign)} tensors that the run does not train, the first is {foreign[0]}"
        if foreign
        else ""
    )
    remedy = "freeze it (MaskedLM.freeze) and leave it out of Objective.parameter_groups"
    return [Finding("auxiliary frozen", "problem", measured, normal, remedy)]


def parameter_groups(objective: Objective) -> list[Finding]:
    """Check that every trained parameter of every model is in exactly one optimizer group."""
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
        "in several groups": [name for key, name in names.items() if times[key] > 1],
    }
    measured = "; ".join(f"{len(found)} {what}, the first is {found[0]}" for what, found in wrong.items() if found)
    if not measured:
        return [Finding("parameter groups", "ok", f"{len(names)} parameters", normal)]
    remedy = "correct the objective's parameter_groups: a parameter in no group is not trained, one in two groups twice"
    return [Finding("parameter groups", "problem", measured, normal, remedy)]


def labels_stay_out(objective: Objective, prepared: Prepared) -> list[Finding]:
    """Check that the models' inputs depend on the labels only through the corrupted sequence.

    The same batch is processed twice with different labels: other replacements at the same masked positions, or, for
    masked language modelling, other originals under `[MASK]`. All arguments except the sequence must stay the same. The
    sequence may differ from the original at masked positions only, and under `[MASK]` it must stay the same too.
    """
    hiding = objective.behind_masks()
    if hiding is not None:
        versions = (_inputs(hiding, prepared, 0), _inputs(hiding, _relabelled(prepared), 0))
        compared: tuple[str, ...] = ()
    else:
        versions = (_inputs(objective, prepared, 0), _inputs(objective, prepared, 1))
        compared = _SEQUENCES
    leaks = set()
    was_masked_BS = masked_tokens(prepared.batch, prepared.masked)
    for (model, first), (_, second) in zip(*versions, strict=True):
        leaks |= {f"{model}: {name}" for name in first if "label" in name and first[name] is not None}
        for name in (first | second).keys() - set(compared):
            if not _equal(first.get(name), second.get(name)):
                leaks.add(f"{model}: {name}")
        ids_BS = first.get("input_ids")
        if ids_BS is not None and ((ids_BS != prepared.batch.ids) & ~was_masked_BS).any():
            leaks.add(f"{model}: input_ids outside the masked positions")
    arguments = sorted({name for _, given in versions[0] for name in given})
    normal = "the corrupted sequence, and arguments that do not depend on the labels"
    if not leaks:
        return [Finding("labels", "ok", f"the models get {', '.join(arguments)}", normal)]
    remedy = "the model gets the answer as input and learns nothing else: remove it from the model's arguments"
    return [Finding("labels", "problem", f"labels reach {', '.join(sorted(leaks))}", normal, remedy)]


def weights_move(objective: Objective, checkpoint: Checkpoint, updates: int, continued: bool = False) -> list[Finding]:
    """Check that the newest checkpoint's weights, above all its embeddings, differ from those at the run's start.

    The seed gives the weights at the start again. A relative change of the embeddings below 1e-4 counts as none: it is
    below 1 % of the rounding of a bfloat16 number. New embeddings must change more until the end: those of the
    quickstart change by 0.1 to 1.

    Args:
        objective: built again from the run's configuration, with the weights at the run's start.
        checkpoint: the run's newest.
        updates: number of updates of the whole run.
        continued: whether the main model started from an existing model, which learns at small rates.
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
        return [Finding("weights", "problem", f"{broken[0]} has NaN or infinity", "every number is finite", remedy)]
    if checkpoint.update < 0.1 * updates:
        return [Finding("weights", "skipped", f"the checkpoint of update {checkpoint.update} is too early to judge")]
    still = [name for name, tensor in now.items() if torch.equal(tensor, start[name])]
    embeddings = [name for name in now if "embed" in name and now[name].ndim == 2]
    moved = _change([start[name] for name in embeddings], [now[name] for name in embeddings])
    measured = f"embeddings changed by {moved:.1e} of their size" if embeddings else "embeddings are not trained"
    measured += f"; {len(still)} of {len(now)} tensors have not changed" + (
        f", the first is {still[0]}" if still else ""
    )
    least = 1e-4 if continued or checkpoint.update < updates else 1e-2
    normal = f"embeddings change by {least:.0e} or more, and every tensor changes"
    remedy = "raise optimizer.learning_rate; follow the findings on parameter groups and clipping"
    if embeddings and moved < 1e-4:
        return [Finding("weights", "problem", measured, normal, remedy)]
    little = bool(still) or (bool(embeddings) and moved < least)
    return [Finding("weights", "warning" if little else "ok", measured, normal, remedy if little else "")]


def tensor_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The names of a checkpoint's tensors."""
    return tuple(HuggingFaceStorageReader(str(checkpoint.folder)).read_metadata().state_dict_metadata)


def _auxiliary(objective: Objective) -> Any:
    """The auxiliary that runs during training; None without one and with a cache."""
    return getattr(getattr(objective, "source", None), "auxiliary", None)


def _relabelled(prepared: Prepared) -> Prepared:
    """The batch with other originals at its masked positions: each row's masked tokens, shifted by one."""
    batch, masked = prepared.batch, prepared.masked
    others_BM = originals(batch, masked).roll(1, dims=1)
    ids_BS = batch.ids.scatter(
        1, masked.positions_BM, torch.where(masked.valid_BM, others_BM, originals(batch, masked))
    )
    return Prepared(replace(batch, ids=ids_BS), masked)


@torch.no_grad()
def _inputs(objective: Objective, prepared: Prepared, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Evaluate the objective once, and return each call of a trained model: its name, and its arguments by name."""
    seen: list[tuple[str, dict[str, Any]]] = []
    with _watched_calls(objective.models(), lambda name, given: seen.append((name, given))):
        objective.terms(prepared, 0.0, seed)
    return seen


@contextmanager
def _watched_calls(models: Mapping[str, nn.Module], called: Callable[[str, dict[str, Any]], None]) -> Iterator[None]:
    """Context in which every call of a model also calls `called` with the model's name and its arguments by name."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def before(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            called(name, {f"argument {place}": value for place, value in enumerate(arguments)} | keywords)

        return before

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
    """The norm of the difference, relative to the norm of `before`; absolute if that is zero."""
    size = sum(float(b.square().sum()) for b in before)
    difference = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))
    return (difference / (size or 1.0)) ** 0.5
