import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other beside other tests take all cores

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which PyTorch does too

from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def _quick():
    """The program chooses one thread, and nothing waits for the disk: a tiny run of 0.4 s syncs 85 times, 5 ms each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fast_electra.training.precision.available_cores", lambda: 1)
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_plugin_stays():
    """What a test registers is gone behind it."""
    from fast_electra import parts, plugins

    contracts = parts.Part.__subclasses__()
    before = {contract: dict(contract.kinds) for contract in contracts}
    imported = dict(plugins._digests)
    yield
    plugins.requested.clear()
    if any(contract.kinds != before[contract] for contract in contracts):
        for contract in contracts:
            contract.kinds = before[contract]
        plugins._digests.clear()
        plugins._digests.update(imported)
        for call in parts.when_registered:
            call()


@pytest.fixture(scope="session")
def tokenizer():
    config = tiny.settings(None).data  # type: ignore[arg-type]
    return tiny.train_tokenizer((d.text for d in tiny.documents()), config.tokenizer, config.length)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return tiny.make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="session")
def auxiliary(tmp_path_factory, shards):
    """A finished run of a tiny masked language model."""
    from fast_electra.pipelines.pretrain import pretrain

    folder = tmp_path_factory.mktemp("runs") / "auxiliary"
    pretrain(tiny.settings(shards), folder)
    return folder
