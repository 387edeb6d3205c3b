import copy
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fast_electra.data import encoding, shard_building
from fast_electra.data.files import MANIFEST, canonical_digest
from fast_electra.data.settings import DataConfig, TokenizerConfig
from fast_electra.data.shard_building import build_shards, is_validation_text
from fast_electra.data.shards import open_shards
from fast_electra.data.sources import Document
from fast_electra.data.tokenizer import fingerprint, load_tokenizer
from fast_electra.data.tokenizer_training import train_tokenizer
from fast_electra.errors import DataError, ResourceError
from tests import tiny
from tests.cli.test_full_disk import largest_file

CONFIG = DataConfig(
    length=16,
    workers=1,
    validation_fraction=0.2,
    tokenizer=TokenizerConfig(vocabulary_size=300),
)
DOCUMENTS = [
    Document(f"Document {n} counts {n * n % 97} things, {'word ' * (n % 7)}[SEP].", f"d{n}") for n in range(200)
]
SEPARATOR = 3


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((document.text for document in DOCUMENTS), CONFIG.tokenizer, CONFIG.length)


def build_small_shards(documents, tokenizer, folder):
    """Several shards of a split: a shard ends with a chunk, so chunks must be small too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_building, "CHUNK", 1000)
        return build_shards(documents, tokenizer, folder, CONFIG, shard_tokens=500)


@pytest.fixture(scope="module")
def built(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("shards") / "made"
    return folder, build_small_shards(DOCUMENTS, tokenizer, folder)


@pytest.fixture
def folder(built, tmp_path):
    """A copy to damage."""
    import shutil

    return Path(shutil.copytree(built[0], tmp_path / "copy"))


def contents(folder, tokenizer, split):
    """Texts of a split, from its stream."""
    stream = open_shards(folder).split(split)
    tokens = stream.read(0, stream.tokens)
    ends = np.concatenate(list(stream.ends()))
    assert (tokens[ends - 1] == SEPARATOR).all()
    return [tokenizer.decode(part[:-1]) for part in np.split(tokens, ends)[:-1]]


def test_every_token_of_every_document_is_kept_in_order(built, tokenizer):
    expected = {"train": [], "validation": []}
    for document in DOCUMENTS:
        expected["validation" if is_validation_text(document.text, 0.2) else "train"].append(document.text)
    for split, texts in expected.items():
        assert contents(built[0], tokenizer, split) == texts
    assert 20 < len(expected["validation"]) < 60


def test_the_report_counts_everything(built):
    folder, report = built
    assert report.documents == 200
    assert report.dropped == {}
    opened = open_shards(folder)
    for name, split in report.splits.items():
        assert opened.split(name).tokens == split.tokens
        assert opened.split(name).documents == split.documents
    assert json.loads(json.dumps(report.to_json()))["timing"]["peak_memory_bytes"] > 0


def test_a_special_token_in_the_text_is_text(built, tokenizer):
    stream = open_shards(built[0]).split("train")
    tokens = stream.read(0, stream.tokens)
    assert (tokens == SEPARATOR).sum() == stream.documents
    assert not np.isin(tokens, [0, 1, 2, 4]).any()


def test_reading_crosses_shards(built):
    folder, _ = built
    assert (folder / "train-00002.bin").exists()
    stream = open_shards(folder).split("train")
    whole = stream.read(0, stream.tokens)
    for start in range(0, stream.tokens - 600, 97):
        assert (stream.read(start, start + 600) == whole[start : start + 600]).all()
    assert len(stream.read(5, 5)) == 0
    with pytest.raises(IndexError):
        stream.read(0, stream.tokens + 1)


def test_tokens_take_two_bytes_and_the_tokenizer_lies_beside_them(built, tokenizer):
    folder, _ = built
    opened = open_shards(folder)
    stream = np.fromfile(folder / "train-00000.bin", dtype="<u2")
    assert (opened.split("train").read(0, len(stream)) == stream).all()
    assert opened.tokenizer_fingerprint == fingerprint(load_tokenizer(folder / "tokenizer")) == fingerprint(tokenizer)
    assert (opened.vocabulary_size, opened.special_tokens["mask"]) == (300, 4)


def test_the_most_frequent_token_is_counted(built):
    opened = open_shards(built[0])
    stream = opened.split("train")
    counts = np.bincount(stream.read(0, stream.tokens))
    counts[SEPARATOR] = 0
    assert opened.most_frequent_token() == counts.argmax()


def test_the_number_of_processes_changes_no_byte(tokenizer, tmp_path):
    # Enough text for several chunks, one document longer than a chunk, and a few thousand tiny ones.
    long = Document("\n".join(f"line {n} of a long document" for n in range(60_000)), "long")
    documents = [*DOCUMENTS, long, *(Document(f"{n} tiny", "") for n in range(3000))]
    digests = set()
    for workers in (1, 2):
        config = CONFIG.model_copy(update={"workers": workers})
        build_shards(documents, tokenizer, tmp_path / str(workers), config, shard_tokens=100_000)
        digests.add(open_shards(tmp_path / str(workers)).fingerprint)
    assert len(digests) == 1


def test_little_text_starts_no_process(tokenizer, tmp_path, monkeypatch):
    monkeypatch.delattr(encoding, "worker_pool")
    report = build_shards(DOCUMENTS, tokenizer, tmp_path / "a", CONFIG.model_copy(update={"workers": 2}))
    assert {split.documents > 0 for split in report.splits.values()} == {True}


def test_duplicates_and_empty_documents_are_dropped_and_counted(tokenizer, tmp_path):
    documents = [*DOCUMENTS, Document(" \n", "e"), *DOCUMENTS[:3]]
    report = build_shards(documents, tokenizer, tmp_path / "a", CONFIG)
    assert report.dropped["empty"] == {"documents": 1, "bytes": 2}
    assert report.dropped["duplicate"]["documents"] == 3
    assert sum(split.documents for split in report.splits.values()) == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_unknown_tokens_are_counted_and_bounded(tmp_path, monkeypatch, workers):
    for module in (shard_building, encoding):
        monkeypatch.setattr(module, "CHUNK", 1000)  # several, so that there are processes
    known = tiny.word_tokenizer(["a", "b", "c"])
    config = CONFIG.model_copy(update={"workers": workers})
    few = [Document(f"{'a b c ' * 10}{'a' * (n + 2)} [UNK]", f"d{n}") for n in range(60)]
    report = build_shards(few, known, tmp_path / "few", config)
    assert report.unknown_tokens == 60 * 2  # "[UNK]" is text too
    assert report.unknown_share == 2 / 32
    assert "120 tokens (6.25%) are [UNK]" in report.losses()["unknown"]
    assert build_shards(few, known, tmp_path / "few", config).losses() == report.losses()  # told again
    many = [Document(f"{'a b c ' * 10}{f'd{n} ' * 4}", f"d{n}") for n in range(60)]
    with pytest.raises(DataError, match=r"^12% of the tokens would be \[UNK\].*leave data\.tokenizer\.path out"):
        build_shards(many, known, tmp_path / "many", config)
    assert not list(tmp_path.glob("many*"))


def test_a_separator_that_is_also_the_unknown_token_is_not_unknown_text(tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.unk_token = tokenizer.sep_token
    assert build_shards(DOCUMENTS, tokenizer, tmp_path / "a", CONFIG).unknown_tokens == 0


def bare_tokenizer(model):
    """A tokenizer whose settings name no unknown token."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


