"""`fast-electra quickstart`: the whole pipeline, small, on this machine, in minutes."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def quickstart(
    *overrides: str,
    run: Path = Path("runs/quickstart"),
    text: Annotated[list[Path] | None, Parameter(negative="", consume_multiple=True)] = None,
    minutes: float | None = None,
    seed: int = 0,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Pre-train, evaluate and report on this machine's Python code, or on your own text.

    The same command goes on where a stopped quickstart left off.

    Parameters
    ----------
    overrides
        Settings of both models as section.key=value.
    run
        The folder for everything that is made.
    text
        Your own text files or folders instead of Python code.
    minutes
        Rescale the updates so that the whole takes about this long on this machine.
    seed
        Seed of data order, masks, noise and weights.
    json
        Print the summary as one JSON object on standard output.
    """
    import json as json_module

    from rich.console import Console

    from fast_electra.errors import ConfigError

    if minutes is not None and not minutes > 0:
        raise ConfigError(f"--minutes {minutes:g} is no time: give a number above 0.")
    from fast_electra.recipes.quickstart import quickstart as run_quickstart
    from fast_electra.training.loop import Interrupted
    from fast_electra.training.pretrain import stop_on_signals

    console = Console(stderr=json)
    with stop_on_signals() as stop:
        try:
            summary = run_quickstart(run, console, text or (), minutes, [f"training.seed={seed}", *overrides], stop)
        except Interrupted as reason:
            console.print(
                f"{reason}; the checkpoint is written. The same command goes on.", highlight=False, soft_wrap=True
            )
            return 130
    if json:
        print(json_module.dumps(summary))
    return 0
