"""`fast-electra inspect`: what a main model finds suspicious in a text, token by token."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def inspect(model: str, file: Path | None = None, /, *, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Shade a file's tokens by how much the main model believes that they were replaced.

    Parameters
    ----------
    model
        A run, an exported folder or a hub name.
    file
        The text; standard input when left out.
    json
        Print one JSON object on standard output instead.
    """
    import io
    import sys

    from rich.console import Console

    from fast_electra.data.content import open_text, text_bytes
    from fast_electra.errors import DataError

    if file:
        with open_text(file, "give a text file") as (_, unpacked):
            content = unpacked.read()
    else:
        content = text_bytes(io.BytesIO(sys.stdin.buffer.read()), "standard input").read()
    text = content.decode("utf-8-sig", errors="replace")
    if replaced := text.count("\N{REPLACEMENT CHARACTER}") - content.count("\N{REPLACEMENT CHARACTER}".encode()):
        note = f"{replaced:,} characters are not UTF-8; U+FFFD stands in their place."
        Console(stderr=True).print(note, markup=False, highlight=False)
    from fast_electra.evaluation.detector import Detector
    from fast_electra.report.inspect import render_terminal, to_json
    from fast_electra.report.tokens import display_tokens

    found = Detector(model).inspect(text)
    if not found:
        raise DataError(f"{file or 'standard input'} holds no token; give some text.")
    tokens = display_tokens(text, [(t.start, t.end) for t in found], [t.probability for t in found])
    if json:
        print(to_json(tokens))
    else:
        render_terminal(tokens, Console())
    return 0