VOCABULARY = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc"])}


def test_text_that_a_tokenizer_leaves_out_is_counted_and_bounded(tmp_path):
    # BPE without bytes and without an unknown token has nothing for a character that it doesn't know.
    tokenizer = bare_tokenizer(models.BPE(VOCABULARY, []))
    few = [Document(f"{'abc ' * 20}{'a' * n} ü", f"d{n}") for n in range(60)]
    report = build_shards(few, tokenizer, tmp_path / "few", CONFIG)
    assert (report.lost_bytes, report.unknown_tokens) == (2 * 60, 0)
    assert report.losses() == {"lost": f"120 bytes ({120 / report.text_bytes:.2%}): text unknown to the tokenizer"}
    many = [Document(f"{'abc ' * n} แมวนั่ง", f"d{n}") for n in range(30)]
    with pytest.raises(DataError, match=r"does not know 2\d% of the text and would leave it out"):
        build_shards(many, tokenizer, tmp_path / "many", CONFIG)


def test_an_unknown_token_that_only_the_model_has_is_unknown_text_and_special(tmp_path):
    tokenizer = bare_tokenizer(models.BPE(VOCABULARY, [], unk_token="[UNK]"))
    few = [Document(f"{'abc ' * 20}{'a' * n} ü", f"d{n}") for n in range(60)]
    assert build_shards(few, tokenizer, tmp_path / "few", CONFIG).unknown_tokens == 60
    assert open_shards(tmp_path / "few").special_tokens["unk"] == VOCABULARY["[UNK]"]


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({token: number for token, number in VOCABULARY.items() if number != 1}),
        models.WordPiece({token: number for token, number in VOCABULARY.items() if number != 1}),
        models.Unigram([(token, -1.0) for token in VOCABULARY]),
    ],
)
def test_a_tokenizer_that_fails_on_unknown_text_is_one_sentence(tmp_path, model):
    with pytest.raises(DataError, match=r"the tokenizer can't encode the text \(.*give it a token for unknown text"):
        build_shards(DOCUMENTS, bare_tokenizer(model), tmp_path / "a", CONFIG)
    assert not list(tmp_path.iterdir())


