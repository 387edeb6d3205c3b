"""Minimal pairs: every score against an independent computation, and what `evaluate`, `compare` and `pretrain` say."""

import gzip
import json
import lzma
import random
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForTokenClassification, AutoTokenizer

from fast_electra.cli.main import main
from fast_electra.config.printing import dump_config
from fast_electra.errors import DataError
from fast_electra.evaluation.evaluations import run_of
from fast_electra.evaluation.metrics import clustered_interval, share_interval
from fast_electra.evaluation.minimal_pairs import (
    MinimalPairs,
    by_frequency,
    encode_pairs,
    judge,
    read_minimal_pairs,
    summarise,
)
from fast_electra.models.build import Head, build_model, transformers_config
from fast_electra.models.export import write_model
from fast_electra.models.shapes import ModelConfig
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.folder import load_run
from fast_electra.runs.metrics import read_metrics
from fast_electra.training import precision
from tests import tiny

MEASURES = ("sum", "mean", "worst")


@pytest.fixture(scope="module", autouse=True)
def _one_core():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "available_cores", lambda: 1)
        yield


def lines(count: int = 24) -> list[dict]:
    """Pairs of four sets in two fields; in the first set a word is another one, elsewhere one more."""
    draw, found = random.Random(0), []
    for number in range(count):
        words = [draw.choice(tiny.NAMES) for _ in range(3 + number % 4)]
        other = [*words, draw.choice(tiny.NAMES)] if number % 4 else ["def", *words[1:]]
        groups = {"field": ("syntax", "syntax/semantics")[number % 2], "UID": f"set_{number % 4}", "pairID": number}
        found.append({"sentence_good": " ".join(words), "sentence_bad": " ".join(other), **groups})
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "blimp.jsonl.xz"
    path.write_bytes(lzma.compress("".join(json.dumps(line) + "\n" for line in lines()).encode()))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer):
    home = tmp_path_factory.mktemp("models")
    shape = ModelConfig(layers=1, hidden_size=32, heads=2, intermediate_size=48)
    heads: tuple[Head, ...] = ("rtd", "mlm")
    for seed, head in enumerate(heads, 1):
        model = build_model(transformers_config(shape, 320, tiny.SPECIAL, 64), head, seed)
        with torch.no_grad():  # far from zero, so that the scores of two sentences differ by more than rounding
            for parameter in model.parameters():
                parameter.mul_(3.0)
        write_model(model, tokenizer, home / head, "")
    return home


def expected(scores_of) -> dict[str, list[bool]]:
    """Pairs judged right when `scores_of` gives the log-probabilities of a sentence's tokens."""
    found = {measure: [] for measure in MEASURES}
    for line in lines():
        good, bad = (scores_of(line[key]) for key in ("sentence_good", "sentence_bad"))
        for measure, value in zip(MEASURES, (np.sum, np.mean, np.min), strict=True):
            found[measure].append(bool(value(good) > value(bad)))
    return found


def evaluated(model, file, out, capsys, *options: str) -> dict:
    arguments = ["evaluate", str(model), "--tasks", "blimp", "--data", str(file), "--out", str(out), "--json", *options]
    assert main(arguments) == 0
    return json.loads(capsys.readouterr().out)["tasks"]["blimp"]


def cell(out) -> dict:
    (path,) = (out / "cells").glob("blimp-*.json")
    return json.loads(path.read_text())


def test_a_main_model_judges_by_the_log_probabilities_of_original(tmp_path, models, file, capsys):
    model = AutoModelForTokenClassification.from_pretrained(models / "rtd")
    tokenizer = AutoTokenizer.from_pretrained(models / "rtd")

    def scores(sentence):
        ids = tokenizer.encode(sentence, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]])).logits[0, 1:-1]
        return logits.double().log_softmax(-1)[:, 0].numpy()  # "original" is the first of the exported labels

    wins = expected(scores)
    found = evaluated(models / "rtd", file, tmp_path, capsys)
    assert {measure: found[measure] for measure in MEASURES} == {m: np.mean(won) for m, won in wins.items()}
    assert [won for _, won, _ in cell(tmp_path)["predictions"]["dev"]] == wins["sum"]
    assert found["groups"]["all"]["all"]["n"] == 24
    assert list(found["groups"]["field"]) == ["syntax", "syntax_semantics"]  # BLiMP's two spellings are one
    for number, name in enumerate(("syntax", "syntax_semantics")):
        share, low, high = found["groups"]["field"][name]["worst"]
        assert share == np.mean(wins["worst"][number::2])
        assert low <= share <= high
    assert found["groups"]["UID"]["set_3"]["mean"][0] == np.mean(wins["mean"][3::4])
    assert 0 < found["baselines"]["untrained"] < 1
    assert found["baselines"]["chance"] == 0.5
    assert "unigram" not in found["baselines"]


