"""`fast-electra export`: writes a run's models as folders that Transformers loads, and uploads them on request."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def export(
    run: Path,
    out: Path,
    /,
    *,
    to: Literal["transformers", "onnx", "sentence-transformers"] = "transformers",
    checkpoint: str | None = None,
    auxiliary: Annotated[bool, Parameter(negative="--no-auxiliary")] = True,
    license: str | None = None,
    language: tuple[str, ...] = (),
    datasets: tuple[str, ...] = (),
    push: str | None = None,
    public: bool = False,
) -> None:
    """Write a run's main model with its RTD head, tokenizer and model card to a folder, and its auxiliary below it.

    OUT is the main model, OUT/generator the generator of joint ELECTRA, OUT/auxiliary the frozen auxiliary.

    Parameters
    ----------
    run
        A finished run; with --checkpoint, any run.
    out
        The folder to write; it must be new.
    to
        The library to export for. onnx and sentence-transformers write the main model alone, and need an extra of this
        name.
    checkpoint
        The number of an update whose checkpoint the run kept (training.keep_checkpoints), or all: then each is written
        to OUT/step-N.
    auxiliary
        Also write the auxiliary, if the run used a model on this machine.
    license
        The licence of the model, for its card, as the hub names it: apache-2.0, mit, cc-by-4.0.
    language
        The languages of the text, for the card: en, de.
    datasets
        The data sets of the text, for the card.
    push
        Also upload OUT to this repository of the Hugging Face hub, which is private. With --checkpoint all each
        checkpoint becomes a revision step-N, and the newest is the repository's own content.
    public
        With --push: upload to a public repository.
    """
    from fast_electra.errors import ConfigError

    if checkpoint is not None and checkpoint != "all" and not checkpoint.isdecimal():
        raise ConfigError(f"--checkpoint={checkpoint} is neither the number of an update nor all.")
    if public and push is None:
        raise ConfigError("--public needs --push: give --push REPOSITORY too.")
    if to != "transformers" and (checkpoint == "all" or not auxiliary):
        wrong = "--checkpoint all" if checkpoint == "all" else "--no-auxiliary"
        raise ConfigError(f"--to {to} writes one model, the main model: leave {wrong} out.")
    from fast_electra.publishing.card import describe
    from fast_electra.publishing.export import export_run
    from fast_electra.publishing.export import push as push_to_hub
    from fast_electra.terminal import Terminal

    say = Terminal(stderr=True).say
    update = int(checkpoint) if checkpoint and checkpoint != "all" else None
    if to != "transformers":
        from fast_electra.publishing.formats import convert

        convert(run, out, to, update, say)
    else:
        export_run(run, out, "all" if checkpoint == "all" else update, auxiliary, say)
    describe(out, push, license, language, datasets)
    Terminal().say(push_to_hub(out, push, public) if push else str(out))
