"""The bug-finding benchmark: one thing is changed in a function, and the model must find it odd, without fine-tuning.

After CuBERT's "wrong binary operator" and "variable misuse" (Kanade et al., 2020, arXiv 2001.00059), as pairs.

Notable:
- the wrong operator (of the right one's family) or variable (bound further up in the function) is drawn in proportion
  to its frequency in the training corpus: with uniform draws the rarer of the two is mostly the wrong one, and a
  frequency table finds the bug without looking at the code;
- every draw comes from a generator keyed by (seed, digest of the function): a function's bug does not depend on which
  other functions are there;
- a pair is compared in the same window of tokens: as much before and after the change in both versions;
- scorers are plain functions on tensors, so models, baselines and tests plug in alike.

Shapes: N pairs, B sequences of a batch, S tokens of a padded sequence, V vocabulary.
"""

import ast
import bisect
import gc
import hashlib
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fast_electra.errors import DataError, ModelError
from fast_electra.evaluation.metrics import (
    Interval,
    bootstrap_interval,
    paired_bootstrap,
    roc_auc,
    student_interval,
    wins,
)

Kind = Literal["operator", "variable"]
KINDS: tuple[Kind, ...] = ("operator", "variable")
UNTRAINED_PAIRS: Mapping[Kind, int] = {"operator": 300, "variable": 100}
"""how many untrained models are judged on, the first ones: there are ten of them for one that is trained"""

# (ids (B, S) int64, padding (B, S) bool) -> logits (B, S) float32; the higher, the more suspicious.
Suspicion = Callable[[Tensor, Tensor], Tensor]
# (ids (B, S) int64 with one [MASK] a row, padding (B, S) bool, its positions (B,) int64) -> log-probabilities (B, V).
MaskedPrediction = Callable[[Tensor, Tensor, Tensor], Tensor]

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
FEWEST_LINES, MOST_LINES = 4, 60
# Named so in every method: nobody takes another variable for them by mistake.
NEVER_MISUSED = frozenset({"self", "cls"})
# Sequences are padded to the next of these: few shapes, little waste.
PADDED_LENGTHS = (8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64, 96, 128, 192, 256, 384, 512)
NO_ANNOTATIONS = frozenset({"annotation", "returns", "decorator_list", "type_params"})
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


class SourceText(Protocol):
    """Anything with a text and a name for where it is from, `data.sources.Document` for one."""

    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Frequencies:
    """How often each operator and each variable name occurs in the training corpus."""

    operators: Counter[str]
    identifiers: Counter[str]
    characters: int
    """of source that were counted"""


@dataclass(frozen=True)
class Function:
    """A function without docstrings, its first line at the margin."""

    text: str
    source: str
    """file and first line there"""
    tree: FunctionNode = field(repr=False, compare=False)


@dataclass(frozen=True)
class Bug:
    """A function in two versions that differ in one operator or one variable."""

    kind: Kind
    clean: str
    changed: str
    start: int
    """characters before the change, the same in both"""
    original: str
    replacement: str
    source: str


@dataclass(frozen=True)
class Pair:
    """The two versions as token ids, special tokens included, around the change where the function is too long."""

    bug: Bug
    clean: NDArray[np.int64]
    changed: NDArray[np.int64]
    first: int
    """the first differing token"""
    clean_end: int
    changed_end: int
    """differing tokens are first … end-1, at least one in each version"""
    offsets: list[tuple[int, int]]
    """characters of `bug.changed` for each token of `changed`; (0, 0) for special tokens"""

    @property
    def masked(self) -> NDArray[np.int64]:
        """Clean version with 0 in place of all differing tokens: the same as from the changed version."""
        return np.concatenate([self.clean[: self.first], [0], self.clean[self.clean_end :]])


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Syntax trees hold no cycles, and the garbage collector takes 40 % of the time looking for some."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# --- Frequencies ------------------------------------------------------------------------------------------------------


