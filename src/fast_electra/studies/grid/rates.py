"""Updates per second and FLOPs per update of a study's kinds of runs, measured once and kept beside its results.

Notable:
- all kinds are timed in turns in this process, so that they share whatever else the machine does;
- kinds that are added later are timed together with the known ones, and scaled by these. So finished runs keep their
  number of updates, and a machine that is slower today reduces no budget;
- auxiliaries have random weights here, which takes as long as trained ones.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel

from fast_electra.config.loading import resolve
from fast_electra.config.tree import Config
from fast_electra.data.files import read_kept_json, write_sealed_json
from fast_electra.stopping import Interrupted
from fast_electra.studies.bench.parts import Trained
from fast_electra.studies.bench.rates import interval
from fast_electra.studies.grid.identity import changed, paths_of, put
from fast_electra.studies.grid.plan import CorpusNode, Node, Rate, RunNode
from fast_electra.training.assembly import assemble
from fast_electra.training.outlook import flops_per_update
from fast_electra.training.precision import apply_threads, choose_execution

FILE = "rates.json"
_ROUNDS, _UPDATES = 7, 6
"""turns of each kind, and timed updates in a turn"""
_LOST = "restore it, or delete it to measure again; runs of other numbers of updates are then trained again"


def known_rates(cells: Path) -> dict[str, Rate]:
    """The rates that are kept in the folder of the results, by `RunNode.pace`."""
    kept: Mapping[str, Any] = read_kept_json(cells / FILE, _LOST)
    return {
        pace: Rate(found["updates_per_second"]["median"], found["flops_per_update"])
        for pace, found in kept.get("rates", {}).items()
    }


def measure_rates(
    nodes: Mapping[str, RunNode], out: Path, cells: Path, machine: Mapping[str, Any], stop: Callable[[], bool]
) -> None:
    """Time kinds of runs in turns, and keep their rates with those that are known.

    Args:
        nodes: a run of each kind that is not known, by `RunNode.pace`; their shards are in `out`.
        out: the study's folder.
        cells: the folder of the results.
        machine: what the rates depend on, for the file.
        stop: asked before each turn.

    Raises:
        Interrupted: `stop` returned True.
    """
    kept: dict[str, Any] = read_kept_json(cells / FILE, _LOST)
    known = kept.get("rates", {})
    with tempfile.TemporaryDirectory() as folder:
        made = _Untrained(out, Path(folder))
        parts = {pace: made.of(made.config(node)) for pace, node in nodes.items()}
        for pace, found in known.items():
            if pace not in parts and (config := made.kept(found["config"])):
                parts[pace] = made.of(config)
        seconds = _in_turns({pace: trained for pace, (trained, _) in parts.items()}, stop)
    speeds = {pace: [_UPDATES / each for each in values] for pace, values in seconds.items()}
    both = [
        known[pace]["updates_per_second"]["median"] / statistics.median(speed)
        for pace, speed in speeds.items()
        if pace in known
    ]
    scale = statistics.median(both or [1.0])
    measured = {
        pace: {
            "what": node.label,
            "updates_per_second": interval([scale * speed for speed in speeds[pace]]),
            "flops_per_update": parts[pace][1],
            "config": made.portable(node),
            "machine": dict(machine),
        }
        for pace, node in nodes.items()
    }
    write_sealed_json(cells / FILE, {"rates": known | measured})


class _Untrained:
    """Makes the parts of runs, with stages whose weights are random."""

    def __init__(self, out: Path, folder: Path) -> None:
        self._out, self._folder = out, folder

    def of(self, config: Config) -> tuple[Trained, int]:
        """The parts of a run, and its FLOPs per update."""
        execution = choose_execution(config.execution)
        apply_threads(execution)
        config = config.with_updates(10**6)
        parts = assemble(config, execution)
        flops = flops_per_update(config, parts, execution)
        return Trained(config, parts, parts.objective, execution), flops

    def portable(self, node: RunNode) -> dict[str, Any]:
        """The configuration with stages by the names of their folders, as `kept` reads it."""
        return changed(node.config(Path()))

    def kept(self, tree: Mapping[str, Any]) -> Config | None:
        """A configuration of `portable`; None if it uses stages other than shards, or shards that are not here."""
        paths = dict(paths_of(tree))
        shards = self._out / paths.pop("data.shards", "none")
        if paths or not shards.is_dir():
            return None
        return resolve({**tree, "data": {**tree["data"], "shards": str(shards)}})

    def config(self, node: RunNode) -> Config:
        """The configuration of a run, with the stages that are made here."""
        tree = node.config(self._out).model_dump(mode="json")
        for key, below in node.needs.items():
            put(tree, key, str(self._stage(below)))
        return resolve(tree)

    def _stage(self, node: Node) -> Path:
        if isinstance(node, CorpusNode):
            return self._out / node.name
        assert isinstance(node, RunNode)
        folder = self._folder / node.pace
        if not folder.exists():
            config = self.config(node)
            parts = assemble(config, choose_execution(config.execution))
            cast(PreTrainedModel, parts.objective.models()["main"]).save_pretrained(folder)
            parts.tokenizer.save_pretrained(folder)
        return folder


def _in_turns(parts: Mapping[str, Trained], stop: Callable[[], bool]) -> dict[str, list[float]]:
    """Seconds of each turn; each round begins with another kind."""
    found: dict[str, list[float]] = {pace: [] for pace in parts}
    names = list(parts)
    for number in range(_ROUNDS):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if stop():
                raise Interrupted("stopped while measuring the speed")
            found[name].append(parts[name].run(_UPDATES).seconds)
    return found
