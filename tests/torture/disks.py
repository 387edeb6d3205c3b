"""Disks that are full or read-only, and numbers that are not finite."""

import contextlib
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cli.test_full_disk import largest_file
from tests.torture.trial import COMMANDS, FAILED, Trial, content, judged, left_over, main, some, words_of

LEVELS = 20
ENDS = {0: "finished", 1: "one sentence"}
READ_ONLY = {0: "nothing to write", 1: "one sentence"}


def said_by(words: list[str]) -> tuple[int, str]:
    """The exit status and the messages of a command in this process."""
    messages = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(messages):
        status = main(words)
    return status, messages.getvalue()


class SmallDisk:
    """A file system of a size, in memory; where it cannot be mounted, files of a largest size in a folder."""

    def __init__(self, place: Path):
        self.place = place.absolute()
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "torture", str(self.place)]
        self.is_mounted = (
            os.geteuid() == 0 and shutil.which("mount") and not subprocess.run(mount, stderr=-3).returncode
        )

    def _remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.place)], check=True)

    @contextlib.contextmanager
    def of_size(self, size: int) -> Iterator[None]:
        """Limit what can be written."""
        if self.is_mounted:
            self._remount(f"size={max(4096, size)}")
            yield
            return
        with largest_file(size):
            yield

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Allow no writing."""
        self._remount("ro") if self.is_mounted else self.place.chmod(0o500)
        try:
            yield
        finally:
            self._remount("rw,size=1g") if self.is_mounted else self.place.chmod(0o700)

    def close(self) -> None:
        """Remove it with its content."""
        if self.is_mounted:
            # Lazily: this process may still have files of it in memory, such as shards.
            subprocess.run(["umount", "-l", str(self.place)], check=True)
        shutil.rmtree(self.place)


def full_disks(scale: float) -> Iterator[Trial]:
    """Give every command a disk that is full, and more and more space, until it finishes."""
    for name in COMMANDS:
        disk, levels = SmallDisk(Path("disk")), some(LEVELS, scale)
        try:
            out = disk.place / "out"
            with disk.of_size(2**30):
                assert main(words_of(name, out)) == 0
                names = content(disk.place)
                needed = max if not disk.is_mounted else sum
                size = needed(file.stat().st_size // 4096 * 4096 + 4096 for file in out.rglob("*"))
                shutil.rmtree(out)
            for level in range(levels):
                with disk.of_size(size * level // levels):
                    status, said = said_by(words_of(name, out))
                trial = judged(f"{name}, {level} of {levels} of {size:,} bytes", status, said, ENDS)
                if trial.outcome != FAILED and (left := left_over(disk.place)):
                    trial = Trial(trial.did, FAILED, f"left {left}: {said}")
                if status == 1 and "can't be written: " not in said:
                    trial = Trial(trial.did, FAILED, said)
                yield trial
            with disk.of_size(2**30):
                status, said = said_by(words_of(name, out))
            if status or (left := set(content(disk.place)) ^ set(names)):
                yield Trial(f"{name} with enough space", FAILED, said if status else f"{left} differ")
        finally:
            disk.close()


def read_only_folders(scale: float) -> Iterator[Trial]:
    """Give every command a folder that cannot be written: empty, and with its finished output."""
    del scale
    for name in COMMANDS:
        disk = SmallDisk(Path("disk"))
        try:
            out = disk.place / "out"
            for state in ("empty", "finished"):
                with disk.read_only():
                    status, said = said_by(words_of(name, out))
                # The folder of an export must be new, whether it can be written or not.
                allowed = READ_ONLY | ({2: "one sentence"} if "must be new" in said or "exists" in said else {})
                yield judged(f"{name}, {state}", status, said, allowed)
                status, said = said_by(words_of(name, out))
                if state == "empty" and status:
                    yield Trial(f"{name}, when it can be written again", FAILED, said)
        finally:
            disk.close()