@_collector_paused()
def count_frequencies(texts: Iterable[SourceText], characters: int = 8_000_000) -> Frequencies:
    """Counts operators and variable names, annotations aside, in about the first `characters` of `texts`.

    The texts should come in random order. DataError where none parses.
    """
    operators: Counter[str] = Counter()
    identifiers: Counter[str] = Counter()
    total = 0
    for text in texts:
        if total >= characters:
            break
        tree = _parse(content := text.text)
        if tree is None:
            continue
        total += len(content)
        stack: list[ast.AST] = [tree]
        while stack:
            node = stack.pop()
            stack.extend(_children(node))
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
        raise DataError("no Python source to count operators and variables in: give files that parse as Python.")
    return Frequencies(operators, identifiers, total)


# --- Functions --------------------------------------------------------------------------------------------------------


def extract_functions(text: str, source: str) -> list[Function]:
    """Functions and methods of a file with 4 to 60 lines once their docstrings are removed; none if it doesn't parse.

    Nested functions stay inside the outer one, decorators are left off, comments stay; the blank lines after a
    docstring go with it. Left out are functions of which a docstring is a whole body or shares a line with code, and
    those whose multi-line strings would change when moved to the margin.
    """
    tree = _parse(text)
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
        content = "\n".join(lines[number][_length(indent, lines[number]) :] for number in numbers)
        inner = _parse(content)
        if inner is None or (node.col_offset and _has_multiline_string(inner, content)):
            continue
        if len(inner.body) == 1 and isinstance(inner.body[0], FunctionNode):
            found.append(Function(content, f"{source}:{node.lineno}", inner.body[0]))
    return found


def _docstring_lines(function: FunctionNode, lines: list[str]) -> set[int] | None:
    """Numbers, from 0, of the lines of the docstrings in a function and of the blank lines after them.

    None where they can't be removed by lines.
    """
    removed: set[int] = set()
    for node in _definitions(function):
        if ast.get_docstring(node, clean=False) is None:
            continue
        docstring = node.body[0]
        first, (last, column) = docstring.lineno - 1, _end(docstring)
        before = lines[first].encode()[: docstring.col_offset].strip()
        after = lines[last - 1].encode()[column:].strip()
        if len(node.body) == 1 or before or (after and not after.startswith(b"#")):
            return None
        while not lines[last].strip():
            last += 1
        removed.update(range(first, last))
    return removed


def _definitions(node: ast.AST) -> Iterator[FunctionNode | ast.ClassDef]:
    """A function or class and those in it, found through statements alone."""
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


def _parse(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


# --- Bugs -------------------------------------------------------------------------------------------------------------


@_collector_paused()
def find_bugs(
    texts: Iterable[SourceText],
    frequencies: Frequencies,
    operators: int = 2_500,
    variables: int = 1_500,
    seed: int = 0,
) -> list[Bug]:
    """At most so many bugs of each kind, one a function, in the order of the texts; a function may serve both kinds.

    DataError where the texts give none of a kind that was asked for.
    """
    wanted: dict[Kind, int] = {"operator": operators, "variable": variables}
    bugs: list[Bug] = []
    found: Counter[Kind] = Counter()
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
            raise DataError(f"no function to put a wrong {kind} in: give Python files with functions of 4 to 60 lines.")
    return bugs


def make_bug(function: Function, kind: Kind, frequencies: Frequencies, seed: int) -> Bug | None:
    """One change in a function; None where nothing can be changed."""
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
    # One more than counted, so that names which the corpus lacks can be drawn.
    weights = np.array([counts[choice] + 1.0 for choice in site.choices])
    replacement = site.choices[random.choice(len(site.choices), p=weights / weights.sum())]
    changed = function.text[: site.start] + replacement + function.text[site.end :]
    if _parse(changed) is None:
        return None
    return Bug(kind, function.text, changed, site.start, site.original, replacement, function.source)


@dataclass(frozen=True)
class _Site:
    """Where one change can be made, and what can stand there instead."""

    start: int
    end: int
    original: str
    choices: Sequence[str]


class _Places:
    """Turns the line and byte column of a syntax tree into a character offset."""

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
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.end_lineno, node.end_col_offset)


# All that can stand between two operands beside the operator.
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
            if symbol is None:  # the matrix product has no family
                continue
            start = places.end(before)
            start += _length(_BETWEEN, places.text, start)
            pattern = re.compile(r"\s+".join(map(re.escape, symbol.split())))
            end = start + _length(pattern, places.text, start)
            if start < end <= places.start(after):
                yield _Site(start, end, symbol, [other for other in FAMILY_OF[symbol] if other != symbol])


