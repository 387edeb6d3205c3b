"""The same text gives the same shards in every format, and what cannot be read is one sentence."""

import bz2
import gzip
import io
import json
import lzma
import random
import sys
import tracemalloc

import pyarrow
import pytest
from pyarrow import ipc, parquet

from fast_electra.data import sources, text_files
from fast_electra.data.settings import DataConfig, TokenizerConfig
from fast_electra.data.shard_building import build_shards
from fast_electra.data.shards import open_shards
from fast_electra.data.sources import Sources
from fast_electra.errors import DataError
from tests import tiny

zstd = text_files.zstd_module()

TEXTS = [f"Paragraph {n} of a naïve café,\nwith {n * n % 97} lines." for n in range(200)]
PLAIN = "\n\n".join(TEXTS).encode()
LINES = "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(TEXTS)).encode()
TABLE = pyarrow.table({"id": range(200), "text": TEXTS})


def parquet_of(table, **options) -> bytes:
    parquet.write_table(table, content := io.BytesIO(), **options)
    return content.getvalue()


def arrow_of(table, writer=ipc.new_stream) -> bytes:
    with writer(content := io.BytesIO(), table.schema) as opened:
        opened.write_table(table, max_chunksize=70)
    return content.getvalue()


FORMATS = {
    "a.txt": PLAIN,
    "a.md.gz": gzip.compress(PLAIN),
    "a.txt.bz2": bz2.compress(PLAIN),
    "a.txt.xz": lzma.compress(PLAIN),
    "a.txt.zst": zstd.compress(PLAIN),
    "a.jsonl": LINES,
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.zst": zstd.compress(LINES[:5000]) + zstd.compress(LINES[5000:]),  # two frames
    "a.parquet": parquet_of(TABLE, row_group_size=60),
    "a.parquet.gz": gzip.compress(parquet_of(TABLE)),
    "a.arrow": arrow_of(TABLE),
    "b.arrow": arrow_of(TABLE, ipc.new_file),
    "a.bin": parquet_of(TABLE),  # the content decides
}


def texts(path, *arguments, **keywords):
    return [document.text for document in Sources([path], *arguments, **keywords)]


def test_the_same_text_gives_the_same_shards_in_every_format(tmp_path):
    config = DataConfig(length=16, workers=1, validation_fraction=0.2, tokenizer=TokenizerConfig(vocabulary_size=300))
    tokenizer = tiny.train_tokenizer(TEXTS, config.tokenizer, config.length)
    for name, content in FORMATS.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "code").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "code" / f"{number:03}.py").write_text(text)
    digests = {}
    for name in (*FORMATS, "code"):
        made = config.model_copy(update={"sources": [tmp_path / name]})
        build_shards(None, tokenizer, tmp_path / f"shards of {name}", made)
        shards = open_shards(tmp_path / f"shards of {name}")
        digests[name] = shards.fingerprint, shards.manifest["source_digest"]
    assert len(digests) == 14
    assert len(set(digests.values())) == 1


def test_folders_are_read_for_columns_too(tmp_path):
    for name in ("a.parquet", "a.arrow", "a.txt.zst"):
        (tmp_path / name).write_bytes(FORMATS[name])
    assert texts(tmp_path) == TEXTS * 3
    assert texts(tmp_path, "parquet") == TEXTS * 2


def test_progress_counts_the_bytes_of_columns(tmp_path):
    for name in ("a.parquet", "a.parquet.gz", "a.arrow", "a.jsonl.zst"):
        (tmp_path / name).write_bytes(FORMATS[name])
    found = Sources([tmp_path])
    assert len(list(found)) == 800
    assert found.reading.bytes_read == found.sizes()[0]


def test_columns_inside_others_and_of_other_types_of_text(tmp_path):
    table = pyarrow.table(
        {
            "number": [1, 2, 3],
            "a": pyarrow.array([{"b": {"c": text}} for text in "xyz"]),
            "d.e": ["u", "v", "w"],
            "words": pyarrow.array(["s", "t", "s"]).dictionary_encode(),
            "large": pyarrow.array(["k", "l", "m"], pyarrow.large_string()),
        }
    )
    for name, content in (("a.parquet", parquet_of(table)), ("a.arrow", arrow_of(table))):
        (tmp_path / name).write_bytes(content)
        for field, found in (("a.b.c", "xyz"), ("d.e", "uvw"), ("words", "sts"), ("large", "klm")):
            assert texts(tmp_path / name, text_field=field) == list(found)
        with pytest.raises(DataError, match=r"no column of text 'text' \(columns of text are 'a.b.c', 'd.e', 'w"):
            texts(tmp_path / name)


