"""`fast-electra pretrain`: trains a configuration in a run folder, or continues the run in it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

if TYPE_CHECKING:
    from fast_electra.config import Config
    from fast_electra.training.assembly import Assembled
    from fast_electra.training.telemetry import Observer


def pretrain(
    config: str,
    /,
    *overrides: str,
    run: Path,
    extend: int | None = None,
    grid: list[str] | None = None,
    probe: str | None = None,
    probe_data: list[Path] | None = None,
    probe_every: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1000,
    time_limit: str | None = None,
    json: bool = False,
) -> None:
    """Pre-train a main model against a frozen auxiliary, a masked language model as the auxiliary, or joint ELECTRA.

    objective.kind chooses: fast_electra, mlm or electra. If a run is stopped, the same command continues it; if it is
    finished, the command says so.

    Parameters
    ----------
    config
        A preset's name or a YAML file.
    overrides
        Settings, each as section.key=value.
    run
        The folder of the run: a new one, or that of the run to continue.
    extend
        Continue a finished run until this total number of updates; the schedules are recomputed over the new total.
    grid
        A setting and a list of its values, such as 'corruption.schedule.tau=[0.05,0.1]': one run in --run for each
        value, and a page that compares them. Given several times, every combination.
    probe
        Names separated by commas. For each task of GLUE a linear model on the frozen encoder is scored during the run;
        the scores go into the run's probes.jsonl. For blimp, the trained head scores minimal pairs; the shares go into
        metrics.jsonl. Probes do not change the training.
    probe_data
        For GLUE, the folder of the GLUE download; default: load the tasks from the hub. For blimp, the file (.jsonl,
        also .gz and .xz) as for evaluate --data. You can give this option twice, once for each.
    probe_every
        Number of updates between two probes, rounded up to a multiple of training.log_every.
    time_limit
        Write a checkpoint and stop before this time has passed, such as 2h, 90m or 5400 (seconds); the exit status is
        then 75, and the same command continues.
    json
        Print the result as one JSON object on standard output instead of text.
    """
    from rich.table import Table

    from fast_electra.config.loading import load_config
    from fast_electra.stopping import asked, limit_time

    limit_time(time_limit)
    if grid:
        _grid(config, overrides, grid, run, extend, probe, json)
        return
    settings = load_config(config, overrides)
    from fast_electra.diagnosis.doctor import DoctorObserver
    from fast_electra.errors import ConfigError
    from fast_electra.pipelines.pretrain import pretrain as run_pretraining
    from fast_electra.terminal import Terminal, print_json
    from fast_electra.training.precision import say_shared
    from fast_electra.training.telemetry import ProgressDisplay

    console = Terminal(stderr=True)
    say = console.say
    if probe is None and probe_data:
        raise ConfigError(
            "--probe-data needs --probe: give --probe too, such as --probe sst2, or --probe blimp with a file."
        )
    probes = _probes(probe, probe_data, probe_every, settings, run, say) if probe else lambda _: ()
    say_shared(say)
    result = run_pretraining(
        settings,
        run,
        observers=[ProgressDisplay(console, run.name), DoctorObserver(settings, say)],
        say=say,
        stop=asked,
        extend=extend,
        observe=probes,
    )
    facts = {
        "run": str(result.folder),
        "updates": result.updates,
        "tokens": result.tokens,
        "flops": result.flops,
        **result.validation,
        "timing": {"seconds": result.seconds},
    }
    if json:
        print_json(facts)
        return
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        if name != "timing":
            table.add_row(
                name, f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
            )
    console.print(table)
    say(f"model: {result.folder / 'model'}  (AutoModel.from_pretrained loads it)")


def _grid(
    config: str,
    overrides: Sequence[str],
    grid: Sequence[str],
    folder: Path,
    extend: int | None,
    probe: str | None,
    json: bool,
) -> None:
    """Train a run for each point of a grid, and compare them."""
    from fast_electra.cli.study_command import finish, grid_of, work
    from fast_electra.config.loading import load_config
    from fast_electra.config.reading import flat, read_overrides
    from fast_electra.errors import ConfigError
    from fast_electra.studies.grid.settings import grid_study
    from fast_electra.terminal import Terminal, command_given

    for option, given in {"--extend": extend, "--probe": probe}.items():
        if given is not None:
            raise ConfigError(f"{option} is for one run: leave it or --grid out.")
    load_config(config, overrides)  # names the override that is wrong
    console = Terminal(stderr=True)
    found = grid_study(config, flat(read_overrides(overrides).tree), grid_of(grid))
    progress = work(found, folder, folder / "cells", console)
    finish(found, progress, folder, command_given(), console, json=json)


def _probes(
    names: str, data: list[Path] | None, every: int, settings: "Config", run: Path, say: Callable[[str], None]
) -> Callable[["Assembled"], Sequence["Observer"]]:
    """Read the tasks now, before any work starts, and return a function that makes the probes for an assembled run."""
    from fast_electra.errors import ConfigError
    from fast_electra.evaluation.glue import load_glue
    from fast_electra.evaluation.minimal_pairs import read_minimal_pairs
    from fast_electra.evaluation.probe_observers import ProbeObserver, pair_probe
    from fast_electra.evaluation.settings import folder_and_pairs
    from fast_electra.training.precision import choose_execution

    folder, file = folder_and_pairs(data or [], "--probe-data")
    wanted = dict.fromkeys(name.strip() for name in names.split(","))
    if ("blimp" in wanted) != (file is not None):
        raise ConfigError(
            "--probe blimp needs its pairs: give --probe-data FILE.jsonl (also .jsonl.gz and .jsonl.xz)."
            if file is None
            else f"--probe-data {file} is a file of minimal pairs: give --probe blimp too."
        )
    tasks = [load_glue(name, folder, say=say, option="--probe-data") for name in wanted if name != "blimp"]
    pairs = None if file is None else read_minimal_pairs(file)

    def probes(parts: "Assembled") -> Sequence["Observer"]:
        model: Any = parts.objective.models()["main"]
        tokenizer: Any = parts.tokenizer
        execution = choose_execution(settings.execution)
        found: list[Observer] = []
        if tasks:
            log_every = settings.training.log_every
            found.append(ProbeObserver(model, tokenizer, tasks, every, log_every, run, execution, say))
        if pairs is not None:
            found.append(pair_probe(parts, pairs, every, settings, execution, say))
        return found

    return probes