def _variable_sites(function: FunctionNode, places: _Places) -> Iterator[_Site]:
    """Loads of local variables outside nested scopes; choices are the others that are bound further up."""
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
    """Parameters and local variables with the place (line, column) from which they have a value."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    bound = {parameter.arg: (0, 0) for parameter in parameters if parameter}
    later: dict[ast.AST, tuple[int, int]] = {}  # a target has its value once the statement's expression is evaluated
    elsewhere: set[str] = set()
    for node in _nodes(function, nested=False):
        match node:
            case ast.Assign(targets=targets):
                later |= dict.fromkeys((inner for target in targets for inner in ast.walk(target)), _end(node))
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target, value=ast.expr()):
                later |= dict.fromkeys(ast.walk(target), _end(node))
            case ast.AnnAssign(target=target):  # declared, but without a value
                later |= dict.fromkeys(ast.walk(target), (2**31, 0))
            case ast.For(target=target, iter=values) | ast.AsyncFor(target=target, iter=values):
                later |= dict.fromkeys(ast.walk(target), _end(values))
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                elsewhere.update(names)
            case ast.Name(id=name, ctx=ast.Store()):
                place = later.get(node, (node.lineno, node.col_offset))
                bound[name] = min(place, bound.get(name, place))
    return {name: place for name, place in bound.items() if name not in elsewhere | NEVER_MISUSED}


def _end(node: ast.stmt | ast.expr) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or 0


def _nodes(function: FunctionNode, *, nested: bool) -> Iterator[ast.AST]:
    """Nodes of a function in the order of the text, without annotations, decorators and f-strings.

    Not `nested`: only what runs in its own scope, so neither default values nor inner functions and comprehensions.
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
        stack.extend(reversed(_children(node)))


def _children(node: ast.AST) -> list[ast.AST]:
    """Children of a node but annotations and decorators."""
    children: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            if name not in NO_ANNOTATIONS:
                children.extend(child for child in value if isinstance(child, ast.AST))
        elif isinstance(value, ast.AST) and name not in NO_ANNOTATIONS:
            children.append(value)
    return children


def _length(pattern: re.Pattern[str], text: str, position: int = 0) -> int:
    match = pattern.match(text, position)
    return match.end() - match.start() if match else 0


# --- Tokens -----------------------------------------------------------------------------------------------------------


