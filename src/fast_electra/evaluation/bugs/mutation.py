"""Bugs: one operator or one variable of a function is replaced by a wrong one.

Notable:
- the wrong operator (of the right one's family) or variable (bound further up in the function) is drawn in proportion
  to its frequency in the training corpus. With uniform draws the rarer of the two is mostly the wrong one, and a
  frequency table finds the bug without looking at the code;
- every draw comes from a generator with the key (seed, digest of the function), so the bug of a function does not
  depend on the other functions.
"""

import ast
import bisect
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fast_electra.errors import DataError
from fast_electra.evaluation.bugs.functions import (
    Function,
    FunctionNode,
    SourceText,
    child_nodes,
    collector_paused,
    end_of,
    extract_functions,
    match_length,
    parse_python,
)

BugKind = Literal["operator", "variable"]
KINDS: tuple[BugKind, ...] = ("operator", "variable")
_COUNTED = 8_000_000
"""characters of the training corpus after which counting stops"""
# An operator is replaced by another one of its family.
FAMILIES: tuple[tuple[str, ...], ...] = (
    ("+", "-", "*", "/", "//", "%", "**"),
    ("&", "|", "^", "<<", ">>"),
    ("<", "<=", ">", ">=", "==", "!="),
    ("is", "is not"),
    ("in", "not in"),
    ("and", "or"),
)
FAMILY_OF = {symbol: family for family in FAMILIES for symbol in family}
SYMBOLS: dict[type[ast.AST], str] = {
    **{ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**"},
    **{ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>"},
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="},
    **{ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in", ast.And: "and", ast.Or: "or"},
}
# Every method has these names, so nobody uses another variable in their place by mistake.
NEVER_MISUSED = frozenset({"self", "cls"})
SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


@dataclass(frozen=True)
class Frequencies:
    """Counts of each operator and each variable name in the training corpus."""

    operators: Counter[str]
    identifiers: Counter[str]

    def count(self, bug: "Bug", symbol: str) -> int:
        """Return the count of an operator or variable, whichever the kind of the bug is."""
        return (self.operators if bug.kind == "operator" else self.identifiers)[symbol]


@dataclass(frozen=True)
class Bug:
    """Two versions of a function that differ in one operator or one variable."""

    kind: BugKind
    clean: str
    changed: str
    start: int
    """number of characters before the change, equal in both versions"""
    original: str
    replacement: str
    source: str


@collector_paused()
def count_frequencies(texts: Iterable[SourceText]) -> Frequencies:
    """Count operators and variable names outside annotations in Python files, which are in random order.

    Raises:
        DataError: no text parses.
    """
    operators: Counter[str] = Counter()
    identifiers: Counter[str] = Counter()
    total = 0
    for text in texts:
        if total >= _COUNTED:
            break
        tree = parse_python(content := text.text)
        if tree is None:
            continue
        total += len(content)
        stack: list[ast.AST] = [tree]
        while stack:
            node = stack.pop()
            stack.extend(child_nodes(node))
            match node:
                case ast.Name(id=name) | ast.arg(arg=name):
                    identifiers[name] += 1
                case ast.BinOp(op=operator):
                    operators[SYMBOLS.get(type(operator), "@")] += 1
                case ast.BoolOp(op=operator, values=values):
                    operators[SYMBOLS[type(operator)]] += len(values) - 1
                case ast.Compare(ops=several):
                    operators.update(SYMBOLS[type(operator)] for operator in several)
    if not total:
        raise DataError("there is no Python source to count operators and variables in: give files that parse.")
    return Frequencies(operators, identifiers)


@collector_paused()
def find_bugs(
    texts: Iterable[SourceText],
    frequencies: Frequencies,
    operators: int = 2_500,
    variables: int = 1_500,
    seed: int = 0,
) -> list[Bug]:
    """Make at most one bug of each kind in every function.

    Args:
        texts: Python files.
        frequencies: of the training corpus.
        operators: maximum number of operator bugs; 0 for none.
        variables: maximum number of variable bugs; 0 for none.
        seed: of the draws.

    Returns:
        bugs in the order of the texts, equal functions once.

    Raises:
        DataError: there is no bug of a kind whose maximum is above 0.
    """
    wanted: dict[BugKind, int] = {"operator": operators, "variable": variables}
    bugs: list[Bug] = []
    found: Counter[BugKind] = Counter()
    seen: set[str] = set()
    for text in texts:
        if all(found[kind] >= wanted[kind] for kind in KINDS):
            break
        for function in extract_functions(text.text, text.source):
            if function.text in seen:
                continue
            seen.add(function.text)
            for kind in KINDS:
                if found[kind] < wanted[kind] and (bug := make_bug(function, kind, frequencies, seed)):
                    bugs.append(bug)
                    found[kind] += 1
    for kind in KINDS:
        if wanted[kind] and not found[kind]:
            raise DataError(
                f"no function has a place for a wrong {kind}: give Python files with functions of 4 to 60 lines."
            )
    return bugs


def make_bug(function: Function, kind: BugKind, frequencies: Frequencies, seed: int = 0) -> Bug | None:
    """Change one operator or variable of a function; None if it has no place for such a change."""
    places = _Places(function.text)
    if kind == "operator":
        sites, counts = list(_operator_sites(function.tree, places)), frequencies.operators
    else:
        sites, counts = list(_variable_sites(function.tree, places)), frequencies.identifiers
    if not sites:
        return None
    digest = hashlib.sha256(f"{kind}\0{function.text}".encode()).digest()
    random = np.random.Generator(np.random.Philox(key=np.array([seed, int.from_bytes(digest[:8])], dtype=np.uint64)))
    site = sites[random.integers(len(sites))]
    # Plus one, so that names which are not in the corpus can be drawn.
    weights = np.array([counts[choice] + 1.0 for choice in site.choices])
    replacement = site.choices[random.choice(len(site.choices), p=weights / weights.sum())]
    changed = function.text[: site.start] + replacement + function.text[site.end :]
    if parse_python(changed) is None:
        return None
    return Bug(kind, function.text, changed, site.start, site.original, replacement, function.source)


@dataclass(frozen=True)
class _Site:
    """A place for one change, and the possible replacements."""

    start: int
    end: int
    original: str
    choices: Sequence[str]


class _Places:
    """Converts the line and byte column of a syntax tree into a character offset."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = text.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def offset(self, line: int, column: int) -> int:
        content = self._lines[line - 1]
        return self._starts[line - 1] + (column if content.isascii() else len(content.encode()[:column].decode()))

    def start(self, node: ast.expr) -> int:
        return self.offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr) -> int:
        return self.offset(*end_of(node))


# What can be between two operands, except the operator.
_BETWEEN = re.compile(r"(?:[\s()\\]|#[^\n]*)*")


def _operator_sites(function: FunctionNode, places: _Places) -> Iterator[_Site]:
    for node in _nodes(function, nested=True):
        match node:
            case ast.BinOp(left=left, op=operator, right=right):
                operands, operators = [left, right], [operator]
            case ast.BoolOp(op=operator, values=operands):
                operators = [operator] * (len(operands) - 1)
            case ast.Compare(left=left, ops=operators, comparators=comparators):
                operands = [left, *comparators]
            case _:
                continue
        for before, operator, after in zip(operands, operators, operands[1:], strict=False):
            symbol = SYMBOLS.get(type(operator))
            if symbol is None:  # the matrix product belongs to no family
                continue
            start = places.end(before)
            start += match_length(_BETWEEN, places.text, start)
            pattern = re.compile(r"\s+".join(map(re.escape, symbol.split())))
            end = start + match_length(pattern, places.text, start)
            if start < end <= places.start(after):
                yield _Site(start, end, symbol, [other for other in FAMILY_OF[symbol] if other != symbol])


def _variable_sites(function: FunctionNode, places: _Places) -> Iterator[_Site]:
    """Places where a local variable is read, outside nested scopes; choices are the other variables bound above."""
    bound = _bindings(function)
    order = sorted(bound, key=lambda name: (bound[name], name))
    positions = [bound[name] for name in order]
    for node in _nodes(function, nested=False):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in bound:
            above = order[: bisect.bisect_left(positions, (node.lineno, node.col_offset))]
            choices = [name for name in above if name != node.id]
            if choices and len(choices) < len(above):
                yield _Site(places.start(node), places.end(node), node.id, choices)


def _bindings(function: FunctionNode) -> dict[str, tuple[int, int]]:
    """Parameters and local variables, with the place (line, column) from which they have a value."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    bound = {parameter.arg: (0, 0) for parameter in parameters if parameter}
    later: dict[ast.AST, tuple[int, int]] = {}  # a target has its value after the expression is evaluated
    elsewhere: set[str] = set()
    for node in _nodes(function, nested=False):
        match node:
            case ast.Assign(targets=targets):
                later |= dict.fromkeys((inner for target in targets for inner in ast.walk(target)), end_of(node))
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target, value=ast.expr()):
                later |= dict.fromkeys(ast.walk(target), end_of(node))
            case ast.AnnAssign(target=target):  # declared, but without a value
                later |= dict.fromkeys(ast.walk(target), (2**31, 0))
            case ast.For(target=target, iter=values) | ast.AsyncFor(target=target, iter=values):
                later |= dict.fromkeys(ast.walk(target), end_of(values))
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                elsewhere.update(names)
            case ast.Name(id=name, ctx=ast.Store()):
                place = later.get(node, (node.lineno, node.col_offset))
                bound[name] = min(place, bound.get(name, place))
    return {name: place for name, place in bound.items() if name not in elsewhere | NEVER_MISUSED}


def _nodes(function: FunctionNode, *, nested: bool) -> Iterator[ast.AST]:
    """Yield the nodes of a function in the order of the text, without annotations, decorators and f-strings.

    If not `nested`, default values, inner functions and comprehensions are left out.
    """
    stack: list[ast.AST] = [*reversed(function.body)]
    if nested:
        stack.append(function.args)
    while stack:
        node = stack.pop()
        # Positions inside f-strings are wrong before Python 3.12.
        if isinstance(node, ast.JoinedStr) or (not nested and isinstance(node, SCOPES)):
            continue
        yield node
        stack.extend(reversed(child_nodes(node)))
