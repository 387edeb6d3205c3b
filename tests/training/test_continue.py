"""Continuing, starting from an auxiliary, extending, exporting: what is loaded, what is new, what stays the same."""

import json
import random
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from functools import partial

import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ElectraConfig,
    ElectraForPreTraining,
)

from fast_electra.cli.main import main
from fast_electra.config.loading import load_config
from fast_electra.errors import CheckpointError, ConfigError, DataError, ModelError
from fast_electra.models.build import build_model
from fast_electra.models.loading import continue_model, load_model
from fast_electra.models.rtd import replaced_logits
from fast_electra.models.sharing import DeltaEmbedding
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.publishing import export as exporting
from fast_electra.publishing.card import earlier_flops
from fast_electra.publishing.export import export_run, push
from fast_electra.runs.metrics import read_metrics
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import Interrupted
from fast_electra.training.setup import start
from tests import tiny
from tests.objectives import test_electra
from tests.training.test_training import CPU, run, weights, without_clock

ROOT = tiny.ROOT
WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture
def published(tmp_path, tokenizer):
    """A sentence encoder as people publish it: no head, a pooler that nobody needs, dropout."""
    return save(BertModel(BertConfig(vocab_size=len(tokenizer), **WIDTHS)), tokenizer, tmp_path / "published")


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def continued(shards, source, kind="mlm", auxiliary=None, **changes):
    return tiny.settings(shards, kind, auxiliary, main__model=str(source), **changes)


def lengthened(folder, shards, updates, stop_after=None, **changes):
    asked = iter(range(10**6))
    stop = (lambda: next(asked) + 1 >= stop_after) if stop_after else (lambda: False)
    heard = []
    pretrain(tiny.settings(shards, **changes), folder, say=heard.append, stop=stop, extend=updates)
    return heard


def test_a_published_encoder_is_loaded_and_its_head_is_that_of_a_fresh_model(published):
    model, note = continue_model(published, "rtd", seed=5, dropout=0.0)
    theirs = AutoModel.from_pretrained(published)
    own = dict(model.base_model.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in theirs.named_parameters() if name in own)
    fresh = build_model(model.config, "rtd", 5)
    assert torch.equal(model.classifier.weight, fresh.classifier.weight)
    assert "the encoder is loaded (bert, 2 layers of width 32), the RTD head is new, from seed 5" in note
    assert "not used: pooler" in note
    assert model.config.hidden_dropout_prob == 0.0


def test_a_discriminators_head_is_loaded(tmp_path, tokenizer):
    theirs = ElectraForPreTraining(ElectraConfig(vocab_size=len(tokenizer), embedding_size=16, **WIDTHS))
    folder = save(theirs, tokenizer, tmp_path / "electra")
    model, note = continue_model(folder, "rtd", 0, 0.0)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in theirs.state_dict().items())
    assert "the RTD head is loaded with it" in note
    generator, note = continue_model(folder, "mlm", 0, 0.0)
    assert torch.equal(generator.get_input_embeddings().weight, theirs.get_input_embeddings().weight)
    assert "the vocabulary head is new" in note
    assert "discriminator_predictions" in note


def test_an_own_export_goes_on_with_the_same_logits(tmp_path, shards, auxiliary):
    run(tiny.settings(shards, "fast_electra", auxiliary, training__updates=2), tmp_path / "run")
    ids = tiny.batch(rows=2).ids
    exported = load_model(tmp_path / "run" / "model", "rtd")
    model, note = continue_model(tmp_path / "run" / "model", "rtd", 1, 0.0)
    with torch.no_grad():
        expected = replaced_logits(exported(input_ids=ids).logits)
        found = model.eval()(input_ids=ids).logits
    assert found.shape[-1] == 1
    torch.testing.assert_close(replaced_logits(found), expected, rtol=0, atol=1e-6)
    assert "the RTD head is loaded with it" in note


