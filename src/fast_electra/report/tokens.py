"""From a tokenizer's output to pieces of text that can be shown, each with its score.

Notable:
- the pieces always concatenate to the text exactly, whatever the tokenizer leaves out (white space between words),
  shares (a character of several bytes that two tokens hold a part of) or normalises away;
- nothing here loads a tokenizer: offsets or a decode function come in, so that any tokenizer will do.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class DisplayToken(NamedTuple):
    """A piece of text and the model's probability that it was replaced; None for text that is no token."""

    text: str
    suspicion: float | None


def display_tokens(
    text: str, offsets: Sequence[tuple[int, int]], suspicions: Sequence[float | None]
) -> list[DisplayToken]:
    """Cut `text` into one piece a token, in order, and pieces without a score for what no token covers.

    `offsets` are the tokenizer's (start, end) in characters, one a token, start ascending; `suspicions` are
    probabilities in 0 to 1, one a token. Empty offsets (special tokens) give no piece. Tokens that share a character
    become one piece with the highest of their scores.

    Raises:
        ValueError: when the two sequences differ in length.
    """
    pieces: list[DisplayToken] = []
    shown = 0  # characters of the text that the pieces cover so far
    for (start, end), suspicion in zip(offsets, suspicions, strict=True):
        if end <= start:
            continue
        start, end = min(start, len(text)), min(end, len(text))
        if start > shown:
            pieces.append(DisplayToken(text[shown:start], None))
            shown = start
        if start < shown and pieces:
            known = [score for score in (pieces[-1].suspicion, suspicion) if score is not None]
            grown = pieces[-1].text + text[shown:end]
            pieces[-1] = DisplayToken(grown, max(known) if known else None)
        elif end > shown:
            pieces.append(DisplayToken(text[shown:end], suspicion))
        shown = max(shown, end)
    if shown < len(text):
        pieces.append(DisplayToken(text[shown:], None))
    return pieces


def decode_pieces(ids: Sequence[int], decode: Callable[[list[int]], str]) -> list[str]:
    """One piece of text a token of `ids` (S), for sequences that have no source text (corrupted ones).

    The pieces concatenate to `decode(ids)`. A token that ends inside a character gets what is complete before it, and
    the character goes to the token that completes it. `decode` is called S + 1 times: meant for a row, not a corpus.
    """
    whole = decode(list(ids))
    borders = [0]
    for count in range(1, len(ids)):
        prefix = decode(list(ids[:count]))
        while not whole.startswith(prefix):  # ends inside a character, or the decoder joins across the border
            prefix = prefix[:-1]
        borders.append(max(len(prefix), borders[-1]))
    return [whole[start:end] for start, end in zip(borders, [*borders[1:], len(whole)], strict=True)] if ids else []