def test_a_masked_language_model_judges_by_pseudo_log_likelihood(tmp_path, models, file, capsys):
    model = AutoModelForMaskedLM.from_pretrained(models / "mlm")
    tokenizer = AutoTokenizer.from_pretrained(models / "mlm")

    def scores(sentence):
        ids = tokenizer.encode(sentence, add_special_tokens=False)
        found = []
        for place, token in enumerate(ids):
            row = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
            row[place + 1] = tokenizer.mask_token_id
            with torch.no_grad():
                found.append(float(model(torch.tensor([row])).logits[0, place + 1].double().log_softmax(-1)[token]))
        return np.array(found)

    wins = expected(scores)
    found = evaluated(models / "mlm", file, tmp_path / "all", capsys)
    assert {measure: found[measure] for measure in MEASURES} == {m: np.mean(won) for m, won in wins.items()}
    assert found["way"] == "pseudo-log-likelihood"
    sampled = evaluated(models / "mlm", file, tmp_path / "few", capsys, "--pairs", "2")
    assert sampled["n_dev"] == 8
    assert {of["n"] for of in sampled["groups"]["UID"].values()} == {2}
    for place, won, _ in cell(tmp_path / "few")["predictions"]["dev"]:
        assert won == wins["sum"][place]


def test_a_run_is_judged_beside_its_token_frequencies_and_its_auxiliary(tmp_path, shards, auxiliary, file, capsys):
    run = tmp_path / "run"
    pretrain(tiny.settings(shards, "fast_electra", auxiliary), run)
    found = evaluated(run, file, run / "evaluation", capsys)
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    stream = tiny_stream(shards)
    counts = np.bincount(stream, minlength=320) + 1.0
    counts[list(tokenizer.all_special_ids)] = 0
    table = np.log(counts, where=counts > 0, out=np.full(320, -np.inf)) - np.log(counts.sum())
    frequencies = expected(lambda text: table[tokenizer.encode(text, add_special_tokens=False)])
    assert found["baselines"]["unigram"] == np.mean(frequencies["sum"])
    alone = evaluated(auxiliary, file, tmp_path / "auxiliary", capsys)
    assert found["baselines"]["auxiliary"] == alone["sum"]
    differences = found["differences"]
    for name in ("unigram", "untrained", "auxiliary"):
        mean, low, high = differences[name]["sum"]
        assert mean == pytest.approx(found["sum"] - found["baselines"][name])
        assert low <= mean <= high
    assert any("its auxiliary by" in sentence for sentence in found["remarks"])
    assert "auxiliary" not in alone["baselines"]
    assert run_of(str(run / "model")) == run_of(str(next((run / "checkpoints").iterdir()))) == load_run(run)
    # What is finished is not done again; and a run whose shards are gone has neither.
    assert evaluated(run, file, run / "evaluation", capsys)["sum"] == found["sum"]
    assert len(list((run / "evaluation" / "cells").iterdir())) == 1


def tiny_stream(shards) -> np.ndarray:
    from fast_electra.data.shards import open_shards

    stream = open_shards(shards).split("train")
    return stream.read(0, stream.tokens)


