"""The bug-finding benchmark and its intervals."""

import ast
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fast_electra.errors import DataError, ModelError
from fast_electra.evaluation.bugs import statistics
from fast_electra.evaluation.bugs.functions import Function, extract_functions
from fast_electra.evaluation.bugs.mutation import (
    FAMILIES,
    KINDS,
    Bug,
    BugKind,
    Frequencies,
    count_frequencies,
    find_bugs,
    make_bug,
)
from fast_electra.evaluation.bugs.scoring import evaluate_bugs, evaluate_masked, frequency_table
from fast_electra.evaluation.bugs.statistics import judge, summarise
from fast_electra.evaluation.bugs.tokens import Pair, encode_bugs
from fast_electra.evaluation.metrics import bootstrap_interval, paired_bootstrap, roc_auc, student_interval, wins
from fast_electra.evaluation.sentences import most_suspicious_sentences
from fast_electra.evaluation.token_scores import Suspicion


@dataclass(frozen=True)
class Text:
    text: str
    source: str = "package/file.py"


NONE = Frequencies(Counter(), Counter())
CORPUS = Frequencies(
    Counter({"<": 50, "<=": 10, ">": 25, ">=": 5, "==": 100, "!=": 10, "+": 9, "-": 9}),
    Counter({"width": 60, "height": 30, "depth": 10}),
)


def one_function(text: str) -> Function:
    (function,) = extract_functions(text, "package/file.py")
    return function


def every_change(text: str, kind: BugKind) -> set[tuple[str, str, str]]:
    """(original, replacement, changed line) over many seeds: all that can happen to a function."""
    function = one_function(text)
    found = set()
    for seed in range(300):
        bug = make_bug(function, kind, NONE, seed)
        if bug is not None:
            line = bug.changed[bug.changed.rfind("\n", 0, bug.start) + 1 :].split("\n")[0]
            found.add((bug.original, bug.replacement, line.strip()))
    return found


