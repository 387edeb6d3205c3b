"""Mixtures: weights are shares of the tokens, and the source of each place is a pure function of (seed, place)."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from fast_electra.cli.main import main
from fast_electra.config import load_config
from fast_electra.data.batches import BatchSchedule, Rows
from fast_electra.data.order import BLOCK, Mixture
from fast_electra.data.settings import DataConfig, TokenizerConfig, mixture
from fast_electra.data.shard_building import build_shards
from fast_electra.data.shards import open_shards
from fast_electra.errors import ConfigError, DataError
from tests import tiny

WEIGHTS = {"web": 2.0, "code": 1.0, "small": 0.5}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Three sources of different sizes and words."""
    folder = tmp_path_factory.mktemp("sources")
    for name, count, words in (("web", 400, "red oak moon"), ("code", 200, "for while def"), ("small", 40, "one two")):
        texts = [f"{words} {number} {words} {number * number}" for number in range(count)]
        (folder / f"{name}.txt").write_text("\n\n".join(texts))
    return folder


@pytest.fixture(scope="module")
def config(sources):
    entries = [{"path": str(sources / f"{name}.txt"), "weight": weight} for name, weight in WEIGHTS.items()]
    return DataConfig(
        sources=entries,
        length=16,
        workers=1,
        validation_fraction=0.2,
        tokenizer=TokenizerConfig(vocabulary_size=300),
    )


