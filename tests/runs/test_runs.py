"""The run folder: what a command may do with it, and that it has one reader and writer."""

import ast
import os
from pathlib import Path

import pytest

import fast_electra
from fast_electra.config.printing import dump_config
from fast_electra.errors import CheckpointError, DataError
from fast_electra.pipelines import pretrain as pretrain_module
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.publishing.export import export_run
from fast_electra.runs.folder import RunFolder, load_run, run_of_checkpoint
from fast_electra.runs.opening import Extend, Finished, New, Resume, open_run
from fast_electra.training.loop import Interrupted
from fast_electra.training.telemetry import QuietObserver
from tests import tiny
from tests.training.test_training import run

INPUTS = {"environment": {"fast_electra": fast_electra.__version__}, "data": "d", "tokenizer": "t"}


def test_a_folder_says_what_a_command_may_do_with_it(tmp_path):
    config = tiny.settings(tmp_path / "shards")
    folder = tmp_path / "run"
    assert open_run(folder, config) == New()
    begun = RunFolder.create(folder, config, config, INPUTS)
    assert open_run(folder, config) == Resume(RunFolder.find(folder))
    with pytest.raises(CheckpointError, match="only a finished run can be extended"):
        open_run(folder, config, extend=20)
    done = begun.finish({"updates": 12, "tokens": 1, "flops": 1, "validation": {}})
    assert open_run(folder, config) == Finished(RunFolder.find(folder))
    assert open_run(folder, config, extend=20) == Extend(RunFolder.find(folder), 20)
    longer = tiny.settings(tmp_path / "shards", training__updates=20)
    assert done.extend(longer).first_update == 12
    assert open_run(folder, config, extend=20) == open_run(folder, config) == Resume(RunFolder.find(folder))
    with pytest.raises(CheckpointError, match=r"training.seed is 7 and was 0"):
        open_run(folder, tiny.settings(tmp_path / "shards", training__seed=7))


def test_a_kill_between_the_two_files_of_a_new_run_leaves_a_run_that_continues(tmp_path):
    config = tiny.settings(tmp_path / "shards")
    RunFolder.create(tmp_path / "run", config, config, INPUTS)
    whole = (tmp_path / "run" / "config.yaml").read_bytes()
    (tmp_path / "run" / "config.yaml").unlink()
    assert open_run(tmp_path / "run", config) == Resume(RunFolder.find(tmp_path / "run"))
    assert (tmp_path / "run" / "config.yaml").read_bytes() == whole


def test_a_finished_run_says_so_without_building_anything(tmp_path, shards, monkeypatch):
    config = tiny.settings(shards)
    before = run(config, tmp_path / "run")
    monkeypatch.setattr(pretrain_module, "assemble", None)
    after = run(config, tmp_path / "run")
    assert not after.fresh
    assert after.validation == before.validation


def test_a_budget_in_hours_assembles_once_and_leaves_the_models_as_they_were(tmp_path, shards, monkeypatch):
    calls = []
    assemble = pretrain_module.assemble
    monkeypatch.setattr(pretrain_module, "assemble", lambda *a: (calls.append(1), assemble(*a))[1])
    timed = tiny.settings(shards, training__updates=None, training__hours=1e-9)
    assert run(timed, tmp_path / "timed").updates == 1
    assert len(calls) == 1
    run(tiny.settings(shards, training__updates=1), tmp_path / "counted")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("timed", "counted")]
    assert weights[0] == weights[1]


def test_a_run_from_before_the_section_execution_is_resumed_finished_and_exported(tmp_path, shards):
    config = tiny.settings(shards)
    run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", stop_after=5)
    tiny.before_execution(tmp_path / "run")
    run(config, tmp_path / "run")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]
    tiny.before_execution(tmp_path / "run")
    assert not run(config, tmp_path / "run").fresh
    assert load_run(tmp_path / "run").config.execution == load_run(tmp_path / "whole").config.execution
    export_run(tmp_path / "run", tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == weights[1]


def test_what_is_no_run_is_refused_with_the_runs_inside(tmp_path):
    config = tiny.settings(tmp_path / "shards")
    RunFolder.create(tmp_path / "main", config, config, INPUTS)
    with pytest.raises(CheckpointError, match=f"give {tmp_path / 'main'}"):
        load_run(tmp_path)
    assert RunFolder.of_model("main") is None  # a hub name, in a folder where a run has this name or not
    assert run_of_checkpoint(tmp_path / "main" / "checkpoints" / "00000004") == load_run(tmp_path / "main")
    assert run_of_checkpoint(tmp_path / "main" / "model") is None


def test_no_other_module_knows_the_files_of_a_run():
    package = Path(fast_electra.__file__).parent
    for file in package.rglob("*.py"):
        if file.parent.name in ("runs", "config"):  # a message of config/ names config.yaml
            continue
        found = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not found & {"run.json", "config.yaml", "metrics.jsonl", "checkpoints"}, file


def test_a_second_pretraining_in_the_same_folder_is_refused_and_destroys_nothing(tmp_path, shards):
    config = tiny.settings(shards)
    refusals = []

    class Second(QuietObserver):
        def updated(self, update):
            with pytest.raises(DataError, match=f"run is being written by another process.*{os.getpid()}") as refused:
                run(config, tmp_path / "run")
            refusals.append(refused)

    pretrain(config, tmp_path / "run", observers=[Second()])
    assert len(refusals) == 12
    run(config, tmp_path / "alone")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "alone")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("left", [[".run.json.17.tmp"], ["config.yaml"], ["config.yaml", ".run.json.17.tmp", ".lock"]])
def test_a_run_begins_where_a_kill_between_its_first_files_left_some_of_them(tmp_path, shards, left):
    config = tiny.settings(shards, training__updates=1)
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).write_text(dump_config(config) if name == "config.yaml" else '{"sta')
    assert run(config, folder).updates == 1
    assert not list(folder.glob(".*.tmp"))


def test_a_configuration_of_the_users_is_not_taken_for_one_that_a_kill_left(tmp_path, shards):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("training: {updates: 1}  # mine\n")
    with pytest.raises(CheckpointError, match="no run of this program"):
        run(tiny.settings(shards), tmp_path / "run")
    assert "mine" in (tmp_path / "run" / "config.yaml").read_text()


def test_what_a_killed_command_left_is_removed_by_the_next_one_also_in_a_finished_run(tmp_path, shards):
    config = tiny.settings(shards)
    folder = tmp_path / "run"

    def litter():
        (folder / "checkpoints" / "00000008.partial").mkdir()
        (folder / "checkpoints" / "00000008.partial" / "model.safetensors").touch()
        for name in (".run.json.17.tmp", ".metrics.jsonl.18.tmp", ".config.yaml.19.tmp"):
            (folder / name).touch()
        (folder / ".notes.1.tmp").touch()  # not ours

    with pytest.raises(Interrupted):
        run(config, folder, stop_after=5)
    for _ in range(2):
        litter()
        run(config, folder)
        assert not list(folder.rglob("*.partial"))
        assert [path.name for path in folder.glob(".*.tmp")] == [".notes.1.tmp"]
