"""`fast-electra inspect`: shows which tokens of a text a main model finds suspicious."""

from pathlib import Path


def inspect(model: str, file: Path | None = None, /, *, json: bool = False) -> None:
    """Shade each token of a file by the probability, by the main model, that it was replaced.

    Parameters
    ----------
    model
        A run, a checkpoint (RUN/checkpoints/UPDATE), an exported folder or a hub name.
    file
        The text file; default: standard input.
    json
        Print one JSON object on standard output instead of text.
    """
    import io
    import sys

    from fast_electra.data.text_files import open_text, text_bytes
    from fast_electra.errors import DataError
    from fast_electra.terminal import Terminal

    if file:
        with open_text(file, "give a text file") as (_, unpacked):
            content = unpacked.read()
    else:
        content = text_bytes(io.BytesIO(sys.stdin.buffer.read()), "standard input").read()
    text = content.decode("utf-8", "replace")  # with its byte-order mark: offsets count it
    if replaced := text.count("\N{REPLACEMENT CHARACTER}") - content.count("\N{REPLACEMENT CHARACTER}".encode()):
        Terminal(stderr=True).say(f"{replaced:,} characters are not UTF-8; U+FFFD replaces them.")
    from fast_electra.data.tokenizer import unknown_note
    from fast_electra.evaluation.detector import Detector
    from fast_electra.report.inspect import render_terminal, to_json
    from fast_electra.report.tokens import display_tokens

    detector = Detector(model)
    if note := unknown_note(detector.tokenizer, [text], "the text"):
        Terminal(stderr=True).say(note)
    found = detector.inspect(text)
    if not found:
        raise DataError(f"{file or 'standard input'} contains no token; give some text.")
    tokens = display_tokens(text, [(t.start, t.end) for t in found], [t.probability for t in found])
    if json:
        Terminal().say(to_json(tokens))
    else:
        render_terminal(tokens, Terminal())
