"""Exports for ONNX and sentence-transformers give what the model gives; a card says what its owner says."""

import importlib.util
import json
import re
import shlex

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer, ElectraForPreTraining

from fast_electra.cli.main import main
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.publishing import formats
from tests import tiny

TEXTS = ["value = total + count", "index = left * right - items + 12", "name"]


def needs(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


def code_of(card, folder):
    """What the card's first block of Python defines."""
    block = card.partition("```python\n")[2].partition("```")[0].replace("FOLDER", str(folder))
    found: dict = {}
    exec(block, found)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory, shards, auxiliary):
    folder = tmp_path_factory.mktemp("run") / "main"
    pretrain(tiny.settings(shards, "fast_electra", auxiliary, training__updates=4), folder)
    return folder


@needs(*formats._PACKAGES["onnx"])
@pytest.mark.parametrize("architecture", ["modernbert", "electra", "bert", "roberta", "deberta-v2"])
def test_an_onnx_export_gives_the_logits_and_states_of_the_model(architecture, tmp_path, shards, auxiliary):
    import onnxruntime

    settings = tiny.settings(shards, "fast_electra", auxiliary, main__architecture=architecture, training__updates=2)
    pretrain(settings, tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "onnx"), "--to", "onnx"]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "onnx")
    inputs = tokenizer(TEXTS, padding=True, return_tensors="np")
    given = {name: inputs[name].astype("int64") for name in ("input_ids", "attention_mask")}
    logits, states = session.run(None, given)
    folder = tmp_path / "run" / "model"
    head = ElectraForPreTraining if architecture == "electra" else AutoModelForTokenClassification
    kept = given["attention_mask"].astype(bool)
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value) for name, value in given.items()}
        wanted = head.from_pretrained(folder)(**tensors).logits.numpy()
        encoded = AutoModel.from_pretrained(folder)(**tensors).last_hidden_state.numpy()
    np.testing.assert_allclose(logits[kept], wanted[kept], atol=1e-4)
    np.testing.assert_allclose(states[kept], encoded[kept], atol=1e-4)
    made = code_of((tmp_path / "onnx" / "README.md").read_text(), tmp_path / "onnx")
    assert made["states"].shape[-1] == encoded.shape[-1]


@needs(*formats._PACKAGES["onnx"])
def test_an_onnx_file_that_gives_other_numbers_is_refused_and_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(formats, "_APART", 0.0)  # rounding alone is too much
    assert main(["export", str(run), str(tmp_path / "onnx"), "--to", "onnx"]) == 2
    assert "the ONNX model differs from PyTorch's by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@needs(*formats._PACKAGES["sentence-transformers"])
def test_a_sentence_transformers_export_gives_the_mean_of_the_states(run, tmp_path):
    out = tmp_path / "vectors"
    assert main(["export", str(run), str(out), "--to", "sentence-transformers"]) == 0
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(str(out), device="cpu").encode(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    encoder = AutoModel.from_pretrained(run / "model")
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            mean = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)
    card = (out / "README.md").read_text()
    assert ModelCard(card).data.library_name == "sentence-transformers"
    assert code_of(card, out)["vectors"].shape == (2, 32)


@needs(*formats._PACKAGES["sentence-transformers"], "datasets", "accelerate")
def test_the_code_of_the_page_runs_as_it_is_written(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "main").symlink_to(run)
    page = (tiny.ROOT / "docs" / "use.md").read_text()
    for block in re.findall(r"```(?:sh|python)\n(.*?)```", page, re.DOTALL):
        if not block.startswith("fast-electra"):
            exec(block, {})
        elif "--push" not in block:
            assert main(shlex.split(block)[1:]) == 0
    assert (tmp_path / "fine-tuned" / "modules.json").exists()


@pytest.mark.parametrize("to", formats._PACKAGES)
def test_a_missing_package_is_named_with_its_extra(run, to, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert main(["export", str(run), str(tmp_path / "out"), "--to", to]) == 2
    assert f"run `pip install 'fast-electra[{to}]'`" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [["--checkpoint", "all"], ["--no-auxiliary"]])
def test_options_of_several_models_are_refused_with_another_format(run, wrong, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path / "out"), "--to", "onnx", *wrong]) == 2
    assert f"leave {' '.join(wrong)} out" in capsys.readouterr().err


def test_a_card_has_licence_language_and_data_and_keeps_its_text(run, tmp_path):
    out = tmp_path / "out"
    named = ["--license", "apache-2.0", "--language", "de", "--language", "en", "--datasets", "me/texts"]
    assert main(["export", str(run), str(out), *named]) == 0
    for folder in (out, out / "auxiliary"):
        card = ModelCard.load(folder / "README.md")
        assert (card.data.license, card.data.language, card.data.datasets) == ("apache-2.0", ["de", "en"], ["me/texts"])
        assert "fast-electra" in card.data.tags
    plain = (run / "model" / "README.md").read_text()
    assert plain.partition("\n# ")[2] in (out / "README.md").read_text()
    assert "area under the ROC curve" in plain
    assert "@inproceedings{dong2024fastelectra" in plain
    assert "base_model" not in plain


def test_an_uploaded_card_loads_the_model_by_its_name(run, tmp_path, monkeypatch):
    repository = type("Repository", (str,), {"repo_id": "me/encoder"})("https://hub/me/encoder")
    uploaded = {}

    def upload(*_, folder_path, **__):
        uploaded["card"] = (folder_path / "README.md").read_text()

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: repository)
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: type("Info", (), {"private": True}))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert main(["export", str(run), str(tmp_path / "out"), "--push", "me/encoder"]) == 0
    assert 'model="me/encoder")' in uploaded["card"]
    assert "FOLDER" not in uploaded["card"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "modernbert"
