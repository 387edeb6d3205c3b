"""What a run exports says how long a text it takes, and claims no pipeline that would draw a head at random."""

import errno
import os

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, pipeline

from fast_electra.cli.main import main
from fast_electra.models.classifier import save_classifier
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.publishing.export import export_run
from tests import tiny

LONG = "value = total + count " * 30


def run(folder, shards, architecture, **changes):
    config = tiny.settings(shards, "mlm", main__architecture=architecture, training__updates=2, **changes)
    pretrain(config, folder)
    return folder / "model"


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("length", [16, 64])  # the shards' tokenizer says 32
def test_the_exported_tokenizer_has_the_length_of_the_model_and_the_snippet_runs(
    architecture, length, tmp_path, shards
):
    folder = run(tmp_path / "run", shards, architecture, data__length=length)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.model_max_length == length
    assert len(tokenizer(LONG, truncation=True)["input_ids"]) == length
    classifier = AutoModelForTokenClassification.from_pretrained(folder)
    assert len(pipeline("token-classification", model=classifier, tokenizer=tokenizer)(LONG)) <= length
    export_run(tmp_path / "run", tmp_path / "step", checkpoint=2, auxiliary=False)
    assert AutoTokenizer.from_pretrained(tmp_path / "step").model_max_length == length
    card = (folder / "README.md").read_text()
    assert f"| longest text | {length} tokens, as in training; " in card
    ends = f"its table of positions ends at {length}"
    assert (ends in card) == (architecture != "modernbert")
    assert ("it also reads longer texts" in card) == (architecture == "modernbert")


def test_a_continued_model_keeps_the_length_that_it_had_before(tmp_path, shards):
    before = run(tmp_path / "long", shards, "bert", data__length=64)
    after = run(tmp_path / "short", shards, "bert", data__length=16, main__model=str(before))
    assert AutoConfig.from_pretrained(after).max_position_embeddings == 64
    # The shards' tokenizer says 32, and 64 is not more than the table has.
    assert 32 <= AutoTokenizer.from_pretrained(after).model_max_length <= 64


def test_a_fine_tuned_model_of_a_tokenizer_without_a_length_says_what_its_table_takes(tmp_path, shards, tokenizer):
    folder = run(tmp_path / "run", shards, "roberta", data__length=16)
    endless = AutoTokenizer.from_pretrained(folder, model_max_length=10**30)
    save_classifier(AutoModelForTokenClassification.from_pretrained(folder), endless, tmp_path / "tuned")
    assert AutoTokenizer.from_pretrained(tmp_path / "tuned").model_max_length == 16
    assert endless.model_max_length == 10**30


def test_an_export_that_cannot_be_compared_since_nothing_can_be_written_is_one_sentence(
    tmp_path, auxiliary, monkeypatch, capsys
):
    words = ["export", str(auxiliary), str(tmp_path / "out")]
    assert main(words) == 0

    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / "tmp123"))

    monkeypatch.setattr("fast_electra.publishing.export.tempfile.TemporaryDirectory", refuse)
    assert main(words) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {tmp_path} can't be written: read-only file system; ")


@pytest.mark.parametrize("architecture", ["electra", "modernbert"])
def test_a_card_claims_token_classification_only_where_that_head_is_there(architecture, tmp_path, shards, auxiliary):
    config = tiny.settings(shards, "fast_electra", auxiliary, main__architecture=architecture, training__updates=2)
    pretrain(config, tmp_path / "run")
    folder = tmp_path / "run" / "model"
    card = (folder / "README.md").read_text()
    assert ("pipeline_tag: token-classification" in card) == (architecture == "modernbert")
    names = set(AutoConfig.from_pretrained(folder).id2label.values())
    assert (names == {"original", "replaced"}) == (architecture == "modernbert")
    code = card.partition("```python\n")[2].partition("```")[0].replace("FOLDER", str(folder))
    found: dict = {}
    exec(code, found)
    if architecture == "electra":
        assert torch.isfinite(found["replaced"]).all()
        assert "its head for ELECTRA is another one, with random weights" in code


def test_every_part_of_a_run_is_wrapped_on_its_device(tmp_path, shards, auxiliary, monkeypatch):
    """Tied embeddings took a part of the generator to a GPU before the rest of it, and its check failed there."""
    from fast_electra.models import masked_lm, rtd
    from fast_electra.training import assembly
    from fast_electra.training.precision import Execution
    from tests.golden import GENERATOR

    seen = []
    for module in (masked_lm, rtd):
        monkeypatch.setattr(module, "refuse_leaks", lambda model: seen.append({p.device for p in model.parameters()}))
    meta = Execution(torch.device("meta"), "float32", torch.float32, 1)
    for kind, changes in (("mlm", {}), ("electra", {"objective__generator": GENERATOR})):
        config = tiny.settings(shards, kind, data__attention="document", **changes)
        assembly.assemble(config, meta)
    assert seen == [{meta.device}] * 3


def test_a_link_in_the_place_of_a_runs_model_is_replaced_and_what_it_leads_to_stays(tmp_path, shards):
    config = tiny.settings(shards, training__updates=2)
    pretrain(config, tmp_path / "run")
    model = tmp_path / "run" / "model"
    elsewhere = model.rename(tmp_path / "elsewhere")
    before = (elsewhere / "model.safetensors").read_bytes()
    for target in (elsewhere, tmp_path / "nowhere"):
        model.symlink_to(target)
        updates = 3 if target == elsewhere else 4
        pretrain(config, tmp_path / "run", extend=updates)
        assert not model.is_symlink()
        assert (elsewhere / "model.safetensors").read_bytes() == before
        assert (model / "model.safetensors").read_bytes() != before
        if target == elsewhere:
            for file in model.iterdir():
                file.unlink()
            model.rmdir()


