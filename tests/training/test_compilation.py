"""Compilation is chosen by the device, changes no run, and never ends one without a word."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from fast_electra import distributed
from fast_electra.errors import ConfigError
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.layers import checkpoint_activations, layer_modules
from fast_electra.models.shapes import ModelConfig
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.folder import load_run
from fast_electra.runs.metrics import read_metrics
from fast_electra.stopping import Interrupted
from fast_electra.training import compilation
from fast_electra.training.compilation import CompilationFailed, choose_compilation, compile_models, missing_compiler
from fast_electra.training.precision import choose_execution
from tests import tiny
from tools.gpu.waits import compiled_updates


def chosen(shards, monkeypatch, value, device, reason=None):
    """What `training.compile=value` becomes on a device, and what is said."""
    monkeypatch.setattr(compilation, "missing_compiler", lambda device: reason)
    said = []
    config = tiny.settings(shards, training__compile=value)
    execution = dataclasses.replace(choose_execution(config.execution), device=torch.device(device))
    return choose_compilation(config, execution, said.append), said


@pytest.mark.parametrize(
    ("value", "device", "expected"),
    [
        ("auto", "cpu", False),
        ("auto", "mps", False),
        ("auto", "cuda", True),
        (True, "cpu", True),
        (True, "cuda", True),
        (False, "cuda", False),
        ("graphs", "cuda", "graphs"),
    ],
)
def test_auto_compiles_on_a_cuda_gpu_alone(value, device, expected, shards, monkeypatch):
    assert chosen(shards, monkeypatch, value, device) == (expected, [])


def test_without_a_compiler_auto_goes_on_and_what_was_asked_for_is_refused(shards, monkeypatch):
    found, said = chosen(shards, monkeypatch, "auto", "cuda", "Failed to find C compiler")
    assert found is False
    assert said == ["models are not compiled, because PyTorch cannot compile here (Failed to find C compiler)."]
    for value in (True, "graphs"):
        with pytest.raises(ConfigError, match=r"\(no g\+\+\): install .* or set training.compile=false"):
            chosen(shards, monkeypatch, value, "cuda", "no g++")


def test_graphs_are_refused_without_a_gpu_and_left_out_with_several_processes(shards, monkeypatch):
    with pytest.raises(ConfigError, match="graphs needs a CUDA GPU, and the device is cpu"):
        chosen(shards, monkeypatch, "graphs", "cpu")
    monkeypatch.setattr(distributed, "size", lambda: 2)
    found, said = chosen(shards, monkeypatch, "graphs", "cuda")
    assert found is True
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_missing_compiler_is_found_before_the_run(tmp_path):
    program = "from fast_electra.training.compilation import missing_compiler; print(missing_compiler('cpu'))"
    told = []
    for path in (os.environ["PATH"], str(tmp_path)):
        environment = os.environ | {"PATH": path, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / f"cache-{len(told)}")}
        environment.pop("CXX", None)
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        told.append(done.stdout.strip())
    assert told[0] == "None"
    assert told[1] != "None"
    assert len(told[1]) <= 200


@pytest.mark.parametrize("architecture", ["electra", "modernbert", "albert"])
def test_layers_are_compiled(architecture, monkeypatch):
    told = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **given: told.append((module, given)))
    shape = ModelConfig(architecture=architecture, layers=3, hidden_size=32, heads=2, intermediate_size=48)
    model = build_model(transformers_config(shape, 320, tiny.SPECIAL, 32), "rtd", seed=0)
    compile_models([model], False)
    assert told == []
    compile_models([model], "graphs")
    assert told == [(layer, {"dynamic": False}) for layer in layer_modules(model)]
    assert len(told) == (1 if architecture == "albert" else 3)
    told.clear()
    checkpoint_activations(model)
    compile_models([model], True)
    assert told == [(model, {"dynamic": False})]


def test_checkpointed_layers_are_compiled_into_one_graph(shards, monkeypatch):
    def compile_whole(module, dynamic):
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager", fullgraph=True, dynamic=dynamic)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_whole)
    monkeypatch.setattr(compilation, "missing_compiler", lambda device: None)
    config = tiny.settings(shards, training__compile=True, training__activation_checkpointing=True)
    assert set(compiled_updates(config, choose_execution(config.execution), 3)) == {1}


@pytest.fixture
def compiling(monkeypatch):
    """`auto` compiles here too, with nothing behind it."""
    choose = lambda config, execution, say=None: config.training.compile is not False  # noqa: E731
    monkeypatch.setattr("fast_electra.pipelines.pretrain.choose_compilation", choose)
    monkeypatch.setattr("fast_electra.training.setup.choose_compilation", choose)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda model, **_: None)


def test_a_run_continues_with_another_compilation_and_says_so(shards, tmp_path, compiling):
    stops = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        pretrain(tiny.settings(shards), tmp_path / "run", stop=lambda: next(stops))
    assert load_run(tmp_path / "run").config.training.compile is False
    said = []
    pretrain(tiny.settings(shards, training__compile=True), tmp_path / "run", say=said.append)
    assert "compiled is True and was False: results are no longer bit-identical." in said
    whole = tmp_path / "whole"
    pretrain(tiny.settings(shards, training__compile="auto"), whole)
    assert load_run(whole).config.training.compile is True  # the resolved value, not `auto`
    losses = [[r["loss"] for r in read_metrics(run / "metrics.jsonl")] for run in (tmp_path / "run", whole)]
    assert losses[0] == losses[1]


def test_a_run_of_a_version_without_auto_continues(shards, tmp_path, compiling):
    stops = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        pretrain(tiny.settings(shards), tmp_path / "run", stop=lambda: next(stops))
    record = tiny.unsealed_record(tmp_path / "run")
    assert record["environment"].pop("compiled") is False
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    said = []
    pretrain(tiny.settings(shards), tmp_path / "run", say=said.append)
    assert not any("bit-identical" in sentence for sentence in said)


def failing(model, **_):
    def call(*_arguments, **_named):
        raise BackendCompilerFailed("inductor", RuntimeError("Failed to find C compiler.\nmore lines"), None)

    model._compiled_call_impl = call


def test_a_model_that_cannot_be_compiled_is_trained_without_compilation(shards, tmp_path, compiling, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", failing)
    said = []
    result = pretrain(tiny.settings(shards, training__compile="auto"), tmp_path / "run", say=said.append)
    assert result.updates == 12
    told = [sentence for sentence in said if "compil" in sentence]
    assert len(told) == 1
    assert "Failed to find C compiler" in told[0]
    assert told[0].endswith("the run goes back to update 0 and trains without compilation.")
    pretrain(tiny.settings(shards), tmp_path / "plain")
    losses = [[r["loss"] for r in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("run", "plain")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("budget", [{}, {"training__updates": None, "training__hours": 0.001}])
def test_where_compilation_was_asked_for_its_failure_is_one_sentence(shards, tmp_path, compiling, monkeypatch, budget):
    monkeypatch.setattr(torch.nn.Module, "compile", failing)
    with pytest.raises(CompilationFailed, match=r"^PyTorch cannot compile .*training.compile=false continues without"):
        pretrain(tiny.settings(shards, training__compile=True, **budget), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_layers_train_as_plain_ones(shards, auxiliary, tmp_path):
    missing_compiler.cache_clear()
    torch._dynamo.reset()
    losses = []
    for value in (False, True):
        config = tiny.settings(shards, "fast_electra", auxiliary, training__compile=value, training__updates=3)
        pretrain(config, tmp_path / str(value))
        losses.append([record["loss"] for record in read_metrics(tmp_path / str(value) / "metrics.jsonl")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)  # float32: other kernels round otherwise
