"""Pieces of text to display, each with its score, from the output of a tokenizer.

Notable:
- the pieces always concatenate exactly to the text, even if the tokenizer leaves out characters (white space between
  words), splits one character over two tokens, or normalises the text;
- nothing here loads a tokenizer. The caller gives offsets or a decode function, so any tokenizer works.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class DisplayToken(NamedTuple):
    """A piece of text and the probability that it was replaced; None for text that belongs to no token."""

    text: str
    suspicion: float | None


def display_tokens(
    text: str, offsets: Sequence[tuple[int, int]], suspicions: Sequence[float | None]
) -> list[DisplayToken]:
    """Split a text into one piece for each token, and pieces without a score for text that no token covers.

    Empty offsets (special tokens) give no piece. Tokens that share a character become one piece with the highest of
    their scores.

    Args:
        text: the whole text.
        offsets: (start, end) in characters of each token, with ascending starts.
        suspicions: probability between 0 and 1 of each token, or None.

    Returns:
        the pieces in order.

    Raises:
        ValueError: the two sequences differ in length.
    """
    pieces: list[DisplayToken] = []
    shown = 0  # number of characters that the pieces cover so far
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
    """Return a piece of text for each token of `ids` (S), for sequences without source text (corrupted ones).

    The pieces concatenate to `decode(ids)`. If a token ends inside a character, the character belongs to the token
    that completes it. `decode` is called S + 1 times, so use this for a row and not for a corpus.
    """
    whole = decode(list(ids))
    borders = [0]
    for count in range(1, len(ids)):
        prefix = decode(list(ids[:count]))
        while not whole.startswith(prefix):  # it ends inside a character, or the decoder joins tokens
            prefix = prefix[:-1]
        borders.append(max(len(prefix), borders[-1]))
    return [whole[start:end] for start, end in zip(borders, [*borders[1:], len(whole)], strict=True)] if ids else []
