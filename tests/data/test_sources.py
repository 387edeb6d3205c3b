import gzip
import json

import pytest

from fast_electra.data import sources
from fast_electra.data.sources import Sources
from fast_electra.errors import DataError


def texts(paths, *arguments, **keywords):
    return [document.text for document in Sources(paths, *arguments, **keywords)]


def test_a_blank_line_or_the_end_ends_a_text_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n \t\n\n\nthree")
    assert texts([path]) == ["one\ntwo", "three"]


def test_a_file_of_code_is_a_document_with_its_blank_lines(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("x = 1\n\n\ny = 2\n")
    assert texts([path]) == ["x = 1\n\n\ny = 2\n"]
    assert texts([path], "text") == ["x = 1", "y = 2"]


def test_json_lines_plain_and_gzip(tmp_path):
    lines = "".join(json.dumps({"body": text}) + "\n\n" for text in ("a\n\nb", "ü"))
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert texts([tmp_path], text_field="body") == ["a\n\nb", "ü"] * 2


def test_folders_are_read_in_order_without_links_and_hidden_files_and_the_rest_is_counted(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b/2.txt", "b/1.txt", "a.md", "z.py", ".hidden/x.txt", "picture.png"):
        (tmp_path / name).write_text(name)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.md")
    found = Sources([tmp_path])
    assert [document.text for document in found] == ["a.md", "z.py", "b/1.txt", "b/2.txt"]
    assert (found.reading.files, found.reading.left_out_files) == (4, 3)
    assert [document.text for document in Sources([tmp_path], "code")] == ["z.py"]


def test_any_named_file_is_read(tmp_path):
    (tmp_path / "NOTES").write_text("hello")
    assert texts([tmp_path / "NOTES"]) == ["hello"]


def test_broken_utf8_is_replaced_and_counted_or_refused_by_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\nbad \xff\xfe\n\nworse \xff\n")
    found = Sources([path])
    assert [document.text for document in found] == ["good\nbad \ufffd\ufffd", "worse \ufffd"]
    assert found.reading.replaced_files == 1
    with pytest.raises(DataError, match=r"a\.txt, line 2: not UTF-8 .*data\.invalid_utf8=replace"):
        texts([path], invalid_utf8="refuse")


@pytest.mark.parametrize(
    ("line", "reason"),
    [("{", "not JSON"), ("[1]", "no string under 'text'"), ('{"text": 1}', "no string"), ("[" * 10**5, "not JSON")],
)
def test_a_broken_json_line_is_named(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(DataError, match=rf"a\.jsonl, line 3: {reason}"):
        texts([path])


def test_half_a_surrogate_pair_is_not_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(r'{"text": "a \ud800 b \ud83d\ude00"}')
    assert texts([path]) == ["a \ufffd b 😀"]
    with pytest.raises(DataError, match="surrogate"):
        texts([path], invalid_utf8="refuse")


def test_what_is_not_there_or_broken_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"nowhere \(data\.sources\) does not exist"):
        texts([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no file with a name to read"):
        texts([tmp_path])
    with pytest.raises(DataError, match=r"data\.sources is empty"):
        texts([])
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"hello " * 1000)[:-20])
    with pytest.raises(DataError, match=r"a\.txt\.gz can't be read"):
        texts([tmp_path])


def test_a_huge_document_is_cut_at_line_breaks_and_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST_DOCUMENT", 50)
    text = "a line of text\n" * 20 + "ü😀" * 60 + "\nend\n"  # one line is longer than a document
    (tmp_path / "a.txt").write_text(text)
    found = Sources([tmp_path / "a.txt"])
    documents = [document.text for document in found]
    assert "".join(documents) == text.removesuffix("\n")
    assert max(len(document.encode()) for document in documents) <= 50 * 4
    assert found.reading.cut_documents == len(documents) - 1 > 5
    assert found.reading.replaced_files == 0


def test_progress_counts_bytes_on_disk(tmp_path):
    (tmp_path / "a.txt").write_text("hello\n\n" * 100)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"hello " * 1000))
    found = Sources([tmp_path])
    list(found)
    on_disk, text = found.sizes()
    assert found.reading.bytes_read == on_disk < text