def encode_bugs(bugs: Sequence[Bug], tokenizer: PreTrainedTokenizerBase, length: int) -> list[Pair]:
    """Both versions of each bug as at most `length` tokens, special ones included.

    A longer function is cropped around the change, the same for both. Bugs whose versions give the same tokens or
    whose change alone is longer than the window are left out. ModelError for a tokenizer without [CLS] and [SEP].
    """
    first_id, last_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    if not isinstance(first_id, int) or not isinstance(last_id, int):
        raise ModelError("the tokenizer has no [CLS] or no [SEP] token: add them, or take another tokenizer.")
    clean = _encode([bug.clean for bug in bugs], tokenizer)
    changed = _encode([bug.changed for bug in bugs], tokenizer)
    pairs = []
    for bug, (clean_ids, _), (changed_ids, offsets) in zip(bugs, clean, changed, strict=True):
        before, after = _common(clean_ids, changed_ids)
        if before + after == len(clean_ids) == len(changed_ids):
            continue
        if before + after == min(len(clean_ids), len(changed_ids)):
            after -= 1  # "is" to "is not": the token behind belongs to the change, so that both have a first one
        differing = max(len(clean_ids), len(changed_ids)) - before - after
        room = length - 2 - differing
        if room < 0 or after < 0:
            continue
        right = min(after, max(room // 2, room - before))
        left = min(before, room - right)
        start = before - left
        clean_end, changed_end = len(clean_ids) - after, len(changed_ids) - after
        pairs.append(
            Pair(
                bug=bug,
                clean=np.array([first_id, *clean_ids[start : clean_end + right], last_id], dtype=np.int64),
                changed=np.array([first_id, *changed_ids[start : changed_end + right], last_id], dtype=np.int64),
                first=left + 1,
                clean_end=clean_end - start + 1,
                changed_end=changed_end - start + 1,
                offsets=[(0, 0), *offsets[start : changed_end + right], (0, 0)],
            )
        )
    return pairs


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[tuple[list[int], list[tuple[int, int]]]]:
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids: Any = encoded["input_ids"]
    offsets: Any = encoded["offset_mapping"]
    return list(zip(ids, offsets, strict=True))


def _common(first: list[int], second: list[int]) -> tuple[int, int]:
    """Lengths of the common beginning and of the common end, which don't overlap."""
    shorter = min(len(first), len(second))
    before = next((index for index in range(shorter) if first[index] != second[index]), shorter)
    after = next((index for index in range(shorter - before) if first[-1 - index] != second[-1 - index]), None)
    return before, shorter - before if after is None else after


# --- Scores -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BugScores:
    """What a model that scores every token made of N pairs."""

    first_clean: NDArray[np.float64]
    first_changed: NDArray[np.float64]
    """logit at the first differing token, (N,)"""
    mean_clean: NDArray[np.float64]
    mean_changed: NDArray[np.float64]
    """mean logit over the tokens but special ones, (N,)"""
    auc: NDArray[np.float64]
    """ROC-AUC of the changed tokens among those of the same function, (N,); NaN where all were changed"""
    top1: NDArray[np.float64]
    """1 where the most suspicious token was changed, shared among equals, (N,)"""
    auc_pooled: float
    """ROC-AUC over the tokens of all changed functions together"""
    changed_logits: list[NDArray[np.float32]] = field(repr=False)
    """logits of the changed version's tokens, special ones included"""

    @property
    def pair(self) -> NDArray[np.float64]:
        """1 where the first differing token is more suspicious in the changed version, 0.5 for a tie, (N,)."""
        return wins(self.first_changed, self.first_clean)

    @property
    def pair_whole_function(self) -> NDArray[np.float64]:
        """The same of the mean logit, (N,)."""
        return wins(self.mean_changed, self.mean_clean)


@dataclass(frozen=True)
class MaskedScores:
    """What a masked language model made of N pairs, and of the first M functions token by token."""

    pair: NDArray[np.float64]
    """1 where the original token is likelier than the changed one at the mask, (N,): one pass, its place given"""
    auc: NDArray[np.float64]
    top1: NDArray[np.float64]
    """(M,), a token's suspicion being log p(likeliest) - log p(token)"""
    passes: NDArray[np.int64]
    """forward passes for that: one a token, (M,)"""


def evaluate_bugs(pairs: Sequence[Pair], suspicion: Suspicion, *, pad_id: int = 0, batch_size: int = 64) -> BugScores:
    """Scores both versions of each pair, a pass each. ModelError where a logit isn't finite."""
    sequences = [pair.clean for pair in pairs] + [pair.changed for pair in pairs]
    logits = score_tokens(sequences, suspicion, pad_id=pad_id, batch_size=batch_size)
    clean, changed = logits[: len(pairs)], logits[len(pairs) :]
    labels = [_changed_tokens(pair) for pair in pairs]
    inner = [scores[1:-1] for scores in changed]
    return BugScores(
        first_clean=np.array([scores[pair.first] for pair, scores in zip(pairs, clean, strict=True)], np.float64),
        first_changed=np.array([scores[pair.first] for pair, scores in zip(pairs, changed, strict=True)], np.float64),
        mean_clean=np.array([scores[1:-1].mean(dtype=np.float64) for scores in clean]),
        mean_changed=np.array([scores.mean(dtype=np.float64) for scores in inner]),
        auc=np.array([_rank(label, scores) for label, scores in zip(labels, inner, strict=True)]),
        top1=np.array([_top1(label, scores) for label, scores in zip(labels, inner, strict=True)]),
        auc_pooled=roc_auc(np.concatenate(labels), np.concatenate(inner)) if pairs else float("nan"),
        changed_logits=changed,
    )


def evaluate_masked(
    pairs: Sequence[Pair],
    prediction: MaskedPrediction,
    *,
    mask_id: int,
    pad_id: int = 0,
    every_token: int = 60,
    batch_size: int = 64,
) -> MaskedScores:
    """The same questions to a masked language model.

    Pair: all differing tokens are replaced by one [MASK], so that neither version is favoured, and the first differing
    tokens of the two compared there. AUC and top-1: for the first `every_token` pairs each token of the changed
    version is masked in turn, a pass a token.
    """
    if not pairs:
        nothing = np.zeros(0)
        return MaskedScores(nothing, nothing, nothing, np.zeros(0, dtype=np.int64))
    questions, positions = [], []
    for pair in pairs:
        question = pair.masked
        question[pair.first] = mask_id
        questions.append(question)
        positions.append(pair.first)
    wanted = np.array([[pair.clean[pair.first], pair.changed[pair.first]] for pair in pairs])
    chosen, _ = _predict(questions, np.array(positions), wanted, prediction, pad_id, batch_size)
    pair_wins = wins(chosen[:, 0], chosen[:, 1])

    subset = pairs[:every_token]
    passes = np.array([len(pair.changed) - 2 for pair in subset], dtype=np.int64)
    chosen, best = mask_in_turn(
        [pair.changed for pair in subset], prediction, mask_id=mask_id, pad_id=pad_id, batch_size=batch_size
    )
    scores = [likeliest - own for likeliest, own in zip(best, chosen, strict=True)]
    labels = [_changed_tokens(pair) for pair in subset]
    return MaskedScores(
        pair=pair_wins,
        auc=np.array([_rank(label, values) for label, values in zip(labels, scores, strict=True)]),
        top1=np.array([_top1(label, values) for label, values in zip(labels, scores, strict=True)]),
        passes=passes,
    )


def frequency_table(pairs: Sequence[Pair], frequencies: Frequencies) -> NDArray[np.float64]:
    """The baseline that looks at no context: 1 where the original is more frequent in the corpus, ties 0.5, (N,)."""
    original, replacement = [], []
    for pair in pairs:
        counts = frequencies.operators if pair.bug.kind == "operator" else frequencies.identifiers
        original.append(counts[pair.bug.original])
        replacement.append(counts[pair.bug.replacement])
    return wins(original, replacement)


def score_tokens(
    sequences: Sequence[NDArray[np.int64]], suspicion: Suspicion, *, pad_id: int = 0, batch_size: int = 64
) -> list[NDArray[np.float32]]:
    """Logits of every token of every sequence, each (length of the sequence,). ModelError where one isn't finite."""
    result: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(sequences)
    for chosen, ids, padding in _batches(sequences, pad_id, batch_size):
        with torch.no_grad():  # not inference mode: probes score a model that goes on training
            logits = suspicion(ids, padding).float().cpu().numpy()
        for row, index in enumerate(chosen):
            result[index] = logits[row, : len(sequences[index])].copy()
            if not np.isfinite(result[index]).all():
                raise ModelError("the model gives logits that are not finite: train it again at a lower learning rate.")
    return result


def mask_in_turn(
    sequences: Sequence[NDArray[np.int64]],
    prediction: MaskedPrediction,
    *,
    mask_id: int,
    pad_id: int = 0,
    batch_size: int = 64,
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Mask each token between the first and the last of every sequence, one at a time: a forward pass a token.

    Returns:
        log-probabilities of the tokens themselves, an array a sequence, and of the likeliest tokens in their places.
    """
    passes = [max(0, len(sequence) - 2) for sequence in sequences]
    questions, positions, tokens = [], [], []
    for sequence in sequences:
        for position in range(1, len(sequence) - 1):
            question = sequence.copy()
            question[position] = mask_id
            questions.append(question)
            positions.append(position)
            tokens.append(sequence[position])
    wanted = np.array(tokens, dtype=np.int64)[:, None]
    chosen, best = _predict(questions, np.array(positions, dtype=np.int64), wanted, prediction, pad_id, batch_size)
    ends = np.cumsum(passes)[:-1]
    if not len(sequences):
        return [], []
    return np.split(chosen[:, 0], ends), np.split(best, ends)


def _predict(
    sequences: Sequence[NDArray[np.int64]],
    positions: NDArray[np.int64],
    wanted: NDArray[np.int64],
    prediction: MaskedPrediction,
    pad_id: int,
    batch_size: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-probabilities of the wanted tokens (N, K) and of the likeliest one (N,) at one position of each sequence."""
    chosen_NK = np.empty(wanted.shape)
    best_N = np.empty(len(sequences))
    for chosen, ids, padding in _batches(sequences, pad_id, batch_size):
        with torch.no_grad():
            log_probabilities = prediction(ids, padding, torch.from_numpy(positions[chosen])).float()
            wanted_BK = torch.from_numpy(wanted[chosen]).to(log_probabilities.device)
        chosen_NK[chosen] = log_probabilities.gather(1, wanted_BK).cpu().numpy()
        best_N[chosen] = log_probabilities.amax(dim=1).cpu().numpy()
    return chosen_NK, best_N


def _batches(
    sequences: Sequence[NDArray[np.int64]], pad_id: int, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Sequences of like length together: their indices (B,), ids (B, S) and padding (B, S)."""
    order = np.argsort([len(sequence) for sequence in sequences], kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        longest = len(sequences[chosen[-1]])
        width = next((length for length in PADDED_LENGTHS if length >= longest), longest)
        ids = torch.full((len(chosen), width), pad_id, dtype=torch.int64)
        padding = torch.ones((len(chosen), width), dtype=torch.bool)
        for row, index in enumerate(chosen):
            ids[row, : len(sequences[index])] = torch.from_numpy(sequences[index])
            padding[row, : len(sequences[index])] = False
        yield chosen, ids, padding


def _changed_tokens(pair: Pair) -> NDArray[np.bool_]:
    """Which tokens of the changed version, special ones left out, were changed."""
    changed = np.zeros(len(pair.changed) - 2, dtype=bool)
    changed[pair.first - 1 : pair.changed_end - 1] = True
    return changed


def _rank(labels: NDArray[np.bool_], scores: NDArray[Any]) -> float:
    """ROC-AUC by counting, fast for few tokens."""
    positive, negative = scores[labels], scores[~labels]
    return float(wins(positive[:, None], negative[None, :]).mean()) if negative.size else float("nan")


def _top1(labels: NDArray[np.bool_], scores: NDArray[Any]) -> float:
    return float(labels[scores == scores.max()].mean())


# --- Summary ----------------------------------------------------------------------------------------------------------


def judge(
    pairs: Sequence[Pair],
    frequencies: Frequencies,
    suspicion: Suspicion,
    untrained: Sequence[Suspicion],
    auxiliary: MaskedScores | None = None,
    *,
    pad_id: int,
) -> tuple[BugScores, dict[str, Any]]:
    """A model's scores of pairs of one kind, and their figures beside baselines, as of `summarise`.

    Args:
        pairs: of `encode_bugs`.
        frequencies: of the training corpus.
        suspicion: the model.
        untrained: models of its shape, judged on the first `UNTRAINED_PAIRS`.
        auxiliary: what a masked language model says of the pairs.
        pad_id: of the tokenizer.
    """
    first = [pair for place, pair in enumerate(pairs) if place < UNTRAINED_PAIRS[pair.bug.kind]]
    model = evaluate_bugs(pairs, suspicion, pad_id=pad_id)
    baselines = [evaluate_bugs(first, each, pad_id=pad_id) for each in untrained]
    return model, summarise(model, frequency_table(pairs, frequencies), baselines, auxiliary)


def summarise(
    model: BugScores,
    table: NDArray[np.float64],
    untrained: Sequence[BugScores],
    auxiliary: MaskedScores | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures of one kind of bug for `summary.json`: shares between 0 and 1 with 95 % intervals.

    `untrained` holds one entry a random initialisation, on the first pairs or on all; its interval is Student's over
    initialisations, all others are bootstrap intervals over functions. The differences are of `pair`, on the same
    functions (paired). Without `auxiliary` its entries are None.
    """

    def interval(values: NDArray[np.float64]) -> Interval:
        return bootstrap_interval(values[~np.isnan(values)], resamples=resamples, seed=seed)

    def difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, Any]:
        return _named(paired_bootstrap(first, second, resamples=resamples, seed=seed), "mean", "low", "high")

    def ranking(scores: BugScores | MaskedScores) -> dict[str, Any]:
        return {
            **_named(interval(scores.auc), "auc", "auc_low", "auc_high"),
            **_named(interval(scores.top1), "top1", "top1_low", "top1_high"),
        }

    whole = interval(model.pair_whole_function)
    result: dict[str, Any] = {
        "model": {
            **_named(interval(model.pair), "pair", "low", "high"),
            "n": len(model.pair),
            **_named(whole, "pair_whole_function", "pair_whole_function_low", "pair_whole_function_high"),
            **ranking(model),
            "auc_pooled": _number(model.auc_pooled),
            "passes_per_function": 1.0,
        },
        "frequency_table": {**_named(interval(table), "pair", "low", "high"), "n": len(table)},
        "untrained": None,
        "auxiliary": None,
        "model_minus_table": difference(model.pair, table),
        "model_minus_untrained": None,
        "model_minus_auxiliary": None,
    }
    if untrained:
        each = np.stack([scores.pair for scores in untrained])
        number = each.shape[1]
        shares = each.mean(axis=1)
        result["untrained"] = {
            **_named(student_interval(shares), "pair", "low", "high"),
            "n": number,
            "each": shares.tolist(),
            "auc": _number(np.nanmean([np.nanmean(scores.auc) for scores in untrained])),
            "top1": _number(np.mean([scores.top1.mean() for scores in untrained])),
        }
        result["model_minus_untrained"] = difference(model.pair[:number], each.mean(axis=0))
    if auxiliary is not None:
        number = len(auxiliary.passes)
        result["auxiliary"] = {
            **_named(interval(auxiliary.pair), "pair", "low", "high"),
            "n": len(auxiliary.pair),
            **ranking(auxiliary),
            "n_every_token": number,
            "passes_per_function": _number(auxiliary.passes.mean() if number else float("nan")),
            "model_auc_same_functions": _number(interval(model.auc[:number]).mean),
            "model_top1_same_functions": _number(interval(model.top1[:number]).mean),
        }
        result["model_minus_auxiliary"] = difference(model.pair, auxiliary.pair)
    return result


def _named(interval: Interval, *names: str) -> dict[str, float | None]:
    return dict(zip(names, map(_number, interval), strict=True))


def _number(value: float | np.floating) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)


# --- Plain text -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sentence:
    """A sentence and its mean logit."""

    text: str
    source: str
    suspicion: float


def most_suspicious_sentences(
    texts: Iterable[SourceText],
    tokenizer: PreTrainedTokenizerBase,
    suspicion: Suspicion,
    length: int,
    *,
    count: int = 5,
    sentences: int = 500,
    batch_size: int = 64,
) -> tuple[list[Sentence], list[Sentence]]:
    """The `count` most and the `count` least suspicious of the first `sentences` different sentences, by mean logit.

    The most and the least suspicious one come first in their list; with few sentences one may be in both. A sentence
    ends with ".", "!" or "?" before white space, or with a blank line; those under 5 tokens or over `length` (special
    tokens included) are passed over. ModelError for a tokenizer without [CLS] and [SEP].
    """
    if not isinstance(tokenizer.cls_token_id, int) or not isinstance(tokenizer.sep_token_id, int):
        raise ModelError("the tokenizer has no [CLS] or no [SEP] token: add them, or take another tokenizer.")
    found: dict[str, str] = {}
    ids: list[NDArray[np.int64]] = []
    for text in texts:
        if len(found) >= sentences:
            break
        pieces = (" ".join(piece.split()) for piece in re.split(r"(?<=[.!?])\s+|\n\s*\n", text.text))
        fresh = [piece for piece in dict.fromkeys(pieces) if piece and piece not in found]
        for sentence, (tokens, _) in zip(fresh, _encode(fresh, tokenizer), strict=True):
            if 5 <= len(tokens) <= length - 2 and len(found) < sentences:
                found[sentence] = text.source
                ids.append(np.array([tokenizer.cls_token_id, *tokens, tokenizer.sep_token_id], dtype=np.int64))
    pad_id = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
    logits = score_tokens(ids, suspicion, pad_id=pad_id, batch_size=batch_size)
    means = [float(scores[1:-1].mean()) for scores in logits]
    ranked = [Sentence(text, source, mean) for (text, source), mean in zip(found.items(), means, strict=True)]
    ranked.sort(key=lambda sentence: -sentence.suspicion)
    return ranked[:count], ranked[::-1][:count]
