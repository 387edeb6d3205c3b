"""Seals on folders of models: every changed bit is found, a person may add files, and old folders are read."""

import json
import random
import shutil

import pytest

from fast_electra.corruption.cache import differences
from fast_electra.data.files import MANIFEST, differing_parts
from fast_electra.data.seals import is_sealed, refuse_broken_seal, seal_model
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.errors import CheckpointError, ConfigError, ModelError, UserError
from fast_electra.evaluation.subject import model_digest
from fast_electra.models.loading import continue_model, function_digest, load_model
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.publishing.export import export_run
from fast_electra.runs.folder import load_run
from fast_electra.training.loop import Interrupted
from tests import tiny
from tests.training.test_training import run, weights


@pytest.fixture
def model(auxiliary, tmp_path):
    return shutil.copytree(auxiliary / "model", tmp_path / "model")


def sealed(folder):
    return [file for file in sorted(folder.iterdir()) if file.name != "README.md"]


def test_every_flipped_bit_is_found(model):
    assert {"config.json", "model.safetensors", "tokenizer.json", MANIFEST} <= {file.name for file in sealed(model)}
    for file in sealed(model):
        whole = file.read_bytes()
        for place in random.Random(0).sample(range(len(whole) * 8), 50):
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            file.write_bytes(damaged)
            with pytest.raises(ModelError, match=file.name.replace(".", r"\.")):
                refuse_broken_seal(model)
        file.write_bytes(whole)
    refuse_broken_seal(model)


@pytest.mark.parametrize(
    "read",
    [
        lambda folder: load_model(folder, "mlm"),
        lambda folder: continue_model(folder, "mlm", seed=0, dropout=0.0),
        lambda folder: export_run(folder, folder.parent / "out"),
    ],
)
def test_every_reader_refuses_changed_weights(model, read):
    read(model)
    shutil.rmtree(model.parent / "out", ignore_errors=True)
    file = model / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged .*restore the file or export the model again"):
        read(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_every_reader_refuses_a_changed_configuration_or_tokenizer(model, name):
    content = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps(content | {"norm_eps": 0.5, "model_max_length": 7}))
    for read in (lambda f: load_model(f, "mlm"), load_tokenizer, model_digest):
        with pytest.raises(ModelError, match=rf"{name} has [\d,]+ bytes instead of"):
            read(model)


def test_a_person_may_add_files_and_edit_the_card(model):
    (model / "README.md").write_text("# mine")
    (model / "notes.txt").write_text("mine")
    load_model(model, "mlm")
    load_tokenizer(model)
    (model / "README.md").unlink()
    load_model(model, "mlm")


def test_a_folder_without_a_seal_or_with_another_programs_manifest_is_read(model):
    (model / MANIFEST).unlink()
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    load_model(model, "mlm")
    (model / MANIFEST).write_text('{"files": ["a"], "name": "an app"}')
    assert not is_sealed(model)
    load_model(model, "mlm")
    assert not is_sealed("bert-base-uncased")


def test_a_sealed_model_in_the_hubs_cache_is_read_through_its_links(model):
    blobs = model.rename(model.with_name("blobs"))
    model.mkdir()
    for file in blobs.iterdir():
        (model / file.name).symlink_to(file)
    load_model(model, "mlm")


def test_the_export_of_a_model_without_a_seal_is_sealed(model):
    (model / MANIFEST).unlink()
    export_run(model, model.parent / "out")
    assert is_sealed(model.parent / "out")
    refuse_broken_seal(model.parent / "out")


@pytest.mark.parametrize("key", ["norm_eps", "hidden_activation"])
def test_an_auxiliary_whose_configuration_changed_is_refused_by_run_and_cache(tmp_path, shards, auxiliary, key):
    other = shutil.copytree(auxiliary, tmp_path / "auxiliary")
    config = tiny.settings(shards, "fast_electra", other)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", stop_after=5)
    build_cache(config, tmp_path / "cache")
    file = other / "model" / "config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {key: {"norm_eps": 0.5, "hidden_activation": "relu"}[key]}))
    with pytest.raises(ModelError, match=r"config\.json has"):
        run(config, tmp_path / "run")
    (other / "model" / MANIFEST).unlink()  # an export of an earlier version
    with pytest.raises(CheckpointError, match="another auxiliary"):
        run(config, tmp_path / "run")
    cached = tiny.settings(shards, "fast_electra", other, corruption__cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"of another run: auxiliary\.model is \w{12}… there and \w{12}… here"):
        run(cached, tmp_path / "cached")
    file.write_text(json.dumps(content | {"transformers_version": "0", "_name_or_path": "/elsewhere", "dtype": "int8"}))
    run(config, tmp_path / "run")


def test_a_run_and_a_cache_that_stored_the_digest_of_the_weights_alone_are_read(tmp_path, shards, auxiliary):
    config = tiny.settings(shards, "fast_electra", auxiliary)
    run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", stop_after=5)
    record = tiny.unsealed_record(tmp_path / "run")
    record["auxiliary"] = record["auxiliary"].split("+")[0]
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    run(config, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert load_run(tmp_path / "run").digest("auxiliary") == record["auxiliary"]
    export_run(tmp_path / "run", tmp_path / "out")


def test_digests_are_compared_in_the_parts_that_both_have():
    assert differing_parts("a+b", "a+b") is differing_parts("a", "a+b") is differing_parts(None, None) is None
    assert differing_parts("a+b", "a+c") == ("b", "c")
    assert differing_parts("a", "c+b") == ("a", "c")
    assert differing_parts(None, "a+b") == ("None", "a")
    one, other = {"auxiliary.model": "a" * 64}, {"auxiliary.model": f"{'a' * 64}+{'b' * 64}"}
    assert not differences(one, other)  # a cache of an earlier version


def test_a_digest_covers_what_the_model_computes_and_no_version_or_path(model):
    before = function_digest("w", model)
    content = json.loads((model / "config.json").read_text())
    for change, same in (({"transformers_version": "9"}, True), ({"norm_eps": 1.0}, False)):
        (model / "config.json").write_text(json.dumps(content | change))
        assert (function_digest("w", model) == before) is same


def test_only_files_beside_the_seal_are_sealed(tmp_path):
    (tmp_path / "auxiliary").mkdir()
    (tmp_path / "auxiliary" / "model.safetensors").touch()
    (tmp_path / "config.json").write_text("{}")
    seal_model(tmp_path)
    shutil.rmtree(tmp_path / "auxiliary")
    refuse_broken_seal(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        refuse_broken_seal(tmp_path)