@pytest.fixture(scope="module")
def mixed(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "shards"
    return folder, build_shards(None, None, folder, config)


def schedule(folder, batch_size=7, seed=3, share=(0, 1)):
    shards = open_shards(folder)
    rows = Rows(shards.sources("train"), 16, shards.special_tokens)
    return BatchSchedule(rows, batch_size, seed, share, [*shards.mixture.values()])


def source_of(schedule, indices):
    return np.searchsorted(schedule.rows.starts, indices, side="right") - 1


def test_every_source_has_its_share_of_every_thousand_rows(mixed):
    found = schedule(mixed[0], batch_size=100)
    drawn = source_of(found, np.concatenate([found.rows_of(batch) for batch in range(30)]))
    for block in np.split(drawn, 3):
        assert Counter(block.tolist()) == {0: 571, 1: 286, 2: 143}  # 4/7, 2/7, 1/7 of 1,000
    assert found.read(30) == [3 * 571, 3 * 286, 3 * 143]
    assert found.read(13) == np.bincount(drawn[:1300]).tolist()


def test_an_epoch_of_a_source_visits_each_of_its_rows_once(mixed):
    found = schedule(mixed[0], batch_size=100)
    numbers, epochs = (np.concatenate(part) for part in zip(*map(found.order, range(40)), strict=True))
    for source, count in enumerate(found.rows.counts):
        own = source_of(found, numbers) == source
        visited = numbers[own]
        assert (epochs[own] == np.arange(len(visited)) // count).all()
        for epoch in range(len(visited) // count):
            part = visited[epoch * count : (epoch + 1) * count]
            assert sorted(part) == list(range(found.rows.starts[source], found.rows.starts[source + 1]))
    assert (epochs[source_of(found, numbers) == 2] > epochs[source_of(found, numbers) == 0].max()).any()


def test_a_batch_is_a_pure_function_of_seed_and_update_for_any_number_of_processes(mixed):
    whole = schedule(mixed[0])
    expected = {update: whole.at(update) for update in (300, 0, 41)}
    for update, batch in expected.items():
        again = schedule(mixed[0]).at(update)
        parts = [schedule(mixed[0], share=(rank, 3)).at(update) for rank in range(3)]
        assert torch.equal(batch.ids, again.ids)
        assert torch.equal(batch.ids, torch.cat([part.ids for part in parts]))
        assert torch.equal(batch.samples, torch.cat([part.samples for part in parts]))
    assert not torch.equal(expected[0].indices, schedule(mixed[0], seed=4).at(0).indices)


def test_rows_are_those_of_the_sources_alone(mixed, config, tmp_path):
    tokenizer = open_shards(mixed[0]).folder / "tokenizer"
    found, shards = schedule(mixed[0]).rows, open_shards(mixed[0])
    for source, entry in enumerate(config.sources):
        path = {"path": str(tokenizer)}
        alone = config.model_copy(
            update={"sources": [entry["path"]], "tokenizer": config.tokenizer.model_copy(update=path)}
        )
        build_shards(None, None, tmp_path / str(source), alone)
        rows = Rows(open_shards(tmp_path / str(source)).split("train"), 16, shards.special_tokens)
        first, stop = found.starts[source], found.starts[source + 1]
        assert rows.count == stop - first
        for index in range(rows.count):
            assert (rows.content(index) == found.content(first + index)).all()


def test_the_report_and_the_manifest_say_the_weights(mixed, config):
    folder, report = mixed
    assert open_shards(folder).mixture == WEIGHTS
    assert {name: found["share"] for name, found in report.mixture.items()} == pytest.approx(
        {"web": 4 / 7, "code": 2 / 7, "small": 1 / 7}
    )
    assert sum(found["tokens"] for found in report.mixture.values()) == report.splits["train"].tokens
    assert open_shards(folder).split("train").tokens == report.splits["train"].tokens
    assert build_shards(None, None, folder, config).existed
    other = config.model_copy(update={"sources": [{**config.sources[0], "weight": 1.0}, *config.sources[1:]]})
    with pytest.raises(DataError, match=r"holds other shards .*data\.sources is"):
        build_shards(None, None, folder, other)


def test_other_weights_are_other_data(mixed, tmp_path):
    import shutil

    from fast_electra.data.files import canonical_digest

    shutil.copytree(mixed[0], tmp_path / "copy")
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_text())
    manifest["mixture"]["web"] = 3.0
    del manifest["digest"]
    (tmp_path / "copy" / "manifest.json").write_text(json.dumps(manifest | {"digest": canonical_digest(manifest)}))
    assert open_shards(tmp_path / "copy").fingerprint != open_shards(mixed[0]).fingerprint


def test_a_source_without_a_document_in_a_split_is_refused_by_name(config, sources, tmp_path):
    (tmp_path / "tiny.txt").write_text("one\n\ntwo")
    entries = [*config.sources, {"path": str(tmp_path / "tiny.txt"), "weight": 1}]
    with pytest.raises(DataError, match=r"none of the 2 documents of the source tiny .* fell to (train|validation)"):
        build_shards(None, None, tmp_path / "out", config.model_copy(update={"sources": entries}))


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ("[a, {path: b, weight: 1}]", "a has no weight and others have one"),
        ("[{path: a, weight: 0}]", "weight must be a number greater than 0, not 0"),
        ("[{path: a, weight: x}]", "weight must be a number greater than 0, not x"),
        ("[{path: x/a, weight: 1}, {path: y/a, weight: 1}]", "two sources have the name a"),
        ("[{path: a, weight: 1, name: ../b}]", "name must be of letters"),
        ("[{path: a, wieght: 1}]", "an entry has no wieght; its keys are path, weight, name, streaming"),
    ],
)
def test_impossible_mixtures_are_one_sentence(sources, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config("modern-small", [f"data.sources={sources}"])


def test_names_come_from_paths_and_survive_the_configuration():
    config = load_config("modern-small", ["data.sources=[{path: a/web text.txt, weight: 1}, {path: b, weight: 2.5}]"])
    assert mixture(config.data.sources) == {"web-text": 1.0, "b": 2.5}


def test_a_weight_of_less_than_a_thousandth_is_refused():
    with pytest.raises(DataError, match=r"the weight 0\.001 in data\.sources is less than a thousandth"):
        Mixture([1.0, 1.0, 0.001], 0)
    assert Mixture([1.0, 0.001], 0).counts(BLOCK) == [999, 1]


# --- Training ---------------------------------------------------------------------------------------------------------


def run_config(folder, **changes):
    settings = {"data__shards": folder, "data__length": 16, "training__validation_sequences": 14} | changes
    return tiny.settings(folder, **settings)


def test_a_run_reports_each_source_and_resumes_exactly(mixed, tmp_path, capsys):
    from fast_electra.pipelines.pretrain import pretrain
    from fast_electra.stopping import Interrupted

    config = run_config(mixed[0])
    whole = pretrain(config, tmp_path / "whole")
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        pretrain(config, tmp_path / "parts", stop=lambda: next(calls) == 6)
    parts = pretrain(config, tmp_path / "parts")
    assert whole.validation == parts.validation
    drawn = {name: whole.validation[f"tokens.{name}"] for name in WEIGHTS}
    assert sum(drawn.values()) == pytest.approx(whole.tokens, abs=3)
    assert drawn["web"] > drawn["code"] > drawn["small"] > 0
    assert whole.validation["epochs.small"] > whole.validation["epochs.web"] > 0
    losses = {whole.validation[f"loss.{name}"] for name in WEIGHTS}
    assert len(losses) == 3
    assert min(losses) < whole.validation["loss"] < max(losses)
    assert main(["report", str(tmp_path / "whole"), "--out", str(tmp_path / "page.html")]) == 0
    assert "Sources of the text" in (tmp_path / "page.html").read_text()


def test_weights_that_are_not_the_shards_are_refused(mixed, config):
    from fast_electra.training.assembly import read_inputs
    from fast_electra.training.precision import choose_execution

    for entries, accepted in ((config.sources, True), ([{**config.sources[0], "weight": 9.0}], False)):
        asked = run_config(mixed[0], data__sources=entries)
        if accepted:
            read_inputs(asked, choose_execution(asked.execution))
        else:
            with pytest.raises(ConfigError, match=r"data\.sources has the weights .*'web': 9\.0.* was built with"):
                read_inputs(asked, choose_execution(asked.execution))
