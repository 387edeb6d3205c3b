"""No update waits for the device, and nothing is compiled twice."""

import pytest
import torch

from fast_electra.pipelines.pretrain import pretrain
from fast_electra.training.precision import choose_execution
from tests import tiny
from tools.gpu.waits import SETTINGS, NoWaiting, Waited, compiled_updates, material, settings_of, updates


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("waiting")
    material(folder)
    return folder


@pytest.mark.parametrize("name", SETTINGS)
def test_no_update_waits_for_the_device(name, folder):
    config = settings_of(name, folder)
    assert sum(1 for _ in updates(config, choose_execution(config.execution), 3)) == 3


def test_an_adaptive_curriculum_alone_reads_every_update(folder):
    SETTINGS["adaptive"] = {"kind": "fast_electra", "corruption__schedule": {"kind": "adaptive"}}
    try:
        config = settings_of("adaptive", folder)
        with pytest.raises(Waited, match="_local_scalar_dense"):
            list(updates(config, choose_execution(config.execution), 3))
    finally:
        del SETTINGS["adaptive"]


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.__setitem__(x > 0, 1.0),
        lambda x: torch.unique(x),
        lambda x: torch.equal(x, x),
    ],
)
def test_the_guard_sees_what_waits(wait):
    x = torch.ones(4)
    with NoWaiting(), pytest.raises(Waited):
        wait(x)
    with NoWaiting():
        (x[torch.tensor([0, 1])] + x.sum()).clamp(min=0)


@pytest.mark.parametrize("padding", [0, 5])
def test_padding_is_decided_on_the_host_when_the_batch_is_built(padding):
    batch = tiny.batch(rows=4, padding=padding)
    rebuilt = type(batch).of(batch.ids, batch.padding)
    assert batch.padded == rebuilt.padded == bool(padding)
    assert batch.tokens == 4 * 32 - padding
    halves = batch.split(2)
    assert [half.padded for half in halves] == [False, bool(padding)]  # the last row has the padding
    with NoWaiting():
        assert [half.to("cpu").padded for half in halves] == [False, bool(padding)]
    on_device = type(batch).of(batch.ids.to("meta"), batch.padding.to("meta"))
    assert on_device.padded  # nobody looked


ARCHITECTURES = ("electra", "bert", "modernbert", "deberta-v2")
QUICK = (("electra", "fast_electra", "packed"), ("modernbert", "fast_electra", "document"))
CASES = [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
    for case in (
        (architecture, kind, attention)
        for architecture in ARCHITECTURES
        for kind in ("mlm", "fast_electra")
        for attention in ("packed", "document")
    )
]


@pytest.mark.parametrize(("architecture", "kind", "attention"), CASES)
def test_equal_layers_are_compiled_once_into_one_graph(architecture, kind, attention, folder, tmp_path, monkeypatch):
    """Main model and auxiliary, with Dynamo alone: how a graph is turned into kernels changes nothing here."""

    def compile_whole(module, dynamic):
        assert dynamic is False
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager", fullgraph=True, dynamic=False)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_whole)
    monkeypatch.setattr("fast_electra.training.compilation.missing_compiler", lambda device: None)
    shape = {"main__architecture": architecture, "data__attention": attention, "main__layers": 4}
    if kind == "fast_electra":
        pretrain(tiny.settings(folder / "shards", "mlm", training__updates=1, **shape), tmp_path / "auxiliary")
    auxiliary = tmp_path / "auxiliary" if kind == "fast_electra" else None
    config = tiny.settings(folder / "shards", kind, auxiliary, training__compile=True, training__updates=50, **shape)
    graphs = compiled_updates(config, choose_execution(config.execution), 50)
    # ModernBERT has no norm in its first layer.
    layers = (2 if kind == "fast_electra" else 1) * (2 if architecture == "modernbert" else 1)
    # 50 updates read the corpus several times. Its last row has padding, which packed rows need a mask for.
    assert graphs[0] == layers
    assert graphs[-1] == layers * (2 if attention == "packed" else 1)