def test_whole_sources_can_be_held_out(tokenizer, tmp_path):
    build_shards(iter(DOCUMENTS), tokenizer, tmp_path / "a", CONFIG, validation=lambda d: d.source in ("d3", "d5"))
    assert contents(tmp_path / "a", tokenizer, "validation") == [DOCUMENTS[3].text, DOCUMENTS[5].text]


def test_training_the_tokenizer_sees_no_validation_document(tmp_path):
    documents = [*DOCUMENTS, *(Document("zqxj" * 50 + str(n), "held out") for n in range(50))]
    build_shards(documents, None, tmp_path / "a", CONFIG, validation=lambda d: d.source == "held out")
    vocabulary = load_tokenizer(tmp_path / "a" / "tokenizer").get_vocab()
    assert "zq" not in vocabulary
    assert len(vocabulary) == 300


def test_a_tokenizers_sample_is_of_the_whole_corpus_whatever_its_order(tmp_path):
    draw = random.Random(0)
    latin, cyrillic = ["".join(map(chr, range(ord(a), ord(a) + 26))) for a in "aа"]

    def words(letters, count):
        return " ".join("".join(draw.choices(letters, k=3)) * 2 for _ in range(count))

    # One large document among small ones; the last in the order of names is of another script.
    texts = [words(latin, 20_000), *(words(latin, 200) for _ in range(50)), words(cyrillic, 4_000)]
    found = []
    for name, order in (("forward", texts), ("backward", texts[::-1])):
        folder = tmp_path / name
        folder.mkdir()
        for number, text in enumerate(order):
            (folder / f"{number:03}.txt").write_text(text)
        config = CONFIG.model_copy(update={"sources": [folder], "tokenizer": TokenizerConfig(vocabulary_size=500)})
        build_shards(None, None, tmp_path / f"{name}-shards", config, tokenizer_sample=60_000)
        found.append(load_tokenizer(tmp_path / f"{name}-shards" / "tokenizer"))
    assert fingerprint(found[0]) == fingerprint(found[1])
    tokens = [found[0].decode([number]) for number in range(261, 500)]
    shares = [sum(any(c in letters for c in token) for token in tokens) / len(tokens) for letters in (latin, cyrillic)]
    assert min(shares) > 0.1


def test_building_again_says_it_is_there_and_changes_nothing(built, tokenizer):
    folder, report = built
    before = (folder / MANIFEST).stat().st_mtime_ns
    again = build_shards(DOCUMENTS, tokenizer, folder, CONFIG.model_copy(update={"workers": 2}))
    assert again.existed
    assert again.splits == report.splits
    assert (folder / MANIFEST).stat().st_mtime_ns == before


def test_other_text_or_settings_in_a_finished_folder_are_refused_with_what_differs(built, tokenizer):
    folder, _ = built
    with pytest.raises(DataError, match="the text has changed"):
        build_shards(DOCUMENTS[1:], tokenizer, folder, CONFIG)
    with pytest.raises(DataError, match=r"data\.validation_fraction is 0\.2 there and 0\.3 here"):
        build_shards(DOCUMENTS, tokenizer, folder, CONFIG.model_copy(update={"validation_fraction": 0.3}))
    with pytest.raises(DataError, match=r"data\.tokenizer\.vocabulary_size is None there and 300 here"):
        build_shards(DOCUMENTS, None, folder, CONFIG)