def many_bugs(kind: BugKind, count: int = 200) -> list[Bug]:
    texts = [
        Text(
            f"def area_{i}(width, height, depth):\n    total = width + height\n    if total < depth:\n"
            f"        return {i}\n    return total - {i}\n"
        )
        for i in range(count)
    ]
    return [bug for bug in find_bugs(texts, CORPUS) if bug.kind == kind]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Words, numbers and runs of punctuation, from the texts of these tests."""
    words = sorted({word for bug in many_bugs("operator") for word in bug.clean.replace("(", " ").split()})
    words += ["area", "width", "height", "depth", "total", "(", ")", ",", ":", "):", "is", "not", "value", "None", "\n"]
    words += [symbol for family in FAMILIES for symbol in family if " " not in symbol]
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    split = pre_tokenizers.Split(Regex(r"\s+|\w+|[^\w\s]+"), behavior="isolated")
    keep = pre_tokenizers.Split(Regex(r"[ ]+"), behavior="removed")
    backend.pre_tokenizer = pre_tokenizers.Sequence([keep, split])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


# --- What is changed --------------------------------------------------------------------------------------------------


def test_each_operator_is_replaced_by_others_of_its_family_alone() -> None:
    text = "def f(a, b):\n    c = a\n    if (a) <= (b):\n        return c\n"
    assert every_change(text, "operator") == {("<=", o, f"if (a) {o} (b):") for o in ("<", ">", ">=", "==", "!=")}


@pytest.mark.parametrize(
    ("expression", "original", "replacement", "expected"),
    [
        ("a is not b", "is not", "is", "a is b"),
        ("a not  in b", "not in", "in", "a in b"),
        ("a is b", "is", "is not", "a is not b"),
        ("a and not b", "and", "or", "a or not b"),
        ("'é' << (a # + or <<\n     ) ", "<<", "^", "'é' ^ (a # + or <<"),
        ("((a)) // \\\n  b", "//", "%", "((a)) % \\"),
        ("-a ** -b", "**", "*", "-a * -b"),
        ("a < b", "<", "==", "a == b"),
    ],
)
def test_an_operator_is_found_between_its_operands(expression, original, replacement, expected) -> None:
    changes = every_change(f"def f(a, b):\n    c = 1\n    c = 2\n    return {expression}\n", "operator")
    assert (original, replacement, f"return {expected}".strip()) in changes


def test_chains_are_changed_at_each_of_their_operators() -> None:
    lines = {line for _, _, line in every_change("def f(a, b, c):\n    x\n    y\n    a and b and c\n", "operator")}
    assert lines == {"a or b and c", "a and b or c"}
    lines = {line for _, _, line in every_change("def f(a, b, c):\n    x\n    y\n    a < b < c\n", "operator")}
    assert {"a > b < c", "a < b > c"} <= lines


def test_signs_stars_annotations_and_format_strings_are_not_operators() -> None:
    text = (
        "def f(*a: int | None, **b) -> int | str:\n    x: int | None = -1\n"
        '    y = f"{x + 1}"\n    x += ~x @ y\n    return y\n'
    )
    assert every_change(text, "operator") == set()


def test_a_variable_is_replaced_by_another_that_has_a_value_there() -> None:
    text = (
        "def f(self, a):\n    b = g(a)\n    c = [a for a in b]\n    for d in c:\n        e = d\n"
        "    return lambda z: z + a\n"
    )
    # The comprehension's inside has a scope of its own and is passed over, so is what comes before a value is there.
    assert every_change(text, "variable") == {
        ("c", "a", "for d in a:"),
        ("c", "b", "for d in b:"),
        ("d", "a", "e = a"),
        ("d", "b", "e = b"),
        ("d", "c", "e = c"),
    }


def test_globals_are_no_local_variables() -> None:
    text = "def f(a):\n    global b\n    b = a\n    c = b\n    return c\n"
    assert every_change(text, "variable") == {("c", "a", "return a")}


def test_changed_code_still_parses_and_differs_in_the_one_place() -> None:
    for kind in KINDS:
        found = many_bugs(kind)
        assert len(found) == 200
        for bug in found:
            ast.parse(bug.changed)
            end = bug.start + len(bug.original)
            assert bug.clean[bug.start : end] == bug.original
            assert bug.changed == bug.clean[: bug.start] + bug.replacement + bug.clean[end:]


def test_the_wrong_operator_is_drawn_in_proportion_to_its_frequency() -> None:
    texts = [Text(f"def f(a, b):\n    c = {i}\n    d = c\n    return a < b\n") for i in range(2_000)]
    drawn = Counter(bug.replacement for bug in find_bugs(texts, CORPUS, variables=0))
    others = [symbol for symbol in ("<=", ">", ">=", "==", "!=")]
    weights = np.array([CORPUS.operators[symbol] + 1 for symbol in others])
    # The draws are fixed by the seed; a right sampler falls below 0.001 once in a thousand seeds.
    assert stats.chisquare([drawn[o] for o in others], weights / weights.sum() * 2_000).pvalue > 0.001


def test_the_wrong_variable_is_drawn_in_proportion_to_its_frequency() -> None:
    texts = [Text(f"def f(width, height, depth, x):\n    {i}\n    {i}\n    return x\n") for i in range(2_000)]
    found = find_bugs(texts, CORPUS, operators=0, variables=2_000)
    drawn = Counter(bug.replacement for bug in found)
    weights = np.array([61, 31, 11])
    expected = weights / weights.sum() * 2_000
    assert stats.chisquare([drawn[name] for name in ("width", "height", "depth")], expected).pvalue > 0.001


def test_a_function_gets_the_same_bug_whatever_else_is_there() -> None:
    text = "def f(a, b):\n    c = a + b\n    d = a * b\n    return c < d\n"
    other = Text("def g(a, b):\n    c = a - b\n    d = a\n    return c\n")
    alone = find_bugs([Text(text)], CORPUS)
    among = find_bugs([other, Text(text), Text(text)], CORPUS)
    assert alone == [bug for bug in among if bug.clean.startswith("def f")]
    assert len({find_bugs([Text(text)], CORPUS, seed=seed)[0].changed for seed in range(20)}) > 3


def test_operators_and_names_are_counted_without_annotations_and_strings() -> None:
    text = (
        'def f(a: int | None):\n    """a + a"""\n'
        "    return a + a * 2 if a is not None and a in (1 < a <= 3, 2) else -a\n"
    )
    counts = count_frequencies([Text("not python ("), Text(text)])
    assert counts.operators == Counter({"+": 1, "*": 1, "is not": 1, "and": 1, "in": 1, "<": 1, "<=": 1})
    assert counts.identifiers == Counter({"a": 7})


def test_files_without_functions_are_refused() -> None:
    with pytest.raises(DataError, match="no function"):
        find_bugs([Text("x = 1\n")], CORPUS)
    with pytest.raises(DataError, match="parse"):
        count_frequencies([Text("not python (")])


# --- Functions --------------------------------------------------------------------------------------------------------


def test_docstrings_go_and_all_else_stays_as_it_was() -> None:
    text = (
        "class A:\n"
        '    """Class."""\n'
        "    @property\n"
        "    def f(self,\n"
        "          a):\n"
        '        """Does\n'
        "    oddly indented\n"
        '        things."""  # noqa\n'
        "\n"
        "        # a comment\n"
        "        def g():\n"
        "            'inner'\n"
        "            return  'é'\n"
        "        return (a  +\n"
        "                g())\n"
    )
    (function,) = extract_functions(text, "a.py")
    assert function.text == (
        "def f(self,\n      a):\n    # a comment\n    def g():\n        return  'é'\n    return (a  +\n            g())"
    )
    assert function.source == "a.py:4"