def test_two_models_are_compared_on_the_pairs_that_both_judged(tmp_path, models, file, capsys):
    for head in ("rtd", "mlm"):
        evaluated(models / head, file, tmp_path / head, capsys, *(["--pairs", "3"] if head == "mlm" else []))
    assert main(["compare", str(tmp_path / "rtd"), str(tmp_path / "mlm"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["comparisons"]
    (comparison,) = found["comparisons"]
    first, second = (dict((p, w) for p, w, _ in cell(tmp_path / head)["predictions"]["dev"]) for head in ("rtd", "mlm"))
    assert comparison["examples"] == len(second) == 12
    assert comparison["difference"] == pytest.approx(100 * np.mean([first[p] - second[p] for p in second]))
    assert not comparison["decided"]
    assert main(["compare", str(tmp_path / "rtd"), str(tmp_path / "mlm")]) == 0
    assert "On the 12 pairs that both models judged." in " ".join(capsys.readouterr().out.split())


def test_another_file_has_a_result_of_its_own_and_groups_are_optional(tmp_path, models, file, capsys):
    other = tmp_path / "mine.jsonl.gz"
    plain = [{key: line[key] for key in ("sentence_good", "sentence_bad")} for line in lines(8)]
    other.write_bytes(gzip.compress("\n".join(json.dumps(line) for line in plain).encode()))
    evaluated(models / "rtd", file, tmp_path / "out", capsys)
    found = evaluated(models / "rtd", other, tmp_path / "out", capsys)
    assert (found["setup"], found["n_dev"], list(found["groups"])) == ("zero-shot, mine", 8, ["all"])
    stored = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [result["setup"] for result in stored] == ["zero-shot", "zero-shot, mine"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "by field: pairs judged correctly" in page
    assert "set_3" in page


def test_a_tie_is_wrong_and_equal_words_in_another_order_are_one(tokenizer):
    """Of a table of frequencies: a sum in another order is rounded otherwise, and must not decide."""
    words = ["value", "total", "count", "items", "index", "left", "right", "name", "limit", "result"]
    draw, texts = random.Random(1), []
    for _ in range(200):
        texts.append(" ".join(words))
        draw.shuffle(words)
    pairs = MinimalPairs(None, texts[:-1], texts[1:], {})  # type: ignore[arg-type]
    ids = encode_pairs(pairs, pairs.sample(None), tokenizer, 64)
    same = [sorted(a) == sorted(b) for a, b in zip(ids.good, ids.bad, strict=True)]
    table = np.random.default_rng(0).normal(size=320)
    wins = judge(ids, by_frequency(table))
    assert sum(same) > 5
    assert not any(won.any() for won in (wins[measure][same] for measure in MEASURES))
    constant = judge(ids, by_frequency(np.zeros(320)))
    assert not constant["mean"].any()


def test_samples_are_of_each_set_alike_and_part_of_larger_ones(file):
    pairs = read_minimal_pairs(file)
    small, large = pairs.sample(2), pairs.sample(4)
    assert set(small) < set(large) < set(pairs.sample(None))
    assert np.bincount(pairs.sets[small]).tolist() == [2] * 4
    assert list(pairs.sample(100)) == list(range(24))
    again = MinimalPairs(pairs.path, pairs.good[::-1], pairs.bad[::-1], {k: v[::-1] for k, v in pairs.groups.items()})
    assert {again.good[place] for place in again.sample(2)} == {pairs.good[place] for place in small}


def test_intervals_resample_whole_sets_and_are_wilsons_where_there_is_one():
    draw = np.random.default_rng(0)
    sets = np.repeat(np.arange(40), 50)
    of_set = draw.uniform(0.3, 0.9, 40)
    won = draw.random(2_000) < of_set[sets]
    found = clustered_interval(won, sets)
    means = won.reshape(40, 50).mean(axis=1)
    half = 1.96 * means.std(ddof=1) / np.sqrt(40)
    assert (found.low, found.high) == pytest.approx((means.mean() - half, means.mean() + half), abs=0.01)
    pairs = MinimalPairs(None, [""] * 2_000, [""] * 2_000, {"UID": [f"{number:02}" for number in sets]})  # type: ignore[arg-type]
    groups = summarise(pairs, np.arange(2_000), dict.fromkeys(MEASURES, won))
    assert groups["all"]["all"]["sum"] == list(found)
    hits, z = int(won[:50].sum()), 1.959964
    centre, spread = (hits + z * z / 2) / (50 + z * z), z * np.sqrt(hits * (50 - hits) / 50 + z * z / 4) / (50 + z * z)
    assert groups["UID"]["00"]["worst"] == pytest.approx([hits / 50, centre - spread, centre + spread])
    assert list(share_interval(50, 50))[2] == 1.0


BAD = [
    (
        '{"sentence_good": "a", "sentence_bad": "b"}\n{"sentence_good": "a"}\n',
        ", line 2: there is no column sentence_bad",
    ),
    ('{"sentence_good": "a", "sentence_bad": "b"}\n\n[1]\n', ", line 3: not a JSON object"),
    ('{"sentence_good": "a", "sentence_bad": 7}\n', ", line 1: sentence_bad is 7, not text"),
    ('{"sentence_good": "  ", "sentence_bad": "b"}\n', ', line 1: sentence_good is "  ", not text'),
    ('{"sentence_good": "\\ud800", "sentence_bad": "b"}\n', ", line 1: sentence_good has half of a surrogate pair"),
    ('{"sentence_good": \n', ", line 1: not JSON"),
    ("\n", " has no pairs"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD)
def test_a_bad_line_is_refused_with_its_file_and_line(content, sentence, tmp_path):
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(DataError, match=f"bad.jsonl{sentence}"):
        read_minimal_pairs(tmp_path / "bad.jsonl")


def test_what_does_not_go_together_is_refused_before_a_model_is_looked_at(tmp_path, file, capsys):
    (tmp_path / "cut.jsonl.xz").write_bytes(file.read_bytes()[:-40])
    given = ["--data", str(file)]
    for options, sentence in (
        (["--tasks", "blimp"], "--tasks blimp needs its pairs: give --data FILE.jsonl"),
        (["--tasks", "cola", *given], "is a file of minimal pairs: give --tasks blimp too"),
        (["--tasks", "blimp", *given, *given], "is also given; give only one file of minimal pairs"),
        (["--tasks", "blimp", *given, "--data", str(tmp_path), "--data", "b"], "give only one folder of GLUE tasks"),
        (
            ["--tasks", "blimp", *given, "--examples", "9"],
            "--examples is for tasks with training examples: leave it out",
        ),
        (["--tasks", "blimp", *given, "--probe"], "--probe is for tasks with training examples"),
        (["--tasks", "blimp", *given, "--drop-overlap"], "--drop-overlap is for tasks with training examples"),
        (["--tasks", "blimp", *given, "--data", str(tmp_path)], "is for tasks of GLUE: leave it out"),
        (["--tasks", "blimp", *given, "--pairs", "0"], "--pairs 0: give a number from 1"),
        (["--tasks", "cola", "--pairs", "3"], "--pairs 3: give a number from 1: --tasks blimp takes this many"),
        (["--tasks", "blimp", *given, "--predictions", "p"], "which has no task blimp"),
        (["--tasks", "blimp", "--data", "nowhere.jsonl"], "nowhere.jsonl can't be read (No such file"),
        (
            ["--tasks", "blimp", "--data", str(tmp_path / "cut.jsonl.xz")],
            "cut.jsonl.xz can't be read (Compressed file ended",
        ),
        (["--tasks", "blimp,cola", *given, "--data", str(tmp_path)], "CoLA/train.tsv is missing"),
    ):
        assert main(["evaluate", "no/such/model", *options]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    for options, sentence in (
        (["--probe", "blimp"], "--probe blimp needs its pairs: give --probe-data FILE.jsonl"),
        (["--probe", "rte", "--probe-data", str(file)], "is a file of minimal pairs: give --probe blimp too"),
    ):
        assert main(["pretrain", "quickstart", "--run", str(tmp_path / "run"), *options]) == 2
        assert sentence in capsys.readouterr().err


def test_a_model_without_a_head_that_judges_is_refused(tmp_path, models, file, capsys):
    bare = tiny.unsealed(shutil.copytree(models / "rtd", tmp_path / "bare"))
    config = json.loads((bare / "config.json").read_text())
    config |= {"id2label": {"0": "x", "1": "y"}, "label2id": {"x": 0, "y": 1}}
    (bare / "config.json").write_text(json.dumps(config))
    options = ["--tasks", "blimp", "--data", str(file), "--out", str(tmp_path / "out")]
    assert main(["evaluate", str(bare), *options]) != 0
    assert "has neither an RTD head nor a vocabulary head" in " ".join(capsys.readouterr().err.split())


# During pre-training


@pytest.mark.parametrize("kind", ["mlm", "fast_electra"])
def test_pairs_are_a_probe_that_changes_nothing_and_ends_with_what_evaluate_says(
    kind, tmp_path, shards, auxiliary, file, capsys
):
    settings = tiny.settings(shards, kind, auxiliary if kind != "mlm" else None, main__dropout=0.1)
    (tmp_path / "run.yaml").write_text(dump_config(settings))
    runs = {}
    for name, options in (("plain", []), ("probed", ["--probe", "blimp", "--probe-data", str(file)])):
        run = tmp_path / name
        assert main(["pretrain", str(tmp_path / "run.yaml"), "--run", str(run), "--probe-every", "5", *options]) == 0
        runs[name] = read_metrics(run / "metrics.jsonl")
    said = capsys.readouterr().err
    assert "probes took" in said
    without = [{key: value for key, value in r.items() if key not in ("blimp", "timing")} for r in runs["probed"]]
    assert without == [{key: value for key, value in r.items() if key != "timing"} for r in runs["plain"]]
    # Records are made every 3 updates: the first one after 5, then 12, which is the last as well.
    assert [record["update"] for record in runs["probed"] if "blimp" in record] == [6, 12]
    found = evaluated(tmp_path / "probed", file, tmp_path / "out", capsys)
    assert runs["probed"][-1]["blimp"] == {**{m: found[m] for m in MEASURES}, "pairs": 24}