def test_cells_without_text_and_with_broken_text_are_named_or_counted(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet_of(pyarrow.table({"text": ["a", None]})))
    with pytest.raises(DataError, match=r"a\.parquet, row 2: no text under 'text'"):
        texts(tmp_path / "a.parquet")
    cells = pyarrow.array([b"caf\xe9", b"nul \0", b"a\r\nb"])
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 3, cells.buffers())
    (tmp_path / "b.parquet").write_bytes(parquet_of(pyarrow.table({"text": broken})))
    found = Sources([tmp_path / "b.parquet"])
    assert [document.text for document in found] == ["caf\ufffd", "nul \ufffd", "a\nb"]
    assert (found.reading.replaced_files, found.reading.replaced_characters) == (1, 2)
    with pytest.raises(DataError, match=r"b\.parquet, row 1: not UTF-8 .*data\.invalid_utf8=replace"):
        texts(tmp_path / "b.parquet", invalid_utf8="refuse")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt.zst", zstd.compress(PLAIN)[:-9], r"a\.txt\.zst can't be read \(Compressed file ended before"),
        ("a.txt.zst", zstd.compress(PLAIN) + b"more", r"a\.txt\.zst can't be read \(Unable to decompress"),
        ("a.txt", b"\x28\xb5\x2f\xfd" + random.Random(0).randbytes(300), r"a\.txt can't be read \("),
        ("a.parquet", FORMATS["a.parquet"][:-9], r"a\.parquet can't be read as Parquet \(.*\); write it again"),
        ("a.arrow", FORMATS["a.arrow"][:900], r"a\.arrow can't be read as Arrow \(.*\); write it again"),
        ("a.parquet", PLAIN, r"a\.parquet is neither Parquet nor Arrow: give it the ending of what it is"),
        ("a.txt.zst", zstd.compress(PLAIN.decode().encode("utf-16")), "packed, and inside is UTF-16 text"),
    ],
)
def test_what_is_damaged_or_of_another_kind_is_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        texts(tmp_path / name)


def test_columns_where_text_is_asked_for_are_refused_with_the_setting(tmp_path):
    for name, kind in (("a.parquet", "Parquet"), ("a.arrow", "Arrow")):
        (tmp_path / name).write_bytes(FORMATS[name])
        with pytest.raises(DataError, match=rf"is an? {kind} file, not text: .*data\.format=auto"):
            texts(tmp_path / name, "text")


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    for module in ("pyarrow", "backports", "compression"):
        monkeypatch.setitem(sys.modules, module, None)
    for name, command in (
        ("a.parquet", "pip install pyarrow"),
        ("a.arrow", "pip install pyarrow"),
        ("a.txt.zst", r"pip install backports\.zstd"),
    ):
        (tmp_path / name).write_bytes(FORMATS[name])
        with pytest.raises(DataError, match=command):
            texts(tmp_path / name)
    (tmp_path / "plain.txt").write_bytes(PLAIN)
    assert texts(tmp_path / "plain.txt") == TEXTS


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.arrow"])
def test_a_row_of_more_than_the_stated_size_is_refused_by_its_number(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sources, "LARGEST_ROW", 100)
    table = pyarrow.table({"text": ["x" * 50, "y" * 1000]})
    content = {
        "a.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in table.to_pylist()),
        "a.parquet": parquet_of(table),
        "a.arrow": arrow_of(table),
    }[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}, (line|row) 2: more than 0 MB; split its text into several rows"):
        texts(tmp_path / name)


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
@pytest.mark.parametrize("kind", [pytest.param("text", marks=pytest.mark.slow), "jsonl"])
def test_a_packed_line_of_400_mb_takes_little_memory(tmp_path, pack, kind):
    part = pack(b"word " * 2_000_000)
    head = b'{"text": "' if kind == "jsonl" else b""
    (tmp_path / "a").write_bytes(pack(head) + 40 * part)
    found = Sources([tmp_path / "a"], kind)
    tracemalloc.start()
    if kind == "text":
        assert sum(len(document.text) for document in found) == 400_000_000
        assert found.reading.cut_documents == 24
    else:
        with pytest.raises(DataError, match="line 1: more than 64 MB"):
            list(found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