@pytest.mark.parametrize(
    "text",
    [
        'def f():\n    """All\n    there\n    is."""\n',
        'def f():\n    """Shares a line."""; x = 1\n    y = 2\n    return y\n',
        "def f():\n    a = 1\n    return a\n",
        "def f():\n" + "    a = 1\n" * 60,
        'class A:\n    def f(self):\n        a = """two\n        lines"""\n        return a\n',
        "def f(:\n    a = 1\n    a = 1\n    return a\n",
    ],
    ids=["only a docstring", "docstring beside code", "3 lines", "61 lines", "string of two lines", "no Python"],
)
def test_functions_that_cannot_be_cut_out_are_left_out(text: str) -> None:
    assert extract_functions(text, "a.py") == []


# --- Tokens -----------------------------------------------------------------------------------------------------------


def test_a_crop_keeps_the_change_and_the_same_surroundings(tokenizer) -> None:
    for kind in KINDS:
        for length in (8, 16, 400):
            pairs = encode_bugs(many_bugs(kind), tokenizer, length)
            assert len(pairs) == 200
            for pair in pairs:
                assert len(pair.clean) <= length
                assert len(pair.changed) <= length
                assert np.array_equal(pair.clean[: pair.first], pair.changed[: pair.first])
                assert np.array_equal(pair.clean[pair.clean_end :], pair.changed[pair.changed_end :])
                assert pair.clean[pair.first] != pair.changed[pair.first]
                start, end = pair.offsets[pair.first]
                assert start <= pair.bug.start < end
                assert (pair.clean[0], pair.clean[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_a_function_that_fits_is_not_cropped(tokenizer) -> None:
    (pair, *_) = encode_bugs(many_bugs("operator"), tokenizer, 400)
    expected = tokenizer(pair.bug.clean, add_special_tokens=False)["input_ids"]
    assert pair.clean[1:-1].tolist() == expected


@pytest.mark.parametrize(("original", "replacement"), [("is", "is not"), ("is not", "is")])
def test_a_longer_or_shorter_operator_has_a_first_token_in_both_versions(tokenizer, original, replacement) -> None:
    clean, changed = (f"def area(value):\n    return value {o} None" for o in (original, replacement))
    bug = Bug("operator", clean, changed, clean.index(original), original, replacement, "a.py")
    (pair,) = encode_bugs([bug], tokenizer, 64)
    assert pair.clean[pair.first] != pair.changed[pair.first]
    assert pair.clean_end > pair.first < pair.changed_end
    assert tokenizer.convert_ids_to_tokens([pair.clean[pair.first], pair.changed[pair.first]]) in (
        ["None", "not"],
        ["not", "None"],
    )


def test_versions_with_equal_tokens_are_left_out(tokenizer) -> None:
    bug = Bug("variable", "def unknown_a", "def unknown_b", 4, "unknown_a", "unknown_b", "a.py")
    assert encode_bugs([bug], tokenizer, 64) == []


def test_a_tokenizer_without_special_tokens_is_refused() -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ModelError, match="CLS"):
        encode_bugs([], plain, 64)


# --- Scores -----------------------------------------------------------------------------------------------------------


def truth(pairs: list[Pair]) -> Suspicion:
    """Suspects exactly the changed tokens of the changed versions."""
    known = {tuple(pair.changed): pair for pair in pairs}

    def suspicion(ids: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(ids.shape)
        for row, (tokens, padded) in enumerate(zip(ids, padding, strict=True)):
            pair = known.get(tuple(tokens[~padded].tolist()))
            if pair is not None:
                logits[row, pair.first : pair.changed_end] = 1.0
            logits[row, padded] = 99.0  # must never count
        return logits

    return suspicion


@pytest.mark.parametrize("kind", KINDS)
def test_a_scorer_that_knows_the_truth_gets_everything(tokenizer, kind: BugKind) -> None:
    pairs = encode_bugs(many_bugs(kind), tokenizer, 30)
    scores = evaluate_bugs(pairs, truth(pairs), batch_size=7)
    for values in (scores.pair, scores.pair_whole_function, scores.auc, scores.top1, [scores.auc_pooled]):
        assert np.mean(values) == 1.0
    assert [len(logits) for logits in scores.changed_logits] == [len(pair.changed) for pair in pairs]


def test_a_constant_scorer_gets_exactly_half(tokenizer) -> None:
    pairs = encode_bugs(many_bugs("operator"), tokenizer, 30)
    scores = evaluate_bugs(pairs, lambda ids, padding: torch.full(ids.shape, 0.25))
    for values in (scores.pair, scores.pair_whole_function, scores.auc, [scores.auc_pooled]):
        assert np.mean(values) == 0.5
    # Top-1 shares the point among all tokens of the function.
    assert scores.top1[0] == pytest.approx(
        (pairs[0].changed_end - pairs[0].first) / (len(pairs[0].changed) - 2), abs=1e-12
    )


def test_a_masked_model_that_knows_the_truth_gets_everything_in_one_pass_a_token(tokenizer) -> None:
    pairs = encode_bugs(many_bugs("operator"), tokenizer, 30)
    vocabulary = len(tokenizer)
    clean = {tuple(pair.masked[: pair.first]) + tuple(pair.masked[pair.first + 1 :]): pair for pair in pairs}
    passes = 0

    def prediction(ids: torch.Tensor, padding: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += len(ids)
        log_probabilities = torch.full((len(ids), vocabulary), -10.0)
        for row, position in enumerate(positions.tolist()):
            tokens = ids[row][~padding[row]].tolist()
            assert tokens[position] == tokenizer.mask_token_id
            pair = clean.get(tuple(tokens[:position] + tokens[position + 1 :]))
            if pair is not None:
                log_probabilities[row, pair.clean[pair.first]] = -0.1
        return log_probabilities

    scores = evaluate_masked(pairs, prediction, mask_id=tokenizer.mask_token_id, every_token=5)
    assert scores.pair.mean() == scores.auc.mean() == scores.top1.mean() == 1.0
    assert len(scores.auc) == 5
    assert passes == len(pairs) + scores.passes.sum() == len(pairs) + sum(len(pair.changed) - 2 for pair in pairs[:5])


def test_both_versions_give_the_masked_model_the_same_question(tokenizer) -> None:
    for pair in encode_bugs(many_bugs("variable"), tokenizer, 30):
        other = np.concatenate([pair.changed[: pair.first], [0], pair.changed[pair.changed_end :]])
        assert np.array_equal(pair.masked, other)


def test_the_frequency_table_says_that_the_rarer_one_is_wrong(tokenizer) -> None:
    pairs = encode_bugs(many_bugs("operator"), tokenizer, 30)
    for pair, score in zip(pairs, frequency_table([pair.bug for pair in pairs], CORPUS), strict=True):
        original, replacement = CORPUS.operators[pair.bug.original], CORPUS.operators[pair.bug.replacement]
        assert score == (1.0 if original > replacement else 0.5 if original == replacement else 0.0)


def test_drawing_by_frequency_takes_the_easy_points_from_the_frequency_table() -> None:
    symbols = [s for s in FAMILIES[2] for _ in range(CORPUS.operators[s] * 4)]
    texts = [Text(f"def f(a, b):\n    c = {i}\n    d = c\n    return a {s} b\n") for i, s in enumerate(symbols)]
    by_frequency, uniform = (
        frequency_table(find_bugs(texts, counts, variables=0), CORPUS).mean() for counts in (CORPUS, NONE)
    )
    # Right operators as frequent as in the corpus: uniform draws give the table 0.80, draws by frequency 0.61.
    assert by_frequency < uniform - 0.1


def test_logits_that_are_not_finite_are_refused(tokenizer) -> None:
    pairs = encode_bugs(many_bugs("operator"), tokenizer, 30)
    with pytest.raises(ModelError, match="not finite"):
        evaluate_bugs(pairs, lambda ids, padding: torch.full(ids.shape, float("nan")))


def test_untrained_models_are_judged_on_the_first_pairs_alone(tokenizer, monkeypatch) -> None:
    pairs = encode_bugs(many_bugs("operator"), tokenizer, 30)
    monkeypatch.setattr(statistics, "UNTRAINED_PAIRS", {"operator": 7})
    seen: list[int] = []

    def untrained(ids: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        seen.append(len(ids))
        return ids.float()

    scores, summary = judge(pairs, CORPUS, lambda ids, _: ids.float(), [untrained, untrained], pad_id=0)
    assert sum(seen) == 2 * 2 * 7  # models, versions, pairs
    assert len(scores.pair) == summary["model"]["n"] == len(pairs) > 7
    assert summary["untrained"]["pair"] == pytest.approx(scores.pair[:7].mean())


def test_the_summary_holds_every_comparison(tokenizer) -> None:
    pairs = encode_bugs(many_bugs("operator"), tokenizer, 30)
    generator = torch.Generator().manual_seed(0)
    untrained = [
        evaluate_bugs(pairs[:50], lambda ids, padding: torch.randn(ids.shape, generator=generator)) for _ in range(10)
    ]
    vocabulary = len(tokenizer)
    auxiliary = evaluate_masked(
        pairs, lambda ids, padding, positions: torch.zeros(len(ids), vocabulary), mask_id=4, every_token=3
    )
    table = frequency_table([pair.bug for pair in pairs], CORPUS)
    summary = summarise(evaluate_bugs(pairs, truth(pairs)), table, untrained, auxiliary, resamples=1_000)
    assert summary["model"]["pair"] == summary["model"]["low"] == summary["model"]["auc"] == 1.0
    assert summary["frequency_table"]["pair"] == table.mean()
    assert len(summary["untrained"]["each"]) == 10
    assert summary["untrained"]["low"] < summary["untrained"]["pair"] < summary["untrained"]["high"]
    assert summary["auxiliary"]["pair"] == 0.5
    assert summary["auxiliary"]["n_every_token"] == 3
    assert summary["model_minus_table"]["mean"] == pytest.approx(1 - table.mean())
    assert 0 < summary["model_minus_untrained"]["low"] <= summary["model_minus_untrained"]["high"] < 1
    assert summary["model_minus_auxiliary"] == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_sentences_are_ranked_by_their_mean_logit(tokenizer) -> None:
    text = "width height depth total width.\nheight height\nheight height height. Too short.\n\n" + "depth " * 5
    depth = tokenizer.convert_tokens_to_ids("depth")
    most, least = most_suspicious_sentences(
        [Text(text)], tokenizer, lambda ids, padding: (ids == depth).float(), 32, count=2
    )
    assert [sentence.text for sentence in most] == ["depth depth depth depth depth", "width height depth total width."]
    assert [sentence.suspicion for sentence in most] == [1.0, pytest.approx(1 / 6)]
    assert least[0].text == "height height height height height."


# --- Intervals --------------------------------------------------------------------------------------------------------


def test_the_bootstrap_interval_of_a_share_is_the_normal_one() -> None:
    values = np.repeat([0.0, 1.0], [400, 600])
    interval = bootstrap_interval(values)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 1_000)
    assert interval.mean == 0.6
    # Ends are quantiles of 10,000 resamples: their own standard error is near 0.0004.
    assert interval.low == pytest.approx(0.6 - half, abs=0.0025)
    assert interval.high == pytest.approx(0.6 + half, abs=0.0025)
    assert interval == bootstrap_interval(values)


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    random = np.random.default_rng(0)
    first = random.normal(size=500)
    second = first - 0.1 + 0.01 * random.normal(size=500)
    assert paired_bootstrap(first, second).low > 0.09
    assert paired_bootstrap(first, random.permutation(second)).low < 0.05
    with pytest.raises(ValueError, match="differ in number"):
        paired_bootstrap(first, second[1:])


def test_small_samples_take_students_interval() -> None:
    interval = student_interval([0.4, 0.5, 0.6])
    assert (interval.mean, interval.high) == (pytest.approx(0.5), pytest.approx(0.5 + 4.302653 * 0.1 / np.sqrt(3)))
    assert np.isnan(student_interval([0.4]).low)
    assert np.isnan(bootstrap_interval([]).mean)


def test_auc_counts_ties_half_and_knows_no_answer_for_one_class() -> None:
    assert roc_auc([True, False, False], [1.0, 1.0, 0.0]) == 0.75
    assert np.isnan(roc_auc([True, True], [0.0, 1.0]))
    assert wins([1, 2, 3], [2, 2, 2]).tolist() == [0.0, 0.5, 1.0]
