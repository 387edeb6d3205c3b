"""The tool that measures `data build` beside `datasets.map`."""

import re
import subprocess
import sys

import pytest

from tests import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]  # it starts four processes


def test_both_sides_write_the_same_number_of_tokens_at_every_size(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "text.txt").write_text("\n\n".join(document.text.strip() for document in tiny.documents(400)))
    command = [sys.executable, str(tiny.ROOT / "tools" / "data_speed.py"), str(tmp_path / "text.txt")]
    done = subprocess.run([*command, "--copies", "1", "2", "--vocabulary", "300"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| 0 MB")]
    assert [row[2].strip() for row in rows] == ["`data build`", "`datasets.map`"] * 2
    tokens = [int(row[6].replace(",", "")) for row in rows]
    assert tokens[0] == tokens[1] < tokens[2] == tokens[3]
    assert len(re.findall(r"times the rate of datasets\.map", done.stdout)) == 2
