"""Weights that people have on disk and that cannot be used as they are: each gets one sentence with a way out."""

import json
import shlex

import pytest
import torch
from safetensors.torch import load_file, save_file

from fast_electra.errors import ModelError
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.classifier import load_encoder
from fast_electra.models.loading import continue_model, load_model
from fast_electra.models.shapes import ModelConfig
from tests.tiny import SPECIAL

SHAPE = {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 48}
LOADERS = [lambda f: load_model(f, "mlm"), lambda f: continue_model(f, "mlm", 0, 0.0), load_encoder]


@pytest.fixture
def folder(tmp_path):
    shape = transformers_config(ModelConfig(architecture="bert", **SHAPE), 320, SPECIAL, 32)
    build_model(shape, "mlm", 0).save_pretrained(tmp_path)
    return tmp_path


def sentence(loader, folder) -> str:
    with pytest.raises(ModelError) as error:
        loader(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_git_lfs_pointer_says_git_lfs_pull(loader, folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 105808\n"
    (folder / "model.safetensors").write_text(pointer)
    assert "model.safetensors is a Git LFS pointer, not the weights: run `git lfs pull`" in sentence(loader, folder)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_file_that_was_cut_off_is_to_be_fetched_again(loader, kept, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert "fetch or export it again" in sentence(loader, folder)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_forward_module.model."])
def test_names_of_a_wrapper_are_taken_off_by_the_command_that_the_sentence_names(loader, prefix, folder):
    weights = folder / "model.safetensors"
    save_file({prefix + name: value for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    said = sentence(loader, folder)
    assert f"the names of its weights begin with {prefix}, since the model was saved inside a wrapper" in said
    python, option, code = shlex.split(said.partition("remove the prefix by ")[2].removesuffix("."))
    assert (python, option) == ("python", "-c")
    exec(code, {})
    loader(folder)


@pytest.mark.parametrize("loader", LOADERS)
def test_layers_that_the_configuration_does_not_know_are_not_dropped_without_a_word(loader, folder):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 1}))
    said = sentence(loader, folder)
    assert "has weights of more layers than its config.json says (" in said
    assert "encoder.layer.1.attention.output.LayerNorm.bias and 15 more)" in said


@pytest.mark.parametrize("loader", LOADERS)
def test_layers_without_weights_are_no_whole_encoder(loader, folder):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 3}))
    assert "its encoder is not a whole bert; give another checkpoint" in sentence(loader, folder)


def test_an_adapter_alone_says_how_to_merge_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    for loader in LOADERS:
        assert "holds only a PEFT adapter: merge it into its base model (merge_and_unload)" in sentence(
            loader, tmp_path
        )


# --- Folders that were made to do harm --------------------------------------------------------------------------------


def sharded(folder, **names) -> None:
    """Give a folder an index of shards, which names files for the tensors; the weights are in `a.safetensors`."""
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    files = {name: "a.safetensors" for name in load_file(folder / "a.safetensors")}
    files |= dict(zip(files, names.get("first", ()), strict=False))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.mark.parametrize("loader", LOADERS)
def test_an_index_of_shards_inside_of_the_folder_is_read(loader, folder):
    sharded(folder)
    loader(folder)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("w.bin", "names w.bin, which is no safetensors file: only such weights are read"),
        ("../x/a.safetensors", "names '../x/a.safetensors', which is not a file inside its folder"),
        ("/x/a.safetensors", "names '/x/a.safetensors', which is not a file inside its folder"),
        ("C:\\a.safetensors", "which is not a file inside its folder"),
        ("", "which is no safetensors file"),
        ("link.safetensors", "names link.safetensors, a link that leads out of the folder: put the file itself there"),
        ("b.safetensors", "b.safetensors is missing, which model.safetensors.index.json names"),
    ],
)
def test_an_index_of_shards_names_only_safetensors_files_inside_of_the_folder(loader, name, said, folder, tmp_path):
    other = tmp_path / "x"
    other.mkdir()
    torch.save({"x": Unpickled()}, folder / "w.bin")
    save_file({"x": torch.ones(1)}, other / "a.safetensors")
    (folder / "link.safetensors").symlink_to(other / "a.safetensors")
    sharded(folder, first=[name])
    assert said in sentence(loader, folder)
    assert not Unpickled.happened