def test_another_classifiers_head_is_never_taken_for_ours(tmp_path, tokenizer):
    ranker = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=1, **WIDTHS))
    folder = save(ranker, tokenizer, tmp_path / "ranker")
    model, note = continue_model(folder, "rtd", 0, 0.0)
    assert model.classifier.weight.shape == ranker.classifier.weight.shape  # it would have fitted
    assert not torch.equal(model.classifier.weight, ranker.classifier.weight)
    assert "the RTD head is new" in note


def test_what_cannot_be_continued_is_one_clear_sentence(tmp_path, published, shards):
    def refused(error, match, **changes):
        with pytest.raises(error, match=match):
            assemble(continued(shards, changes.pop("source", published), **changes), CPU)

    other = tiny.make_shards(tmp_path / "other", count=60, seed=7)
    with pytest.raises(ModelError, match=f"build the shards with data.tokenizer.path={published}"):
        assemble(continued(other, published), CPU)
    refused(ModelError, "takes rows of 512 tokens, fewer than data.length=600", data__length=600)

    damaged = shutil.copytree(published, tmp_path / "damaged")
    tensors = load_file(damaged / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"][3] = float("inf")
    save_file(tensors, damaged / "model.safetensors", {"format": "pt"})
    refused(ModelError, "hold NaN or infinity", source=damaged)

    holes = shutil.copytree(published, tmp_path / "holes")
    del tensors["encoder.layer.0.output.dense.bias"]
    save_file(tensors, holes / "model.safetensors", {"format": "pt"})
    refused(ModelError, "its encoder is not a whole bert", source=holes)

    pickled = shutil.copytree(published, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(ModelError, "only pytorch_model.bin: only safetensors weights are read", source=pickled)

    own_code = shutil.copytree(published, tmp_path / "code")
    text = {"model_type": "homemade", "auto_map": {"AutoConfig": "x.Y", "AutoModelForMaskedLM": "x.Z"}}
    (own_code / "config.json").write_text(json.dumps(text))
    with pytest.raises(ModelError, match="such code is never run"):
        load_model(own_code, "mlm")
    with pytest.raises(ModelError, match=r"not a folder here.*hf download someone/something --local-dir"):
        load_model("someone/something", "mlm")


def test_a_frozen_encoder_trains_its_head_alone_and_becomes_an_auxiliary(tmp_path, published, shards):
    config = continued(shards, published, main__freeze="encoder")
    parts = assemble(config, CPU)
    state, _ = start(config, parts, CPU)
    names = set(state.optimizers[0].masters)
    assert names
    assert all(name.startswith("cls.predictions.") and "decoder.weight" not in name for name in names)
    run(config, tmp_path / "head")
    theirs = AutoModel.from_pretrained(published).state_dict()
    ours = AutoModelForMaskedLM.from_pretrained(tmp_path / "head" / "model").bert.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    main_run = continued(shards, published, "fast_electra", tmp_path / "head")
    result = run(main_run, tmp_path / "main")
    assert "rtd_auc" in result.validation


def test_a_head_that_is_the_embeddings_again_cannot_be_trained_alone(tmp_path, tokenizer, shards):
    tied = tiny.settings(
        shards, main__architecture="eurobert", main__freeze="encoder", main__options={"tie_word_embeddings": True}
    )
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        assemble(tied, CPU)


def test_a_run_goes_on_with_the_weights_that_it_started_from_or_not_at_all(tmp_path, published, shards):
    config = continued(shards, published, main__freeze="encoder")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", stop_after=2)
    tensors = load_file(published / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"] += 1
    save_file(tensors, published / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="was started with another main"):
        run(config, tmp_path / "run")


def test_a_delta_on_the_auxiliarys_embeddings_folds_into_one_table_exactly(tmp_path, shards, auxiliary):
    changes = {"main__embeddings": "auxiliary_plus_delta", "training__updates": 6}
    config = tiny.settings(shards, "fast_electra", auxiliary, **changes)
    parts = assemble(config, CPU)
    model = parts.objective.models()["main"]
    embeddings = model.get_input_embeddings()
    table = AutoModelForMaskedLM.from_pretrained(auxiliary / "model").get_input_embeddings().weight
    assert isinstance(embeddings, DeltaEmbedding)
    assert torch.equal(embeddings.weight, table)
    run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "parts", stop_after=3)
    run(config, tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")  # bit for bit
    assert without_clock(tmp_path / "parts") == without_clock(tmp_path / "whole")

    export_run(tmp_path / "whole", tmp_path / "last", checkpoint=6, auxiliary=False)
    state, _ = start(config, parts, CPU)
    stored = next((tmp_path / "whole" / "checkpoints").glob("*6")).glob("*.safetensors")
    delta = load_file(next(stored))["main.master.model.embeddings.tok_embeddings.delta"]
    exported = load_model(tmp_path / "last", "rtd")
    assert delta.any()
    assert torch.equal(exported.get_input_embeddings().weight, table + delta)
    with torch.no_grad():
        embeddings.delta.copy_(delta)
    ids = torch.arange(64)[None] % 320
    assert torch.equal(embeddings(ids), exported.get_input_embeddings()(ids))
    assert set(state.optimizers[0].masters) >= {"model.embeddings.tok_embeddings.delta"}


def test_copied_embeddings_start_as_the_auxiliarys_and_are_trained(shards, auxiliary):
    config = tiny.settings(shards, "fast_electra", auxiliary, main__embeddings="copied")
    embeddings = assemble(config, CPU).objective.models()["main"].get_input_embeddings()
    table = AutoModelForMaskedLM.from_pretrained(auxiliary / "model").get_input_embeddings().weight
    assert torch.equal(embeddings.weight, table)
    assert embeddings.weight.requires_grad
    wider = tiny.settings(shards, "fast_electra", auxiliary, main__embeddings="auxiliary_plus_delta")
    wider = wider.model_copy(update={"main": wider.main.model_copy(update={"hidden_size": 64})})
    with pytest.raises(ModelError, match="give both models one width"):
        assemble(wider, CPU)


def test_an_extension_recomputes_the_schedules_and_says_so(tmp_path, shards):
    run(tiny.settings(shards), tmp_path / "run")
    before = without_clock(tmp_path / "run")
    heard = lengthened(tmp_path / "run", shards, 20)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["segments"] == [{"from": 0, "updates": 12}, {"from": 12, "updates": 20}]
    assert record["status"] == "finished"
    assert any("extended from 12 to 20 updates: the schedules are recomputed over all 20" in text for text in heard)
    after = without_clock(tmp_path / "run")
    assert after[: len(before)] == before
    assert [r["update"] for r in after] == [3, 6, 9, 12, 15, 18, 20]
    assert after[4]["learning_rate"] == pytest.approx(3e-3 * (1 - (14 - 1) / (20 - 1)))  # warm-up is one update
    assert load_config(tmp_path / "run" / "config.yaml").training.updates == 20
    assert "extended at 12 to 20" in (tmp_path / "run" / "model" / "README.md").read_text()
    assert any("nothing to do" in text for text in lengthened(tmp_path / "run", shards, 20))


def test_an_extension_that_is_killed_goes_on_bit_for_bit(tmp_path, shards):
    run(tiny.settings(shards), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    lengthened(tmp_path / "whole", shards, 20)
    with pytest.raises(Interrupted):
        lengthened(tmp_path / "parts", shards, 20, stop_after=2)
    with pytest.raises(Interrupted):
        lengthened(tmp_path / "parts", shards, 20, stop_after=3)
    run(tiny.settings(shards), tmp_path / "parts")  # the command without --extend goes on too
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert without_clock(tmp_path / "parts") == without_clock(tmp_path / "whole")


def test_what_cannot_be_extended_is_one_clear_sentence(tmp_path, shards):
    with pytest.raises(CheckpointError, match="holds no run to extend"):
        lengthened(tmp_path / "nothing", shards, 20)
    with pytest.raises(Interrupted):
        run(tiny.settings(shards), tmp_path / "run", stop_after=5)
    with pytest.raises(CheckpointError, match="only a finished run can be extended"):
        lengthened(tmp_path / "run", shards, 20)
    run(tiny.settings(shards), tmp_path / "run")
    with pytest.raises(CheckpointError, match="has 12 updates already"):
        lengthened(tmp_path / "run", shards, 12)
    with pytest.raises(CheckpointError, match="or continue a finished run with --extend"):
        run(tiny.settings(shards, training__updates=20), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "00000012")
    with pytest.raises(CheckpointError, match="no undamaged checkpoint of update 12"):
        lengthened(tmp_path / "run", shards, 20)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"  # nothing was written


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shards, auxiliary):
    """A finished main run of bfloat16 weights, with checkpoints of updates 8 and 12."""
    folder = tmp_path_factory.mktemp("runs") / "main"
    run(tiny.settings(shards, "fast_electra", auxiliary, execution__precision="bfloat16"), folder)
    return folder


def test_every_checkpoint_exports_and_the_last_is_the_runs_own_model(tmp_path, finished):
    export_run(finished, tmp_path / "all", checkpoint="all")
    folders = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert folders == ["auxiliary", "step-12", "step-8"]
    own, last, earlier = (
        (folder / "model.safetensors").read_bytes()
        for folder in (finished / "model", tmp_path / "all" / "step-12", tmp_path / "all" / "step-8")
    )
    assert last == own
    assert earlier != own
    assert main(["export", str(finished), str(tmp_path / "one"), "--checkpoint", "8", "--no-auxiliary"]) == 0
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == earlier
    assert not (tmp_path / "one" / "auxiliary").exists()
    assert "There are no measures at this update" in (tmp_path / "one" / "README.md").read_text()


def test_a_checkpoint_is_read_without_the_runs_data_and_auxiliary(tmp_path, shards, auxiliary, capsys):
    """Exported and inspected, whatever the run trains: a delta on frozen embeddings, a frozen encoder, two models."""
    copied = shutil.copytree(shards, tmp_path / "shards")
    source = shutil.copytree(auxiliary, tmp_path / "auxiliary")
    against = partial(tiny.settings, copied, "fast_electra", source, execution__precision="bfloat16")
    configs = {
        "delta": against(main__embeddings="auxiliary_plus_delta"),
        "frozen": against(main__freeze="encoder"),
        "joint": test_electra.settings(copied, "disentangled", execution__precision="bfloat16"),
    }
    for name, config in configs.items():
        run(config, tmp_path / name)
    shutil.rmtree(copied)
    shutil.rmtree(source)
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat")
    for name in configs:
        export_run(tmp_path / name, tmp_path / "out" / name, checkpoint=12, say=lambda _: None)
        for part, folder in (("model", "."), ("generator", "generator")):
            own = tmp_path / name / part / "model.safetensors"
            if own.exists():
                assert (tmp_path / "out" / name / folder / "model.safetensors").read_bytes() == own.read_bytes()
        shown = []
        for model in (tmp_path / name, tmp_path / name / "checkpoints" / "00000012"):
            assert main(["inspect", str(model), str(text), "--json"]) == 0
            shown.append([token["suspicion"] for token in json.loads(capsys.readouterr().out)["tokens"]])
        # The export has two outputs and the checkpoint one: in float32 their products are added up in another order.
        assert shown[0] == pytest.approx(shown[1], abs=1e-6)


def test_an_export_holds_the_main_model_and_the_auxiliary_with_their_heads(tmp_path, finished, auxiliary):
    assert main(["export", str(finished), str(tmp_path / "out")]) == 0
    assert load_model(tmp_path / "out", "rtd")
    ours = load_model(tmp_path / "out" / "auxiliary", "mlm").state_dict()
    assert all(
        torch.equal(value, ours[name]) for name, value in load_model(auxiliary / "model", "mlm").state_dict().items()
    )
    assert main(["export", str(finished), str(tmp_path / "out")]) == 0  # it is there already


def test_what_cannot_be_exported_is_one_clear_sentence(tmp_path, finished, shards):
    with pytest.raises(CheckpointError, match="has no checkpoint of update 7: it has 8, 12"):
        export_run(finished, tmp_path / "out", checkpoint=7)
    with pytest.raises(DataError, match="exists already"):
        export_run(finished, tmp_path)
    other = tmp_path / "run"
    shutil.copytree(finished, other)
    record = tiny.unsealed_record(other) | {"auxiliary": "0" * 64}
    (other / "run.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="is not the one that"):
        export_run(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert main(["export", str(finished), str(tmp_path / "out"), "--checkpoint", "newest"]) == 2
    assert main(["export", str(finished), str(tmp_path / "out"), "--public"]) == 2


def test_the_card_counts_computation_with_and_without_the_auxiliarys_training(tmp_path, finished, auxiliary, published):
    card = (finished / "model" / "README.md").read_text()
    own, its = (json.loads((folder / "run.json").read_text())["result"]["flops"] for folder in (finished, auxiliary))
    assert f"{own:.2e} FLOPs; {own + its:.2e} with the auxiliary's own training" in card
    record = json.loads((finished / "run.json").read_text())
    tokens = f"{record['result']['tokens']:,}"
    for fact in (record["data"][:16], record["auxiliary"][:16], "exponential: initial 2.0", "rtd_auc", tokens):
        assert fact in card
    assert str(auxiliary.parent) not in card  # folders of this machine are nobody's business
    config = load_config(finished / "config.yaml")
    unknown = config.model_copy(update={"auxiliary": config.auxiliary.model_copy(update={"model": str(published)})})
    assert earlier_flops(unknown) == {"auxiliary": None}
    assert earlier_flops(config) == {"auxiliary": its}


class FakeHub:
    """What `push` uses of the hub's client."""

    private = True
    called: list

    def create_repo(self, name, private, exist_ok):
        self.called.append(("create", name, private))
        return type("Address", (str,), {"repo_id": f"me/{name}"})(f"https://huggingface.co/me/{name}")

    def repo_info(self, name):
        return type("Info", (), {"private": self.private})

    def upload_folder(self, folder_path, repo_id, commit_message):
        self.called.append(("upload", folder_path, repo_id))


def test_pushing_is_private_unless_said_otherwise(tmp_path, monkeypatch, finished, capsys):
    monkeypatch.setattr(FakeHub, "called", [], raising=False)
    monkeypatch.setattr(exporting, "HfApi", FakeHub)
    assert main(["export", str(finished), str(tmp_path / "out"), "--push", "encoder"]) == 0
    assert FakeHub.called == [("create", "encoder", True), ("upload", tmp_path / "out", "me/encoder")]
    assert capsys.readouterr().out.strip() == "https://huggingface.co/me/encoder"
    FakeHub.called.clear()
    monkeypatch.setattr(FakeHub, "private", False)
    with pytest.raises(ModelError, match="is a public repository"):
        push(tmp_path / "out", "encoder")
    assert FakeHub.called == [("create", "encoder", True)]
    push(tmp_path / "out", "encoder", public=True)
    assert FakeHub.called[1:] == [("create", "encoder", False), ("upload", tmp_path / "out", "me/encoder")]


def test_pushing_without_network_is_one_clear_sentence(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OfflineModeIsEnabled("no network here")

    monkeypatch.setattr(exporting.HfApi, "create_repo", offline)
    with pytest.raises(ModelError, match=r"is written, but could not be uploaded to encoder \(no network here\)"):
        push(tmp_path, "encoder")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["electra", "mpnet", "deberta-v2", "distilbert"])
def test_each_exported_folder_loads_in_a_process_without_this_package(architecture, tmp_path, shards, auxiliary):
    config = tiny.settings(shards, "fast_electra", auxiliary, main__architecture=architecture, training__updates=2)
    run(config, tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out")
    program = f"""
    import sys
    sys.modules["fast_electra"] = None  # any import of it raises
    from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForTokenClassification
    from transformers import AutoTokenizer
    folder = {str(tmp_path / "out")!r}
    kind = AutoModelForPreTraining if {architecture == "electra"} else AutoModelForTokenClassification
    for name, loader in ((folder, kind), (folder + "/auxiliary", AutoModelForMaskedLM)):
        model, report = loader.from_pretrained(name, output_loading_info=True)
        assert not any(report.values()), report
        model(**AutoTokenizer.from_pretrained(name)("total = left", return_tensors="pt"))
    print("fine")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip().endswith("fine"), done.stderr


@pytest.mark.parametrize(
    "architecture",
    [
        "electra",
        "deberta-v2",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("bert", "roberta", "mpnet", "nomic_bert", "distilbert")
        ),
    ],
)
def test_every_architecture_trains_in_documents_resumes_and_is_continued(architecture, tmp_path, shards, auxiliary):
    changes = {"main__architecture": architecture, "data__attention": "document", "training__updates": 3}
    config = tiny.settings(shards, "fast_electra", auxiliary, **changes)
    run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "parts", stop_after=1)
    run(config, tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert [r["update"] for r in read_metrics(tmp_path / "whole" / "metrics.jsonl")] == [3]
    _, note = continue_model(tmp_path / "whole" / "model", "rtd", 0, 0.0)
    assert "the RTD head is loaded with it" in note


def small(words):
    """A command of a docs page as a run of seconds: its own words, with a toy's sizes in place of its own."""
    if words[:2] == ["data", "build"]:
        sizes = ["data.tokenizer.vocabulary_size=400", "data.length=32", "data.validation_fraction=0.1"]
    elif words[0] == "pretrain":
        sizes = ["data.length=32", "main.layers=2", "main.hidden_size=32", "main.heads=2", "main.intermediate_size=48"]
        sizes += ["training.updates=3", "training.batch_size=4", "execution.precision=float32", "execution.threads=1"]
        sizes += ["training.validation_sequences=8", "training.validate_every=3"]
    else:
        return words
    toys = {size.partition("=")[0] for size in sizes}
    words = [word for word in words if word.partition("=")[0] not in toys]
    place = words.index("--out" if words[0] == "data" else "--run")
    return [*words[:place], *sizes, *words[place:]]


def run_page(page, folder, monkeypatch):
    """Run the configuration and the first commands of a docs page, small."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    monkeypatch.chdir(folder)
    for yaml in re.findall(r"^```yaml\n(# (\S+)\n.*?)^```", text, re.MULTILINE | re.DOTALL):
        (folder / yaml[1]).write_text(yaml[0], encoding="utf-8")
    block = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0].replace("\\\n", " ")
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["fast-electra"]:
            assert main(small(words[1:])) == 0, line


def test_the_page_on_an_own_language_does_what_it_says(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    letters = [chr(0x1200 + number) for number in range(120)]  # Ethiopic: three bytes a letter
    draw = random.Random(0)
    words = ["".join(draw.choices(letters, k=draw.randint(2, 5))) for _ in range(60)]
    texts = [" ".join(draw.choices(words, k=60)) + "።" for _ in range(150)]
    (tmp_path / "texts" / "a.txt").write_text("\n\n".join(texts), encoding="utf-8")
    run_page("own-language.md", tmp_path, monkeypatch)
    assert AutoModel.from_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "auxiliary" / "config.json").exists()


def test_the_page_on_continuing_does_what_it_says(tmp_path, monkeypatch, tokenizer):
    (tmp_path / "english.txt").write_text("\n\n".join(d.text for d in tiny.documents()))
    save(BertModel(BertConfig(vocab_size=len(tokenizer), **WIDTHS)), tokenizer, tmp_path / "minilm")
    run_page("continue.md", tmp_path, monkeypatch)
    assert AutoModel.from_pretrained(tmp_path / "model").config.model_type == "bert"
