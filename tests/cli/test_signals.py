"""Signals and time limits: the exit status says who stopped a command, and the same command continues."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from fast_electra import stopping
from fast_electra.cli import main as program
from fast_electra.cli.main import main
from fast_electra.config.printing import dump_config
from fast_electra.data.files import staged_folder
from fast_electra.data.workers import worker_pool
from fast_electra.errors import ConfigError, ResourceError
from fast_electra.pipelines import pretrain as pretrain_module
from fast_electra.runs import checkpoints
from fast_electra.runs.checkpoints import newest_checkpoint
from fast_electra.runs.folder import load_run
from tests import tiny
from tests.cli.working import dies, sleeps

STATUSES = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 75, "stopped by SIGTERM"),
            (signal.SIGUSR1, 75, "stopped by SIGUSR1")]  # fmt: skip
signals = pytest.mark.parametrize(("number", "status", "said"), STATUSES, ids=["SIGINT", "SIGTERM", "SIGUSR1"])


def sends(patch, owner, name: str, at: int, *numbers: int) -> None:
    """Send signals to this process during the call `at` of a function."""
    function, calls = getattr(owner, name), []

    def sending(*arguments, **options):
        calls.append(name)
        if len(calls) == at:
            for number in numbers:
                signal.raise_signal(number)
        return function(*arguments, **options)

    patch.setattr(owner, name, sending)


@pytest.fixture
def words(shards, tmp_path):
    """The command of a tiny run."""
    (tmp_path / "c.yaml").write_text(dump_config(tiny.settings(shards)))
    return ["pretrain", str(tmp_path / "c.yaml"), "--run", str(tmp_path / "run [b]")]


def weights(run) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


# --- Every command ----------------------------------------------------------------------------------------------------


@signals
def test_a_command_without_a_checkpoint_ends_at_once_and_says_what_to_do(number, status, said, monkeypatch, capsys):
    sends(monkeypatch, import_module("fast_electra.config.loading"), "validate", 1, number)
    before = [signal.getsignal(one) for one, *_ in STATUSES]
    assert main(["config", "show", "quickstart", "auxiliary.model=[/a b]"]) == status
    again = "fast-electra config show quickstart 'auxiliary.model=[/a b]'"
    assert capsys.readouterr() == ("", f"{said}; no partial files are left; start it again with: {again}\n")
    assert [signal.getsignal(one) for one, *_ in STATUSES] == before
    assert main(["config", "show", "quickstart"]) == 0


class SignalsWhenFreed:
    """An object that sends a signal while Python frees it, where Python ignores exceptions."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@signals
def test_a_request_that_python_ignores_is_made_again(number, status, said, monkeypatch, capsys):
    loading = import_module("fast_electra.config.loading")
    validate = loading.validate

    def frees(*arguments):
        SignalsWhenFreed(number)  # freed at once
        time.sleep(5)
        return validate(*arguments)

    monkeypatch.setattr(loading, "validate", frees)
    began = time.monotonic()
    assert main(["config", "show", "quickstart"]) == status
    assert time.monotonic() - began < 4
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith(said)
    assert found.err.count("\n") == 1


def test_other_ignored_exceptions_are_shown_as_before(monkeypatch, capsys):
    class Fails:
        def __del__(self) -> None:
            raise ValueError("of another kind")

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: shown.append(str(found.exc_value)))
    before = sys.unraisablehook
    with stopping.listening():
        Fails()
    assert shown == ["of another kind"]
    assert sys.unraisablehook is before


