"""What a file is, is decided by its content, wherever a user's text is read."""

import bz2
import gzip
import io
import json
import lzma
import random
import sqlite3
import tarfile
import zipfile

import pytest

from fast_electra.data.sources import Sources
from fast_electra.data.text_files import LOOKED_AT, json_in, text_bytes
from fast_electra.errors import DataError
from fast_electra.evaluation.minimal_pairs import read_minimal_pairs
from fast_electra.evaluation.own_files import choose_columns, load_own

TEXT = "\n\n".join(f"The {number}. cat sat on the mat, naïve as ever." for number in range(300))


def _zip() -> bytes:
    with zipfile.ZipFile(content := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c.txt", TEXT)
    return content.getvalue()


def _tar(mode: str = "w") -> bytes:
    with tarfile.open(fileobj=(content := io.BytesIO()), mode=mode) as archive:
        entry = tarfile.TarInfo("c.txt")
        entry.size = len(TEXT.encode())
        archive.addfile(entry, io.BytesIO(TEXT.encode()))
    return content.getvalue()


def _sqlite(folder) -> bytes:
    connection = sqlite3.connect(folder / "made.db")
    connection.execute("create table texts (text)")
    connection.commit()
    connection.close()
    return (folder / "made.db").read_bytes()


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("name", ["A.TXT.GZ", "a.txt", "a"])
def test_packed_text_is_unpacked_whatever_its_name(tmp_path, pack, name):
    (tmp_path / name).write_bytes(pack(TEXT.encode()))
    assert len(list(Sources([tmp_path / name]))) == 300


def test_text_under_the_name_of_packed_text_is_read(tmp_path):  # browsers unpack what they download
    (tmp_path / "a.txt.gz").write_text(TEXT, encoding="utf-8")
    assert len(list(Sources([tmp_path]))) == 300


REFUSED = {
    "zip": (lambda _: _zip(), "ZIP archive"),
    "tar": (lambda _: _tar(), "tar archive"),
    "tar.gz": (lambda _: _tar("w:gz"), "packed, and inside is a tar archive"),
    "gz.gz": (lambda _: gzip.compress(gzip.compress(TEXT.encode())), "packed twice"),
    "pdf": (lambda _: b"%PDF-1.7\n" + random.Random(0).randbytes(300), "PDF"),
    "sqlite": (_sqlite, "SQLite"),
    "rtf": (lambda _: rb"{\rtf1\ansi hello}", "RTF"),
    "lfs": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "noise": (lambda _: random.Random(0).randbytes(5_000), "binary"),
    "noise without NUL": (lambda _: random.Random(0).randbytes(5_000).replace(b"\0", b"\xff"), "binary"),
    "utf16": (lambda _: TEXT.encode("utf-16"), "UTF-16 text"),
    "utf16be": (lambda _: b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16 text"),
    "utf32": (lambda _: TEXT.encode("utf-32"), "UTF-32 text"),
    "utf16 without a mark": (lambda _: TEXT.encode("utf-16-be"), "iconv -f UTF-16BE"),
    "gzip of utf16": (lambda _: gzip.compress(TEXT.encode("utf-16")), "inside is UTF-16"),
    "nul": (lambda _: TEXT.encode().replace(b"7. cat", b"7.\0cat"), r"30 NUL bytes: remove them by `tr -d '\000'"),
    "cp1251": (lambda _: ("Кошка сидела на ковре. " * 50).encode("cp1251"), "another encoding than UTF-8"),
    "shift-jis": (lambda _: ("猫がマットの上に座った。" * 50).encode("shift-jis"), "another encoding than UTF-8"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_utf8_text_is_refused_by_name_and_kind_on_every_path(tmp_path, kind):
    make, sentence = REFUSED[kind]
    content = make(tmp_path)
    for name, read in (
        ("a.txt", lambda path: list(Sources([path]))),
        ("b.jsonl", lambda path: list(Sources([path]))),
        ("c.py", lambda path: list(Sources([path], "code"))),
        ("d.tsv", lambda path: load_own(path, None, ["text"], "label")),
        ("e.csv", lambda path: choose_columns(path, [], None)),
        ("f.jsonl", lambda path: read_minimal_pairs(path)),
        ("g.conll", lambda path: load_own(path, None, [], None)),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as error:
            read(tmp_path / name)
        assert f"{tmp_path / name} is " in str(error.value)
        assert sentence in str(error.value)
        assert str(error.value).count(". ") == 0  # one sentence


def test_text_with_a_few_odd_bytes_is_text():
    for content in (
        b"",
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.encode("latin-1"),  # 2 % of its characters: replaced and counted by the reader
        b"caf\xe9",
        b"\x1b[31mred\x1b[0m log\r\n" * 500,
        b"overstrike o\x08o\f\n" * 500,
        ("\N{REPLACEMENT CHARACTER}" * 9 + "\n").encode() * 900,
        ("猫" * LOOKED_AT).encode(),  # a character is cut at the end of what is looked at
    ):
        assert text_bytes(io.BytesIO(content), "a").read() == content


def test_all_of_a_long_file_is_read_after_it_was_looked_at(tmp_path):
    lines = [f"line {number}" for number in range(20_000)]
    (tmp_path / "a.txt").write_text("\n\n".join(lines))
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress("\n\n".join(lines).encode()))
    assert [document.text for document in Sources([tmp_path])] == lines * 2


# --- JSON -------------------------------------------------------------------------------------------------------------

ROWS = [{"text": f"row {number}", "label": number % 2} for number in range(30)]


def test_json_lines_that_would_be_read_as_text_name_the_format(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    with pytest.raises(DataError, match=r"a\.json holds one JSON object per line.*data\.format=jsonl"):
        list(Sources([path]))
    assert len(list(Sources([path], "jsonl"))) == 30
    assert len(list(Sources([path], "text"))) == 1  # asked for


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("shape", ["array", "object"])
def test_one_json_value_over_the_whole_file_is_refused_with_a_way_out(tmp_path, shape, indent):
    content = json.dumps(ROWS if shape == "array" else {"data": ROWS, "version": 1}, indent=indent)
    if shape == "object" and indent is None:
        assert json_in(content.encode()) == "lines"  # nothing tells it from a file of one line
        return
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=rf"{name} is one JSON {shape} over the whole file.*`jq -c .*data\.format"):
            list(Sources([tmp_path / name]))
    for read in (
        lambda path: load_own(path, None, ["text"], "label"),
        lambda path: choose_columns(path, [], None),
        read_minimal_pairs,
    ):
        with pytest.raises(DataError, match="each line must be an object"):
            read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"a": 1}\n{"a": 2}\n', "lines"),
        ('\ufeff{"a": 1}', "lines"),
        ('{"a": "' + "x" * LOOKED_AT, "lines"),
        ('[ {"a": 1}]', "array"),
        ('["one", "two"]', "array"),
        ('{\n "a": 1\n}', "object"),
        ('{"a": 1,\n"b": 2}', "object"),
        ('{"a": "cut\n{"a": 2}', None),
        ("{braces} are text", None),
        ("[1] a footnote", None),
        ("", None),
        ("[" * 10**5, None),
    ],
)
def test_json_is_told_from_text(text, kind):
    assert json_in(text.encode()[:LOOKED_AT]) == kind


# --- What is counted --------------------------------------------------------------------------------------------------


def test_replaced_characters_are_counted(tmp_path):
    (tmp_path / "a.txt").write_bytes("naïve \ufffd".encode() + "\n\nnaïve café".encode("latin-1"))
    (tmp_path / "b.jsonl").write_text(r'{"text": "\ud800 \ufffd"}')
    found = Sources([tmp_path])
    list(found)
    assert (found.reading.replaced_files, found.reading.replaced_characters) == (2, 3)


def test_a_web_page_under_the_name_of_packed_text_is_refused(tmp_path):  # a failed download
    (tmp_path / "corpus.txt.gz").write_text("\n<!DOCTYPE html>\n<title>403 Forbidden</title>")
    with pytest.raises(DataError, match="is a web page, not what its name says: download the file again"):
        list(Sources([tmp_path / "corpus.txt.gz"]))
    (tmp_path / "page.txt").write_text("<!DOCTYPE html>\n<title>A text about markup</title>")
    assert len(list(Sources([tmp_path / "page.txt"]))) == 1


def test_what_is_behind_the_first_bytes_is_counted_and_bounded_too(tmp_path):
    noise = random.Random(0).randbytes(2_000)
    (tmp_path / "a.txt").write_bytes(TEXT.encode() * 10 + b"a\0b" + noise + b"\n\n" + TEXT.encode())
    found = Sources([tmp_path / "a.txt"])
    text = "".join(document.text for document in found)
    assert "\0" not in text
    assert text.count("\N{REPLACEMENT CHARACTER}") == found.reading.replaced_characters > 500
    with pytest.raises(DataError, match="line 5981: not UTF-8"):
        list(Sources([tmp_path / "a.txt"], invalid_utf8="refuse"))
    (tmp_path / "c.txt").write_bytes(TEXT.encode() * 10 + b"a\0b")
    with pytest.raises(DataError, match=r"c\.txt, line 5981: a NUL byte"):
        list(Sources([tmp_path / "c.txt"], invalid_utf8="refuse"))
    (tmp_path / "b.txt").write_bytes(TEXT.encode() * 10 + noise * 100)
    with pytest.raises(DataError, match=r"b\.txt is binary, or in another encoding than UTF-8 \(\d\d% of its char"):
        list(Sources([tmp_path / "b.txt"]))


def test_a_table_in_another_encoding_says_how_to_convert_it(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\n“smart” quotes,1\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"a\.csv, line 2: not UTF-8 .*`iconv -f ENCODING -t UTF-8`"):
        load_own(tmp_path / "a.csv", None, ["text"], "label")


def test_a_line_of_json_without_the_key_says_which_keys_have_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"title": "a", "body": "b", "id": 3}')
    with pytest.raises(DataError, match=r"no string under 'text' \(strings are under 'title', 'body'\)"):
        list(Sources([tmp_path / "a.jsonl"]))


def test_a_pipe_is_refused_since_text_is_read_twice(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"pipe .*is not a regular file; write the text to a file"):
        Sources([tmp_path / "pipe"])
