"""Weights that people have on disk and that cannot be used as they are: each gets one sentence with a way out."""

import json
import shlex

import pytest
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