def test_a_request_while_a_folder_is_made_leaves_none(tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def stops(path, *arguments, **named):
        mkdir(path, *arguments, **named)
        if path.suffix == ".partial":
            raise stopping.Stopped("SIGTERM")

    monkeypatch.setattr(Path, "mkdir", stops)
    with pytest.raises(stopping.Stopped), staged_folder(tmp_path / "out"):
        raise AssertionError("it was stopped before")
    assert list(tmp_path.iterdir()) == []


@signals
def test_a_stopped_run_saves_its_last_update_and_the_same_command_continues(
    number, status, said, words, auxiliary, monkeypatch, capsys
):
    run = Path(words[-1])
    with monkeypatch.context() as patch:
        sends(patch, import_module("fast_electra.training.loop"), "make_update", 3, number)
        assert main(words) == status
    name = number.name
    last = capsys.readouterr().err.splitlines()[-1]
    again = shlex.join(["fast-electra", *words])
    assert last == f"stopped after update 3 of 12 by {name}; finished work is kept; continue with: {again}"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["00000003"]
    assert main(words) == 0
    assert "continuing from update 3 of 12" in capsys.readouterr().err
    assert weights(run) == weights(auxiliary)  # that of an unbroken run


@pytest.mark.parametrize("numbers", [(signal.SIGTERM,) * 3, (signal.SIGINT,) * 2, (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_during_a_save_does_not_damage_it(numbers, words, auxiliary, monkeypatch, capsys):
    run = Path(words[-1])
    with monkeypatch.context() as patch:
        sends(patch, pretrain_module, "write_models", 1, *numbers)  # in the middle of the first save, of update 4
        assert main(words) == (130 if signal.SIGINT in numbers else 75)
    assert load_run(run).status == "started"
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    # A second Ctrl-C ends the command behind the save, otherwise it ends after the next update.
    assert names[0] == "00000004"
    assert names[1:] == ([] if numbers == (signal.SIGINT,) * 2 else ["00000005"])
    assert main(words) == 0
    assert weights(run) == weights(auxiliary)


def test_a_second_interrupt_while_the_first_is_answered_is_no_traceback(words, monkeypatch, capsys):
    sends(monkeypatch, program, "_run", 1, signal.SIGINT)
    sends(monkeypatch, program, "_stopped", 1, signal.SIGINT)
    assert main(words) == 130
    assert capsys.readouterr().err.startswith("interrupted; finished work is kept; continue with: ")


def test_a_second_interrupt_does_not_wait_for_the_update(words, monkeypatch):
    sends(monkeypatch, import_module("fast_electra.training.loop"), "make_update", 6, signal.SIGINT, signal.SIGINT)
    assert main(words) == 130
    assert [path.name for path in (Path(words[-1]) / "checkpoints").iterdir()] == ["00000004"]


def test_a_signal_in_the_last_update_leaves_a_run_that_the_same_command_finishes(words, auxiliary, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        sends(patch, import_module("fast_electra.training.loop"), "make_update", 12, signal.SIGTERM)
        assert main(words) == 75
    assert "stopped by SIGTERM; finished work is kept" in capsys.readouterr().err
    assert stopping.requested() is None  # a call of `pretrain` in this process is not stopped
    assert main(words) == 0
    assert weights(Path(words[-1])) == weights(auxiliary)


def test_a_signal_that_breaks_an_import_is_no_traceback(words, monkeypatch, capsys):
    def importing(*_, **__):
        with contextlib.suppress(stopping.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        raise ImportError("initialization failed")

    monkeypatch.setattr("fast_electra.config.loading.load_config", importing)
    assert main(words) == 75
    assert capsys.readouterr().err.startswith("stopped by SIGTERM; ")
    monkeypatch.setattr("fast_electra.config.loading.load_config", lambda *_: import_module("no_such_module"))
    with pytest.raises(ImportError):
        main(words)


def test_a_stop_before_training_starts_leaves_no_run(words, monkeypatch):
    sends(monkeypatch, pretrain_module, "assemble", 1, signal.SIGTERM)
    assert main(words) == 75
    assert not Path(words[-1]).exists()


def test_a_stop_while_a_checkpoint_is_read_is_not_an_error_of_the_checkpoint(auxiliary, tmp_path, monkeypatch, capsys):
    sends(monkeypatch, checkpoints.HuggingFaceStorageReader, "read_metadata", 1, signal.SIGTERM)
    assert main(["export", str(auxiliary), str(tmp_path / "out"), "--checkpoint", "all"]) == 75
    assert "stopped by SIGTERM; " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_stopped_build_leaves_no_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("\n\n".join(document.text for document in tiny.documents()))
    words = ["data", "build", "quickstart", f"data.sources=[{tmp_path}/a.txt]", "data.format=text"]
    words += ["data.tokenizer.vocabulary_size=300", "data.workers=1", "--out", str(tmp_path / "shards")]
    with monkeypatch.context() as patch:
        sends(patch, import_module("fast_electra.data.shard_building"), "write_manifest", 1, signal.SIGTERM)
        assert main(words) == 75
    assert "stopped by SIGTERM; no partial files are left; start it again with" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert main(words) == 0


def test_a_stopped_cache_an_export_and_a_report_work_at_the_second_time(shards, auxiliary, tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(dump_config(tiny.settings(shards, "fast_electra", auxiliary)))
    for words, module, name in (
        (["corrupt", str(tmp_path / "c.yaml"), "--out"], "fast_electra.pipelines.corrupt", "write_part"),
        (["export", str(auxiliary)], "fast_electra.publishing.export", "shutil"),
        (["report", str(auxiliary), "--out"], "fast_electra.pipelines.run_page", "render_page"),
    ):
        out = tmp_path / words[0] / "out"
        with monkeypatch.context() as patch:
            if name == "shutil":
                sends(patch, import_module(module).shutil, "copytree", 1, signal.SIGTERM)
            else:
                sends(patch, import_module(module), name, 1, signal.SIGTERM)
            assert main([*words, str(out)]) == 75
        assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".partial", ".tmp"))]
        assert main([*words, str(out)]) == 0
        assert out.exists()


# --- Time limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0", "-1", "1x", "h", "1:00", "nan", "9" * 5000, "²"])
def test_a_time_limit_that_is_no_duration_is_refused(text, capsys):
    assert main(["pretrain", "quickstart", "--run", "r", f"--time-limit={text}"]) == 2
    assert "is not a duration: give hours, minutes or seconds, such as 2h or 90m." in capsys.readouterr().err


def test_a_time_limit_leaves_the_time_of_the_slowest_save_so_far(monkeypatch):
    now = [1000.0]

    def update() -> bool:
        now[0] += 10 if now[0] < 1050 else 1  # 10 s with a checkpoint at first, then updates of 1 s
        return stopping.asked()

    monkeypatch.setattr("fast_electra.stopping.time.monotonic", lambda: now[0])
    monkeypatch.setattr("fast_electra.stopping._Requests.listen", lambda *_: False)
    for text, seconds in (("1h", 3600), ("90m", 5400), ("200", 200), ("0.5d", 43200)):
        now[0] = 1000.0
        with stopping.listening():
            stopping.limit_time(text)
            with pytest.raises(stopping.Stopped), stopping.postponed():
                list(iter(update, True))
            margin = min(30, seconds / 10)
            assert now[0] == pytest.approx(1000 + seconds - margin - 20, abs=1)
            request = stopping.requested()
            assert request == stopping.Request(f"the time limit of {text}", 75)


@pytest.mark.timeout(120, method="thread")
def test_a_run_ends_within_its_time_limit_with_a_checkpoint(words, capsys):
    began = time.monotonic()
    assert main([*words, "training.updates=1000000", "--time-limit", "6s"]) == 75
    assert time.monotonic() - began < 6
    assert "by the time limit of 6s; finished work is kept; continue with: " in capsys.readouterr().err
    assert newest_checkpoint(Path(words[-1]) / "checkpoints")
    with pytest.raises(ConfigError):
        stopping.limit_time("soon")


@pytest.mark.timeout(120, method="thread")
def test_a_time_limit_ends_what_has_no_checkpoint_too(shards, auxiliary, tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(dump_config(tiny.settings(shards, "fast_electra", auxiliary)))
    monkeypatch.setattr("fast_electra.pipelines.corrupt.build_cache", lambda *_, **__: time.sleep(60))
    assert main(["corrupt", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "c"), "--time-limit", "0.2"]) == 75
    assert capsys.readouterr().err.startswith("stopped by the time limit of 0.2; finished work is kept; continue with")


# --- Workers ----------------------------------------------------------------------------------------------------------


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["spawn", "fork"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(kind, number, tmp_path):
    code = f"from tests.cli.working import parent; parent({kind!r}, {str(tmp_path)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tiny.ROOT, stderr=subprocess.DEVNULL)
    try:
        while len(list(tmp_path.iterdir())) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        workers = [int(file.name) for file in tmp_path.iterdir()]
        for worker in workers:  # what a terminal or a scheduler sends to the whole group
            os.kill(worker, signal.SIGTERM)
            os.kill(worker, signal.SIGUSR1)
        assert not any(map(ended, workers))
        os.kill(process.pid, number)
        process.wait()
        until = time.monotonic() + 20
        while not all(map(ended, workers)):
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        process.kill()


def test_a_worker_that_ends_unexpectedly_is_one_sentence():
    with (
        pytest.raises(ResourceError, match=r"a process that dies ended unexpectedly, .* memory: use fewer"),
        worker_pool(1, "dies", "use fewer") as pool,
    ):
        pool.submit(dies, 0).result()


def test_a_script_that_does_not_guard_its_work_can_start_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from fast_electra.data.workers import worker_pool\n"
        "with worker_pool(1, 'measures', 'wait', len, ('x' * 200_000,)) as pool:\n"  # more than a pipe holds
        "    print(pool.submit(len, 'four').result())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, cwd=tiny.ROOT)
    assert (done.stdout, done.stderr) == ("4\n", "")


def test_an_error_ends_workers_in_the_middle_of_their_work(tmp_path):
    began = time.monotonic()

    def fail() -> None:
        with worker_pool(1, "sleeps", "wait") as pool:
            pool.submit(sleeps, str(tmp_path))
            while not list(tmp_path.iterdir()):
                time.sleep(0.05)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert time.monotonic() - began < 30  # not the 60 seconds of the work


def test_a_signal_while_the_last_sentence_is_printed_changes_nothing(monkeypatch, capsys):
    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGINT)
        return "the same command"

    monkeypatch.setattr(program, "_run", interrupted)
    monkeypatch.setattr(program, "command_given", interrupted)
    assert program.main(["export", "run", "out"]) == 130
    assert capsys.readouterr().err.endswith("start it again with: the same command\n")
