import ast
from collections.abc import Iterator
from pathlib import Path

import fast_electra
from fast_electra.config.tree import Config  # noqa: F401 - registers the parts
from fast_electra.parts import Part

PACKAGE = Path(fast_electra.__file__).parent
# What the parts of objectives build
CLASSES = {"MLM", "FastElectra", "Electra"}


def kind_tests(tree: ast.AST, kinds: set[str], classes: set[str]) -> Iterator[ast.AST]:
    """Comparisons with the name of a kind, isinstance with a part's class, and cases that match either."""

    def names(node: ast.AST, wanted: set[str]) -> bool:
        """Whether a constant or name in an expression is wanted."""
        found = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        return bool(found & wanted)

    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            about = any("kind" in ast.unparse(side) or "objective" in ast.unparse(side) for side in sides)
            if about and any(names(side, kinds) for side in sides):
                yield node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            if names(node.args[1], classes):
                yield node
        elif isinstance(node, ast.Match):
            is_about_kinds = "kind" in ast.unparse(node.subject)
            for pattern in (case.pattern for case in node.cases):
                is_value = isinstance(pattern, ast.MatchValue | ast.MatchOr)
                is_class = isinstance(pattern, ast.MatchClass) and names(pattern.cls, classes)
                if is_class or (is_about_kinds and is_value):
                    yield pattern


def test_the_program_asks_a_part_and_never_compares_kinds():
    contracts = Part.__subclasses__()
    kinds = {kind for contract in contracts for kind in contract.kinds} - {"auto"}  # others have an auto, too
    classes = CLASSES | {part.__name__ for contract in contracts for part in contract.kinds.values()}
    counts = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        found = list(kind_tests(ast.parse(file.read_text()), kinds, classes))
        if found:
            counts[str(file.relative_to(PACKAGE))] = len(found)
    assert not counts, "ask the part: add a question to its contract"


def test_a_test_of_kinds_is_found_however_it_is_written():
    for line in (
        'if config.objective.kind == "mlm": pass',
        'x = kind in ("unigram", "ngram")',
        "isinstance(a, int | LinearSchedule)",
        "match a:\n    case LinearSchedule(initial=b): pass",
        'match a.kind:\n    case "mlm": pass',
    ):
        assert len(list(kind_tests(ast.parse(line), {"mlm", "unigram"}, {"LinearSchedule"}))) == 1, line
    assert not list(kind_tests(ast.parse('isinstance(a, str); b.kind == "jsonl"'), {"mlm"}, {"MLM"}))
