"""Data sets of Hugging Face, made here: read from the hub's address, pinned, and from folders that were saved."""

import json
import sys

import pyarrow
import pytest
from pyarrow import ipc

from fast_electra.config import load_config
from fast_electra.data.hub import HubDataset, pinned_sources
from fast_electra.data.settings import DataConfig
from fast_electra.data.sources import Sources
from fast_electra.errors import ConfigError, DataError

TEXTS = [f"row {number},\nnaïve" for number in range(600)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def texts(*sources, **keywords):
    return [document.text for document in Sources(sources, **keywords)]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://a/b/c:train", HubDataset("a/b", "c", "train")),
        ("hf://imdb/default:test", HubDataset("imdb", "default", "test")),
        (f"hf://a/b@{COMMIT}/c:train[:10%]", HubDataset("a/b", "c", "train[:10%]", COMMIT)),
        ("hf:///tmp/x/default:train", HubDataset("/tmp/x", "default", "train")),
    ],
)
def test_an_address_names_data_set_revision_configuration_and_split(address, expected):
    assert HubDataset.at(address) == expected
    assert str(expected) == address


@pytest.mark.parametrize("address", ["hf://a", "hf://a/b", "hf://a:train", "hf://", "hf:///:train"])
def test_an_incomplete_address_says_what_it_should_be(address):
    with pytest.raises(DataError, match="is no address of a data set: write hf://NAME/CONFIG:SPLIT"):
        HubDataset.at(address)


# --- Folders that were saved, without `datasets` ----------------------------------------------------------------------


def save(folder, files, **state):
    folder.mkdir(parents=True)
    for name, part in files.items():
        table = pyarrow.table({"text": part, "label": [0] * len(part)})
        with ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table)
    (folder / "dataset_info.json").write_text("{}")
    state = {"_data_files": [{"filename": name} for name in files], **state}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_saved_folder_is_read_in_its_order_without_the_files_of_caches(tmp_path):
    folder = save(tmp_path / "saved", {"data-1.arrow": TEXTS[:300], "data-0.arrow": TEXTS[300:]})
    (folder / "cache-1.arrow").write_bytes((folder / "data-1.arrow").read_bytes())
    assert texts(folder) == texts(tmp_path) == TEXTS
    found = Sources([folder])
    list(found)
    assert found.reading.bytes_read == found.sizes()[0]
    assert found.reading.left_out_files == 0


def test_a_saved_folder_of_splits_asks_for_one(tmp_path):
    save(tmp_path / "saved" / "test", {"data.arrow": TEXTS})
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    with pytest.raises(DataError, match=r"saved \(data\.sources\) is a data set with splits: .*such as .*saved/test"):
        texts(tmp_path)
    assert texts(tmp_path / "saved" / "test") == TEXTS


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"_data_files": [{"filename": "../other.arrow"}]}, r"has no other\.arrow"),
        ({"_data_files": []}, "holds no rows"),
        ({"_data_files": 3}, r"state\.json is damaged"),
        ({"_indices_data_files": [{"filename": "indices.arrow"}]}, "is a choice of rows"),
    ],
)
def test_a_saved_folder_that_is_incomplete_is_refused(tmp_path, state, sentence):
    save(tmp_path / "saved", {"data.arrow": TEXTS}, **state)
    save(tmp_path / "other", {"other.arrow": TEXTS})
    with pytest.raises(DataError, match=sentence):
        texts(tmp_path / "saved")


def test_sources_are_pinned_to_the_revisions_that_were_read():
    read = [f"hf://a/b@{COMMIT}/c:train", "texts", f"hf://a/b@{COMMIT}/c:test"]
    given = ["hf://a/b/c:train", "texts", {"path": "hf://a/b/c:test", "weight": 2.0}]
    assert pinned_sources(given, read) == [read[0], "texts", {"path": read[2], "weight": 2.0}]
    assert pinned_sources(["hf://a/b@main/c:train"], read) == [read[0]]
    others = ["hf://a/other/c:train", "hf://a/b/c:train", "hf://a/b/c:train", "hf://a/b/c:test"]
    assert pinned_sources(others, read) == others


