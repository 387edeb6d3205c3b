"""Functions of Python source: extracting them without docstrings, and walking over their syntax trees."""

import ast
import gc
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

FEWEST_LINES, MOST_LINES = 4, 60
_NO_ANNOTATIONS = frozenset({"annotation", "returns", "decorator_list", "type_params"})
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class SourceText(Protocol):
    """A text and the name of its source, for example `data.sources.Document`."""

    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Function:
    """A function without docstrings, moved to the left margin."""

    text: str
    source: str
    """file and line number of its first line"""
    tree: FunctionNode = field(repr=False, compare=False)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector: syntax trees have no cycles, and looking for them takes 40 % of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def extract_functions(text: str, source: str) -> list[Function]:
    """Extract functions and methods that have 4 to 60 lines without their docstrings.

    Nested functions stay inside the outer one and comments stay; decorators, docstrings and the blank lines after a
    docstring are removed. A function is left out if a docstring is its whole body or shares a line with code, or if
    it has multi-line strings that would change when it is moved to the margin.

    Args:
        text: content of a Python file.
        source: name of the file.

    Returns:
        functions in the order of the text; none if the text does not parse.
    """
    tree = parse_python(text)
    if tree is None:
        return []
    lines = text.split("\n")
    found = []
    for node in _outer_functions(tree):
        docstrings = _docstring_lines(node, lines)
        if docstrings is None:
            continue
        numbers = [number for number in range(node.lineno - 1, node.end_lineno or 0) if number not in docstrings]
        if not FEWEST_LINES <= len(numbers) <= MOST_LINES:
            continue
        indent = re.compile(rf"[ \t]{{0,{node.col_offset}}}")
        content = "\n".join(lines[number][match_length(indent, lines[number]) :] for number in numbers)
        inner = parse_python(content)
        if inner is None or (node.col_offset and _has_multiline_string(inner, content)):
            continue
        if len(inner.body) == 1 and isinstance(inner.body[0], FunctionNode):
            found.append(Function(content, f"{source}:{node.lineno}", inner.body[0]))
    return found


def _docstring_lines(function: FunctionNode, lines: list[str]) -> set[int] | None:
    """Line numbers, from 0, of the docstrings in a function and of the blank lines after them.

    None if removing whole lines would remove more than docstrings.
    """
    removed: set[int] = set()
    for node in _definitions(function):
        if ast.get_docstring(node, clean=False) is None:
            continue
        docstring = node.body[0]
        first, (last, column) = docstring.lineno - 1, end_of(docstring)
        before = lines[first].encode()[: docstring.col_offset].strip()
        after = lines[last - 1].encode()[column:].strip()
        if len(node.body) == 1 or before or (after and not after.startswith(b"#")):
            return None
        while not lines[last].strip():
            last += 1
        removed.update(range(first, last))
    return removed


def _definitions(node: ast.AST) -> Iterator[FunctionNode | ast.ClassDef]:
    """Yield a function or class and the ones defined inside it; only statements are searched."""
    if isinstance(node, FunctionNode | ast.ClassDef):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _definitions(child)


def _outer_functions(tree: ast.Module | ast.ClassDef) -> Iterator[FunctionNode]:
    for node in tree.body:
        if isinstance(node, FunctionNode):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from _outer_functions(node)


def _has_multiline_string(tree: ast.AST, text: str) -> bool:
    if not any(sign in text for sign in ('"""', "'''", "\\\n")):
        return False
    return any(
        node.lineno != node.end_lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
    )


def parse_python(text: str) -> ast.Module | None:
    """Return the syntax tree of a file; None if it does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in strings
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def end_of(node: ast.stmt | ast.expr) -> tuple[int, int]:
    """Return line and byte column after a node."""
    return node.end_lineno or node.lineno, node.end_col_offset or 0


def child_nodes(node: ast.AST) -> list[ast.AST]:
    """Return the children of a node, without annotations and decorators."""
    children: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            if name not in _NO_ANNOTATIONS:
                children.extend(child for child in value if isinstance(child, ast.AST))
        elif isinstance(value, ast.AST) and name not in _NO_ANNOTATIONS:
            children.append(value)
    return children


def match_length(pattern: re.Pattern[str], text: str, position: int = 0) -> int:
    """Return how many characters a pattern matches from a position on; 0 if it does not match."""
    match = pattern.match(text, position)
    return match.end() - match.start() if match else 0
