"""Memory that runs out is one sentence with the setting that needs less."""

import numpy as np
import pytest
import torch

from fast_electra.cli.main import main
from fast_electra.config.printing import dump_config
from tests import tiny


def on_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 1 MiB\nfree.")


SIZES = [lambda: torch.empty(2**55), lambda: np.empty(2**55), lambda: bytearray(2**62), on_gpu]
"""real requests that no machine can serve, and what PyTorch raises on a GPU"""


@pytest.mark.parametrize("allocate", SIZES, ids=["torch", "numpy", "python", "gpu"])
def test_a_training_without_memory_names_the_micro_batch(allocate, shards, tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(dump_config(tiny.settings(shards)))
    words = ["pretrain", str(tmp_path / "c.yaml"), "--run", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr("fast_electra.training.loop.make_update", lambda *_: allocate())
        assert main(words) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: memory ran out (")
    assert last.endswith("): lower training.micro_batch_size, which changes a result by no more than rounding.")
    assert main([*words, "training.micro_batch_size=2"]) == 2  # another run; the same command works
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "function", "remedy"),
    [
        (["evaluate", "m", "--tasks", "rte"], "fast_electra.pipelines.evaluate.evaluate_model", "recipe.batch_size or"),
        (["data", "build", "quickstart", "--out", "x"], "fast_electra.data.shard_building.build_shards", "workers=1"),
        (["corrupt", "quickstart", "--out", "x"], "fast_electra.pipelines.corrupt.build_cache", "micro_batch_size"),
        (["report", "x"], "fast_electra.pipelines.run_page.report_content", "a machine with more memory"),
    ],
)
def test_every_command_names_what_needs_less_memory(words, function, remedy, monkeypatch, capsys):
    monkeypatch.setattr(function, lambda *_, **__: torch.empty(2**55))
    assert main(words) == 1
    assert remedy in capsys.readouterr().err.splitlines()[-1]