# --- With `datasets` --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A local folder of data files, which `datasets` reads as it reads those of the hub."""
    folder = tmp_path_factory.mktemp("data") / "mine"
    folder.mkdir()
    rows = ({"text": text, "meta": {"title": "x"}} for text in TEXTS)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text(json.dumps({"text": "held out", "meta": {"title": "y"}}) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch, request):
    if "dataset" in request.fixturenames:  # the others do not import the library, which takes seconds
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_is_read_streamed_or_not(dataset, streaming):
    source = {"path": f"hf://{dataset}/default:train", "streaming": streaming}
    assert texts(source) == TEXTS
    assert texts(source, text_field="meta.title") == ["x"] * 600
    with pytest.raises(DataError, match=r"hf://.*/default:train has no column of text 'body' \(.*'text', 'meta.title'"):
        texts(source, text_field="body")
    if streaming:
        with pytest.raises(DataError, match=r"does not say its size.*data\.tokenizer\.path, or leave streaming out"):
            Sources([source]).sizes()
    else:
        assert Sources([source]).sizes()[1] == pytest.approx(sum(len(text.encode()) for text in TEXTS), rel=0.3)


def test_what_save_to_disk_writes_is_read(dataset, tmp_path):
    from datasets import load_dataset

    made = load_dataset(str(dataset))
    made["train"].select([3, 1, 2]).save_to_disk(tmp_path / "chosen")
    assert texts(tmp_path / "chosen") == [TEXTS[3], TEXTS[1], TEXTS[2]]
    made.save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match=r"name the one to read \(test, train\)"):
        texts(tmp_path / "both")
    assert texts(tmp_path / "both" / "train") == TEXTS


@pytest.mark.parametrize("address", ["nowhere/default:train", "{}/default:dev", "{}/other:train"])
def test_what_is_not_there_is_one_sentence(dataset, address):
    with pytest.raises(DataError, match=r"^hf://\S+ can't be read \(.*\); correct data\.sources, or try again\.$"):
        texts("hf://" + address.format(dataset))


def test_a_data_set_with_a_script_is_refused_and_its_code_is_not_run(dataset, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match="scripts are no longer supported"):
        texts(f"hf://{folder}/default:train")
    assert not (tmp_path / "ran").exists()


def test_a_data_set_of_the_hub_is_pinned_to_the_revision_that_is_found(dataset, monkeypatch):
    import datasets

    asked = []
    load = datasets.load_dataset

    class Builder:
        hash = COMMIT

    def builder(name, config, revision):
        asked.append(("builder", name, config, revision))
        return Builder

    def opened(name, config, split, revision, streaming):
        asked.append(("data", name, config, revision))
        return load(str(dataset), config, split=split, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr(datasets, "load_dataset", opened)
    found = Sources(["hf://a/b/default:train"])
    assert [str(place) for place in found.places] == [f"hf://a/b@{COMMIT}/default:train"]
    assert len(list(found)) == len(list(found)) == 600
    assert asked == [("builder", "a/b", "default", None), ("data", "a/b", "default", COMMIT)]
    assert Sources([str(found.places[0])]).places == found.places
    assert len(asked) == 2  # a pinned address asks nothing


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        texts("hf://a/b/default:train")


# --- Settings ---------------------------------------------------------------------------------------------------------


def test_entries_are_paths_or_mappings(tmp_path):
    found = load_config("modern-small", ["data.sources=[a, {path: 'hf://b/c:train', streaming: true}]"]).data.sources
    assert found == ["a", {"path": "hf://b/c:train", "streaming": True}]
    assert DataConfig(sources=[tmp_path]).sources == [str(tmp_path)]
    for entry, sentence in (
        ("{file: a}", "an entry has no file; its keys are path"),
        ("{streaming: true}", "an entry needs a path"),
        ("{path: a, streaming: 1}", "streaming must be true or false"),
    ):
        with pytest.raises(ConfigError, match=f"data.sources: {sentence}"):
            load_config("modern-small", [f"data.sources=[{entry}]"])