class Unpickled:
    """Says that it was unpickled."""

    happened = False

    def __reduce__(self):
        return setattr, (Unpickled, "happened", True)


def test_the_links_of_the_hubs_cache_are_read(folder, tmp_path):
    sharded(folder)
    snapshot = tmp_path / "models--x" / "snapshots" / "abc"
    blobs = tmp_path / "models--x" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, name in enumerate(("a.safetensors", "config.json", "model.safetensors.index.json")):
        (folder / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    load_encoder(snapshot)


NOT_AN_INDEX = ["", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}']


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    "content",
    [*NOT_AN_INDEX, "[" * 9999, json.dumps({"weight_map": {"a": f"{'é' * 200}.safetensors"}})],
    ids=range(7),
)
def test_a_damaged_index_is_named(loader, content, folder):
    sharded(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json is damaged: fetch or export it again." in sentence(loader, folder)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("offsets", ["", [], [0], None, {}, 5])
def test_a_damaged_header_of_weights_is_named(loader, offsets, folder):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": offsets}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert "model.safetensors is not a complete safetensors file: fetch or export it again." in sentence(loader, folder)


def test_the_index_of_a_model_on_the_hub_is_checked_too(folder, monkeypatch):
    sharded(folder, first=["w.bin"])
    index = str(folder / "model.safetensors.index.json")
    monkeypatch.setattr("fast_electra.models.folder_checks.cached_file", lambda *_, **__: index)
    assert "names w.bin, which is no safetensors file" in sentence(load_encoder, "somebody/model")


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 10**9}, "config.json says vocab_size is 1,000,000,000, and its weights are for at most 320"),
        ({"hidden_size": 10**12}, "config.json says hidden_size is 1,000,000,000,000, and"),
        ({"num_hidden_layers": 10**30}, "config.json says num_hidden_layers is a number of more than 18 digits, and"),
        ({"vocab_size": "x"}, "config.json cannot be used (StrictDataclass"),
        ({"vocab_size": -512}, ""),
        ({"num_attention_heads": 0}, ""),
        ({"hidden_act": "gelo"}, ""),
        ({"layer_norm_eps": "x"}, "config.json cannot be used (StrictDataclass"),
        ({"layer_norm_eps": float("nan")}, "config.json says layer_norm_eps is nan: correct it, or fetch"),
        ({"model_type": "no such"}, "config.json cannot be used ("),
        ({"model_type": 5}, "config.json cannot be used ("),
        ({"pad_token_id": 10**6}, ""),
        ({"dtype": "no such"}, ""),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            "is quantised (quantization_config in its config.json), and such weights are not read: take the model",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_one_sentence_with_its_folder(loader, changes, said, folder):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    found = sentence(loader, folder)
    assert str(folder) in found
    assert said in found


@pytest.mark.parametrize("key", ["auto_map", "transformers_weights", "_attn_implementation_internal"])
def test_keys_that_could_choose_code_or_files_are_dropped(key, folder, tmp_path):
    file = folder / "config.json"
    value = {"AutoModel": "code.Model", "AutoConfig": "code.Config"} if key == "auto_map" else "../../other"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    try:
        load_encoder(folder)
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
    assert not (tmp_path / "ran").exists()


def test_an_adapter_beside_a_model_is_refused_whatever_is_installed(folder):
    (folder / "adapter_config.json").write_text("{}")
    assert "holds a PEFT adapter beside a model" in sentence(load_encoder, folder)


def test_weights_that_need_unpickling_are_refused_with_a_way_out(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"x": Unpickled()}, folder / "pytorch_model.bin")
    for loader in LOADERS:
        said = sentence(loader, folder)
        assert "no *.safetensors file, only pytorch_model.bin: only safetensors weights are read" in said
    assert not Unpickled.happened
