"""run.json and config.yaml: a change of either is found, and both can be restored."""

import json
import random
import shutil
import subprocess

import pytest

from fast_electra.config.loading import load_config
from fast_electra.errors import CheckpointError
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.report.run_content import report_content
from fast_electra.runs.folder import RunFolder, load_run
from fast_electra.training.loop import Interrupted
from tests import tiny
from tests.training.test_training import run, weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("sealed") / "run"
    pretrain(tiny.settings(shards), folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def flips(content, count):
    for place in random.Random(0).sample(range(len(content) * 8), min(count, len(content) * 8)):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        yield bytes(damaged)


def test_every_flipped_bit_of_run_json_is_refused_with_the_command_that_restores_it(copy, shards):
    file = copy / "run.json"
    whole, sound = file.read_bytes(), load_run(copy)
    for damaged in flips(whole, 200):
        file.write_bytes(damaged)
        try:
            assert RunFolder.find(copy) == sound  # 1e-05 as 1E-05
        except CheckpointError as error:
            said = str(error)
    assert f"run.json is damaged (its content differs from its digest): restore it with `cp {copy}/checkpoints" in said
    with pytest.raises(CheckpointError, match="is damaged"):
        run(tiny.settings(shards), copy)
    subprocess.run(said.split("`")[1], shell=True, check=True)
    before = weights(copy)
    (copy / "model" / "model.safetensors").unlink()
    result = run(tiny.settings(shards), copy)
    assert weights(copy) == before
    assert load_run(copy).result == sound.result
    assert result.validation == sound.result["validation"]


def test_a_changed_run_json_without_a_checkpoint_is_refused(copy):
    shutil.rmtree(copy / "checkpoints")
    record = json.loads((copy / "run.json").read_text()) | {"updates": 136}
    (copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"is damaged .*: restore it from a backup, or choose another folder\."):
        load_run(copy)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "9" * 5000, "\xff"])
def test_a_run_json_that_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match="is damaged"):
        RunFolder.find(tmp_path)


@pytest.mark.parametrize("text", ["[]", "1", "{}", '{"name": "jogging", "updates": 3}'])
def test_a_run_json_of_another_program_is_no_run(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert RunFolder.find(tmp_path) is None


def test_every_flipped_bit_of_config_yaml_is_found_and_mended_and_no_reader_believes_it(copy, shards):
    file, config = copy / "config.yaml", tiny.settings(shards)
    whole = file.read_bytes()
    for damaged in flips(whole, 200):
        file.write_bytes(damaged)
        heard: list[str] = []
        assert not pretrain(config, copy, say=heard.append).fresh
        assert heard[0] == f"{file} was changed after the run wrote it: it is written again from run.json."
        assert file.read_bytes() == whole
    file.write_text(whole.decode().replace("heads: 2", "heads: 4"))
    assert "heads: 2" in report_content(copy)["config"]
    assert load_run(copy).config.main.heads == 2


def test_a_run_from_before_the_seals_is_read_resumed_and_sealed(tmp_path, shards):
    config = tiny.settings(shards)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", stop_after=5)
    (tmp_path / "run" / "run.json").write_text(json.dumps(tiny.unsealed_record(tmp_path / "run")))
    for copied in (tmp_path / "run" / "checkpoints").glob("*/run-copy.json"):
        copied.unlink()
        shutil.rmtree(copied.parent)
    assert load_run(tmp_path / "run").status == "started"
    heard: list[str] = []
    pretrain(config, tmp_path / "run", say=heard.append)
    assert not any("config.yaml" in sentence for sentence in heard)
    assert {"sha256", "config_sha256"} <= json.loads((tmp_path / "run" / "run.json").read_text()).keys()
    assert load_config(tmp_path / "run" / "config.yaml") == load_run(tmp_path / "run").config