class Hub:
    """A hub in memory: {revision: {path: content}}; it knows what an upload leaves out and removes."""

    def __init__(self, monkeypatch):
        self.files, self.fails = {"main": {}}, []
        repository = type("Repository", (str,), {"repo_id": "me/encoder"})("https://hub/me/encoder")
        monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: repository)
        monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: type("Info", (), {"private": True}))
        for name in ("upload_folder", "upload_file", "create_branch"):
            monkeypatch.setattr(HfApi, name, lambda _, *words, name=name, **named: getattr(self, name)(*words, **named))

    def upload_folder(
        self, folder_path, repo_id, commit_message, revision="main", ignore_patterns=(), delete_patterns=()
    ):
        if revision in self.fails:
            raise OSError("the connection was lost")
        files = {str(f.relative_to(folder_path)): f.read_bytes() for f in folder_path.rglob("*") if f.is_file()}
        kept = list(filter_repo_objects(files, ignore_patterns=list(ignore_patterns) or None))
        if delete_patterns:
            self.files[revision].clear()
        self.files[revision] |= {name: files[name] for name in kept}

    def upload_file(self, path_or_fileobj, path_in_repo, repo_id):
        self.files["main"][path_in_repo] = path_or_fileobj

    def create_branch(self, repo_id, branch, exist_ok):
        assert exist_ok or branch not in self.files
        self.files.setdefault(branch, dict(self.files["main"]))

    def model(self, revision, folder):
        """The weights that `from_pretrained` loads from a revision."""
        for name, content in self.files[revision].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return AutoModelForTokenClassification.from_pretrained(folder).state_dict()


def test_every_checkpoint_is_a_revision_on_the_hub_and_an_upload_that_was_cut_off_continues(
    tmp_path, shards, auxiliary, monkeypatch, capsys
):
    run_folder, out = tmp_path / "run", tmp_path / "out"
    config = tiny.settings(shards, "fast_electra", auxiliary, training__updates=4, training__checkpoint_every=2)
    pretrain(config, run_folder)
    hub = Hub(monkeypatch)
    command = ["export", str(run_folder), str(out), "--checkpoint", "all", "--push", "me/encoder"]
    hub.fails.append("step-4")
    assert main(command) == 2
    assert "run the same command again" in capsys.readouterr().err
    hub.fails.clear()
    assert main(command) == 0
    assert set(hub.files) == {"main", "step-2", "step-4"}
    loaded = {name: hub.model(name, tmp_path / "loaded" / name) for name in hub.files}
    final = AutoModelForTokenClassification.from_pretrained(run_folder / "model").state_dict()
    for name, weights in final.items():
        assert torch.equal(loaded["main"][name], weights)
        assert torch.equal(loaded["step-4"][name], weights)
    assert any(not torch.equal(loaded["step-2"][name], weights) for name, weights in final.items())
    assert "auxiliary/config.json" in hub.files["main"]
    assert not [name for revision in hub.files for name in hub.files[revision] if name.startswith("step-")]
    assert not [name for name in hub.files["step-2"] if name.startswith("auxiliary")]
    card = hub.files["main"]["README.md"].decode()
    assert 'model="me/encoder")' in card
    assert "checkpoints of the run: `step-2`, `step-4`" in card
    assert 'model="me/encoder", revision="step-2")' in hub.files["step-2"]["README.md"].decode()


def test_a_failed_upload_is_one_sentence_and_the_same_command_uploads_again(
    tmp_path, shards, auxiliary, monkeypatch, capsys
):
    run_folder, out = tmp_path / "run", tmp_path / "out"
    pretrain(tiny.settings(shards, "fast_electra", auxiliary, training__updates=2), run_folder)
    command = ["export", str(run_folder), str(out), "--push", "me/encoder"]
    uploaded = []

    class NoNetwork(Exception):  # httpx's errors are no OSError
        pass

    def refuse(*_, **__):
        raise NoNetwork("[Errno -2] Name or service not known\n in two lines")

    with monkeypatch.context() as patched:
        patched.setattr(HfApi, "create_repo", refuse)
        for _ in range(2):
            assert main(command) == 2
            said = capsys.readouterr().err.strip().splitlines()[-1]
            assert said.startswith("error: ")
            assert "could not be uploaded to me/encoder ([Errno -2] Name or service not known in two lines)" in said
            assert said.endswith("and run the same command again.")
    (out / "README.md").write_text("# edited between the two")
    repository = type("Repository", (str,), {"repo_id": "me/encoder"})("https://hub/me/encoder")
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: repository)
    monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: type("Info", (), {"private": True}))
    monkeypatch.setattr(HfApi, "upload_folder", lambda *_, folder_path, **__: uploaded.append(folder_path))
    assert main(command) == 0
    assert uploaded == [out]
    assert (out / "README.md").read_text() == "# edited between the two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    other = ["export", str(run_folder), str(out), "--no-auxiliary", "--push", "me/encoder"]
    assert main(other) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(run_folder), str(out)]) == 0  # as after a stop behind the renaming
    (out / "config.json").write_text("{}")
    assert main(command) == 2
    assert "config.json has 2 bytes" in capsys.readouterr().err
