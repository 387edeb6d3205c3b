"""`fast-electra export`: a run's models as folders that Transformers loads, and to the Hugging Face hub where asked."""

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
    """Write a run's main model with its RTD head, tokenizer and model card to a folder, and its auxiliary beside it.

    OUT is the main model, OUT/generator the one of joint ELECTRA, OUT/auxiliary the frozen auxiliary.

    Parameters
    ----------
    run
        A finished run; with --checkpoint, any run.
    out
        The folder; new.
    checkpoint
        An update that the run kept a checkpoint of, or all: OUT/step-N for each (training.keep_checkpoints).
    auxiliary
        Also write the auxiliary, where the run used a model of this machine.
    push
        Upload OUT to this repository of the Hugging Face hub too; private.
    public
        With --push: to a repository that everyone can read.
    """
    from fast_electra.errors import ConfigError

    if checkpoint is not None and checkpoint != "all" and not checkpoint.isdecimal():
        raise ConfigError(f"--checkpoint={checkpoint} is neither an update's number nor all.")
    if public and push is None:
        raise ConfigError("--public is about --push, which is not given.")
    from fast_electra.publishing.export import export_run
    from fast_electra.publishing.export import push as push_to_hub
    from fast_electra.terminal import Terminal

    export_run(
        run,
        out,
        "all" if checkpoint == "all" else int(checkpoint) if checkpoint else None,
        auxiliary,
        say=Terminal(stderr=True).say,
    )
    Terminal().say(push_to_hub(out, push, public) if push else str(out))
    return 0
