"""Damages files as disks, transfers, editors and attackers do, from a seed."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

_NUMBERS = [b"9" * 5000, b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b"1.5", b"-0"]
_VALUES: list[Any] = [None, True, -1, 0, 1.5, 10**12, 10**30, "x", "", [], {}, [[]], {"x": 1}, ["x"], "../x", "\ud800"]
_BYTES = [b"\x00", b"\xff", b"\r", b"\x1b[2J", b"\xef\xbb\xbf", "\u202e".encode(), b"\n\n\n", b"[" * 600, b"{" * 600]


def flip(content: bytes, draw: random.Random) -> bytes:
    """Change one bit."""
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def truncate(content: bytes, draw: random.Random) -> bytes:
    """Keep only the beginning, perhaps nothing."""
    return content[: draw.choice([0, draw.randrange(len(content)), draw.randrange(len(content)), len(content) - 1])]


def delete(content: bytes, draw: random.Random) -> bytes:
    """Leave out some bytes."""
    place = draw.randrange(len(content))
    return content[:place] + content[place + draw.randint(1, 64) :]


def insert(content: bytes, draw: random.Random) -> bytes:
    """Insert bytes that text does not have, or that nest."""
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.choice(_BYTES) + content[place:]


def duplicate_line(content: bytes, draw: random.Random) -> bytes:
    """Repeat a line."""
    lines = content.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    return b"".join([*lines[:place], lines[place], *lines[place:]])


def swap_lines(content: bytes, draw: random.Random) -> bytes:
    """Exchange two lines."""
    lines = content.splitlines(keepends=True)
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def change_line_ends(content: bytes, draw: random.Random) -> bytes:
    """Give all lines another end."""
    return content.replace(b"\n", draw.choice([b"\r", b"\r\n", b"\n\r"]))


def change_number(content: bytes, draw: random.Random) -> bytes:
    """Replace a number by a huge one, or one of another kind."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    if not found:
        return flip(content, draw)
    number = draw.choice(found)
    return content[: number.start()] + draw.choice(_NUMBERS) + content[number.end() :]


def change_value(content: bytes, draw: random.Random) -> bytes:
    """Replace a value of JSON (of a line of JSON lines) by one of another type, rename a key, or delete one."""
    lines = content.splitlines()
    place = draw.randrange(len(lines)) if lines else 0
    try:
        tree, whole = json.loads(content), True
    except (ValueError, RecursionError):
        whole = False
        try:
            tree = json.loads(lines[place])
        except (ValueError, RecursionError, IndexError):
            return change_number(content, draw)
    slots = list(_slots(tree))
    if not slots:
        return change_number(content, draw)
    holder, key = draw.choice(slots)
    if isinstance(holder, dict) and draw.random() < 0.3:
        value = holder.pop(key)
        if draw.random() < 0.5:
            holder[f"{key}x"] = value
    else:
        holder[key] = draw.choice(_VALUES)
    text = json.dumps(tree).encode()
    return text if whole else b"\n".join([*lines[:place], text, *lines[place + 1 :]])


def _slots(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a value in a tree, as its holder and key."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else []
    return [slot for key in keys for slot in ((tree, key), *_slots(tree[key]))]


MUTATIONS: dict[str, Mutation] = {
    function.__name__: function
    for function in (
        *(flip, truncate, delete, insert, duplicate_line, swap_lines, change_line_ends, change_number, change_value),
    )
}


def mutated(content: bytes, seed: int) -> tuple[str, bytes]:
    """A damaged copy of a file that is not empty, and what was done to it; the mutations take turns."""
    names = list(MUTATIONS)
    draw = random.Random(seed)
    name = names[seed % len(names)]
    return name, MUTATIONS[name](content, draw)
