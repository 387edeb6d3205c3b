"""`fast-electra export`: writes a run's models as folders that Transformers loads, and uploads them on request."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def export(
    run: Path,
    out: Path,
    /,
    *,
    checkpoint: str | None = None,
    auxiliary: Annotated[bool, Parameter(negative="--no-auxiliary")] = True,
    push: str | None = None,
    public: bool = False,
) -> int:
    """Write a run's main model with its RTD head, tokenizer and model card to a folder, and its auxiliary below it.

    OUT is the main model, OUT/generator the generator of joint ELECTRA, OUT/auxiliary the frozen auxiliary.

    Parameters
    ----------
    run
        A finished run; with --checkpoint, any run.
    out
        The folder to write; it must be new.
    checkpoint
        The number of an update whose checkpoint the run kept (training.keep_checkpoints), or all: then each is written
        to OUT/step-N.
    auxiliary
        Also write the auxiliary, if the run used a model on this machine.
    push
        Also upload OUT to this repository of the Hugging Face hub, which is private.
    public
        With --push: upload to a public repository.
    """
    from fast_electra.errors import ConfigError

    if checkpoint is not None and checkpoint != "all" and not checkpoint.isdecimal():
        raise ConfigError(f"--checkpoint={checkpoint} is neither the number of an update nor all.")
    if public and push is None:
        raise ConfigError("--public needs --push: give --push REPOSITORY too.")
    from fast_electra.publishing.export import export_run
    from fast_electra.publishing.export import push as push_to_hub
    from fast_electra.terminal import Terminal

    export_run(
        run,
        out,
        "all" if checkpoint == "all" else int(checkpoint) if checkpoint else None,
        auxiliary,
        say=Terminal(stderr=True).say,
        again=push is not None,  # an upload failed before
    )
    Terminal().say(push_to_hub(out, push, public) if push else str(out))
    return 0
