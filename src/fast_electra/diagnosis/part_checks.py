"""Checks on the parts of a run, built again from its configuration: what is trained, what is frozen, what models see.

Notable:
- the parts are built in float32 on the CPU, and one batch goes through them; nothing in the run is changed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from fast_electra.corruption.masking import originals
from fast_electra.diagnosis.curve_checks import Finding
from fast_electra.objectives.base import Objective, Prepared
from fast_electra.runs.checkpoints import Checkpoint, load_tensors

_SEQUENCES = ("input_ids", "inputs_embeds")  # what a model may see of a corrupted sequence


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