def test_a_folder_with_other_things_is_refused(tokenizer, tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(DataError, match="holds something that is not token shards"):
        build_shards(DOCUMENTS, tokenizer, tmp_path, CONFIG)


@pytest.mark.parametrize("name", ["train-00001.bin", "train-00001.ends.bin", "tokenizer/tokenizer.json", MANIFEST])
def test_a_flipped_byte_is_found_and_the_remedy_named(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} is damaged.*data build` again"):
        open_shards(folder)


def test_a_shard_cut_short_or_missing_is_found_even_without_verifying(folder):
    path = folder / "validation-00000.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-2])
    with pytest.raises(DataError, match=r"validation-00000\.bin has [\d,]+ bytes instead of"):
        open_shards(folder, verify=False)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        open_shards(folder, verify=False)


def test_no_shards_at_all_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="nowhere holds no token shards"):
        open_shards(tmp_path / "nowhere")


@pytest.mark.parametrize("change", [{"file": "../outside.bin"}, {"tokens": 10**9}, {"documents": 7}])
def test_a_manifest_that_contradicts_itself_is_refused(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["digest"]
    manifest["splits"]["train"][0] |= change
    (folder / MANIFEST).write_text(json.dumps({**manifest, "digest": canonical_digest(manifest)}))
    with pytest.raises(DataError, match="contradicts itself"):
        open_shards(folder)


def test_the_fingerprint_is_of_the_tokens_not_of_the_build(tokenizer, built, tmp_path):
    folder, _ = built
    build_small_shards(DOCUMENTS, tokenizer, tmp_path / "same")
    build_small_shards(DOCUMENTS[1:], tokenizer, tmp_path / "other")
    assert open_shards(tmp_path / "same").fingerprint == open_shards(folder).fingerprint
    assert open_shards(tmp_path / "other").fingerprint != open_shards(folder).fingerprint


def test_empty_and_too_small_corpora_are_one_sentence_and_leave_nothing(tokenizer, tmp_path):
    with pytest.raises(DataError, match="the corpus is empty"):
        build_shards([Document(" ", "")], tokenizer, tmp_path / "a", CONFIG)
    with pytest.raises(DataError, match="single document"):
        build_shards(DOCUMENTS[:1], tokenizer, tmp_path / "a", CONFIG)
    with pytest.raises(DataError, match="no document is left for validation"):
        build_shards(DOCUMENTS, tokenizer, tmp_path / "a", CONFIG, validation=lambda _: False)
    small = CONFIG.model_copy(update={"validation_fraction": 0.0001})
    with pytest.raises(DataError, match=r"set data\.validation_fraction=[\d.]+ or more") as caught:
        build_shards(DOCUMENTS, tokenizer, tmp_path / "a", small)
    assert list(tmp_path.iterdir()) == []
    advised = float(str(caught.value).split("data.validation_fraction=")[2].split()[0])
    build_shards(DOCUMENTS, tokenizer, tmp_path / "a", CONFIG.model_copy(update={"validation_fraction": advised}))


def test_a_disk_that_fills_leaves_nothing_behind(tokenizer, tmp_path):
    for limit in (1_000, 100_000):  # in the tokenizer's file, in a shard
        documents = (Document(f"document {n}" * 10, "") for n in range(5_000))
        message = r"shards can't be written: file too large; free space"
        with largest_file(limit), pytest.raises(ResourceError, match=message):
            build_shards(documents, tokenizer, tmp_path / "shards", CONFIG)
    assert not list(tmp_path.iterdir())


def test_thousands_of_tiny_files_cost_no_more_than_a_large_one(tokenizer, tmp_path):
    lines = [f"line {n} has {n % 89} words and {'some more ' * 20}" for n in range(2000)]
    (tmp_path / "many").mkdir()
    for number, line in enumerate(lines):
        (tmp_path / "many" / f"{number:05d}.txt").write_text(line)
    (tmp_path / "one.txt").write_text("\n\n".join(lines))
    seconds = {}
    for name in ("one.txt", "many"):
        began = time.process_time()
        config = CONFIG.model_copy(update={"sources": [tmp_path / name]})
        report = build_shards(None, tokenizer, tmp_path / f"shards of {name}", config)
        seconds[name] = time.process_time() - began
        assert report.documents == 2000
    fingerprints = {open_shards(tmp_path / f"shards of {name}").fingerprint for name in seconds}
    assert len(fingerprints) == 1
    # Opening a file costs about 50 µs, tokenising its 220 bytes as much; 3 leaves room for a busy machine.
    assert seconds["many"] < 3 * seconds["one.txt"] + 0.2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    program = """
import sys
from pathlib import Path
from fast_electra.data.settings import DataConfig, TokenizerConfig
from fast_electra.data.shard_building import build_shards
if __name__ == "__main__":
    config = DataConfig(sources=[Path(sys.argv[1])], workers=2, tokenizer=TokenizerConfig(vocabulary_size=1000))
    report = build_shards(None, None, Path(sys.argv[2]), config, tokenizer_sample=2_000_000)
    print(report.peak_memory_bytes)
"""
    draw = random.Random(0)
    words = ["".join(draw.choices(["ka", "to", "mi", "re", "su", "no", "pel", "dri"], k=4)) for _ in range(3000)]
    peaks = []
    for copies in (1, 4):
        path = tmp_path / f"{copies}.txt"
        with open(path, "w") as file:
            for _ in range(copies * 8_000):
                file.write(" ".join(draw.choices(words, k=100)) + "\n\n")
        command = [sys.executable, "-c", program, path, tmp_path / f"shards {copies}"]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < 1.15 * peaks[0]
