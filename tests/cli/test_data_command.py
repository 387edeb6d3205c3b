import json

import pytest

from fast_electra.cli.main import main


@pytest.fixture
def configuration(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(f"paragraph {n} of {n % 7} words" for n in range(300)))
    (tmp_path / "c.yaml").write_text(
        f"preset: modern-small\ndata:\n  sources: ['{tmp_path}/text.txt']\n  tokenizer: {{vocabulary_size: 300}}\n"
    )
    return str(tmp_path / "c.yaml")


def test_the_report_is_a_table_or_one_json_object(configuration, tmp_path, capsys):
    assert main(["data", "build", configuration, "--out", str(tmp_path / "a")]) == 0
    assert "300 documents" in capsys.readouterr().out
    assert main(["data", "build", configuration, "data.workers=1", "--out", str(tmp_path / "a"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["existed"]
    assert report["documents"] == 300
    assert report["splits"]["train"]["packing_efficiency"] > 0.5


def test_what_is_left_out_or_replaced_is_reported(configuration, tmp_path, capsys):
    folder = tmp_path / "texts"
    folder.mkdir()
    text = "\n\n".join(f"paragraph {n} of a café" for n in range(300))
    for name, content in (
        ("a.txt", text.encode()),
        ("b.txt", text.encode()),
        ("c.txt", text.replace("of", "in").encode("latin-1")),
        ("d.pdf", b"%PDF-1.7"),
    ):
        (folder / name).write_bytes(content)
    assert main(["data", "build", configuration, f"data.sources=[{folder}]", "--out", str(tmp_path / "s")]) == 0
    found = " ".join(capsys.readouterr().out.split())
    for sentence in (
        "900 documents, 0.0 MB, from 3 files",
        "files left out 1 (links, or names that are not read)",
        "dropped, duplicate 300 documents",
        "not UTF-8 300 characters in 1 files became U+FFFD",
    ):
        assert sentence in found


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("data.sources=[nowhere]", "does not exist"),
        ("data.sources=[]", "data.sources is empty"),
        ("data.tokenizer.vocabulary_size=9000", "the corpus supports"),
        ("data.tokenizer.path=nowhere", "can't be loaded"),
        ("data.format=code", "single document"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2_and_leaves_nothing(configuration, tmp_path, capsys, setting, sentence):
    assert main(["data", "build", configuration, setting, "--out", str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in " ".join(error.split())
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.glob("a*"))
