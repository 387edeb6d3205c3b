"""The Python API: what it promises, and that the documentation's examples run."""

import ast
import csv
import dataclasses
import inspect
import pickle
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification

import fast_electra
from fast_electra import (
    ConstantSchedule,
    Corruptor,
    ExponentialSchedule,
    SpanMasking,
    WholeWordMasking,
    load_auxiliary,
    rtd_loss,
)
from fast_electra.api.corruptor import moved_auxiliary
from fast_electra.corruption.adaptive import AdaptiveSchedule
from fast_electra.data.batches import Batch
from fast_electra.errors import ConfigError, ModelError
from fast_electra.objectives.base import Prepared
from fast_electra.training.assembly import assemble
from fast_electra.training.precision import choose_execution
from tests import tiny

PUBLIC = [
    *("Config", "ConstantSchedule", "CorruptedBatch", "Corruptor", "CosineSchedule", "ExponentialSchedule"),
    *("FastElectraCallback", "FastElectraCollator", "FrozenAuxiliary", "LinearSchedule", "PolynomialSchedule"),
    *("RandomMasking", "SpanMasking", "StepwiseSchedule", "WholeWordMasking"),
    *("corrupt", "data_build", "evaluate", "export", "load_auxiliary", "load_config", "pretrain"),
    "rtd_loss",
    "study",
]
needs_accelerate = pytest.mark.skipif(
    find_spec("accelerate") is None, reason="Transformers' Trainer needs accelerate, which is not installed"
)


@pytest.fixture(scope="module")
def frozen(auxiliary):
    return load_auxiliary(auxiliary, dtype=torch.float32)


@pytest.fixture(scope="module")
def corrupt(frozen, tokenizer):
    return Corruptor(frozen, tokenizer, seed=3)


def rows(tokenizer, count=6):
    encoded = tokenizer(
        [document.text for document in tiny.documents(count)],
        truncation=True,
        max_length=32,
        padding="max_length",
        return_tensors="pt",
    )
    encoded.input_ids[-1, 20:] = tokenizer.pad_token_id
    encoded.attention_mask[-1, 20:] = 0
    return encoded.input_ids, encoded.attention_mask


# --- What is public ---------------------------------------------------------------------------------------------------


def test_the_public_names_are_frozen():
    assert sorted(fast_electra.__all__) == PUBLIC
    assert all(getattr(fast_electra, name) is not None for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fast_electra.nothing


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(fast_electra.__file__).read_text())
    typed = next(node for node in tree.body if isinstance(node, ast.If))
    names = {alias.name for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(PUBLIC)


def test_public_functions_are_typed_and_documented():
    for name in PUBLIC:
        value = getattr(fast_electra, name)
        assert value.__doc__, name
        if inspect.isfunction(value):
            assert all(
                p.annotation is not inspect.Parameter.empty for p in inspect.signature(value).parameters.values()
            )


def test_importing_the_package_is_quick_and_imports_no_torch():
    program = (
        "import time; began = time.process_time(); import fast_electra; seconds = time.process_time() - began\n"
        "import sys; assert not {'torch', 'numpy', 'pydantic', 'transformers'} & sys.modules.keys(); print(seconds)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 0.1


# --- The corruption ---------------------------------------------------------------------------------------------------


def test_a_corrupted_batch_and_its_loss_are_those_of_the_programs_own_training_step(shards, auxiliary, frozen):
    config = tiny.settings(shards, "fast_electra", auxiliary)
    parts = assemble(config, choose_execution(config.execution))
    update, progress, samples = 5, 0.25, torch.arange(100, 108)
    batch = parts.schedule.at(update)
    corrupt = Corruptor(frozen, parts.tokenizer, schedule=config.corruption.schedule, mask_rate=0.15, seed=9)
    found = corrupt(batch.ids, ~batch.padding, progress=progress, update=update, samples=samples)

    key = corrupt.masking.key(update)
    keyed = dataclasses.replace(batch, epochs=torch.zeros(8, dtype=torch.int64), indices=samples)
    prepared: Prepared = parts.objective.prepare(keyed, key)
    source = parts.objective.source
    expected = source.corrupt(keyed, prepared.masked, parts.objective.curriculum.difficulty(progress), key)
    assert found.temperature == parts.objective.settings(progress)["temperature"]
    assert torch.equal(found.input_ids, expected.ids_BS)
    assert torch.equal(found.labels == 1, expected.replaced_BS)
    assert (found.labels == 1).any()
    assert torch.equal(found.labels == -100, ~batch.eligible)

    loss, count = parts.objective.terms(prepared, progress, key).losses["rtd"]
    logits = parts.objective.models()["main"](found.input_ids).logits
    assert rtd_loss(logits, found.labels).item() == pytest.approx((loss / count).item(), rel=1e-6)  # float32


@pytest.mark.parametrize("masking", [WholeWordMasking(rate=0.3), SpanMasking(rate=0.3)])
def test_words_and_spans_are_masked_as_in_a_run_also_by_a_worker_that_is_not_forked(frozen, shards, auxiliary, masking):
    config = tiny.settings(shards, "fast_electra", auxiliary, corruption__masking=masking.model_dump())
    parts = assemble(config, choose_execution(config.execution))
    batch = parts.schedule.at(0)
    samples = torch.arange(8)
    keyed = dataclasses.replace(batch, epochs=torch.zeros(8, dtype=torch.int64), indices=samples)
    masker = Corruptor(frozen, parts.tokenizer, masking=masking, seed=9).masking
    expected = parts.objective.prepare(keyed, masker.key(2)).masked
    for sent in (masker, pickle.loads(pickle.dumps(masker))):
        found = sent(sent.rows(batch.ids, ~batch.padding, samples), 2)
        assert torch.equal(found.positions_BM, expected.positions_BM)
        assert torch.equal(found.valid_BM, expected.valid_BM)


def test_a_name_in_place_of_a_configuration_and_an_unknown_reduction_are_refused(tmp_path):
    for call in (fast_electra.pretrain, fast_electra.corrupt, fast_electra.data_build):
        with pytest.raises(ConfigError, match="config is 'text-hour': give a Config, such as load_config"):
            call("text-hour", tmp_path)
    with pytest.raises(ConfigError, match="reduction is 'none': give mean or sum"):
        rtd_loss(torch.zeros(1, 2), torch.zeros(1, 2), "none")


def test_the_same_call_gives_the_same_batch_whatever_ran_before(corrupt, frozen, tokenizer):
    ids, mask = rows(tokenizer)
    first = corrupt(ids, mask, progress=0.3, update=4)
    torch.rand(7)
    corrupt(ids, mask, progress=0.3, update=5)
    again, other = corrupt(ids, mask, progress=0.3, update=4), Corruptor(frozen, tokenizer, seed=3)
    for same in (again, other(ids, mask, progress=0.3, update=4), corrupt(ids, progress=0.3, update=4)):
        assert torch.equal(first.input_ids, same.input_ids)
        assert torch.equal(first.labels, same.labels)
        assert torch.equal(first.masked_positions, same.masked_positions)


def test_update_seed_and_sample_each_change_the_masks(corrupt, frozen, tokenizer):
    ids, mask = rows(tokenizer)
    first = corrupt(ids, mask, progress=0.0, update=4).masked_positions
    others = [
        corrupt(ids, mask, progress=0.0, update=5),
        corrupt(ids, mask, progress=0.0, update=4, samples=range(10, 16)),
        Corruptor(frozen, tokenizer, seed=4)(ids, mask, progress=0.0, update=4),
    ]
    assert all(not torch.equal(first, other.masked_positions) for other in others)


def test_a_row_does_not_depend_on_the_batch_around_it(corrupt, tokenizer):
    ids, mask = rows(tokenizer)
    whole = corrupt(ids, mask, progress=0.5, update=1, samples=range(6))
    part = corrupt(ids[2:4], mask[2:4], progress=0.5, update=1, samples=[2, 3])
    assert torch.equal(part.input_ids, whole.input_ids[2:4])
    assert torch.equal(part.labels, whole.labels[2:4])


def test_any_whole_number_is_a_number_of_a_row(corrupt, tokenizer):
    ids, mask = (tensor[:1].expand(6, -1) for tensor in rows(tokenizer))
    numbers = [-1, -(2**62), 2**63 - 2, 2**48, 0, -7]
    found = corrupt(ids, mask, progress=0.0, update=0, samples=numbers)
    assert len({tuple(row.tolist()) for row in found.masked_positions}) == 6
    assert set(found.masked_positions.sum(1).tolist()) == {round(0.15 * 30)}
    assert int(found.input_ids.min()) >= 0
    assert int(found.input_ids.max()) < 320


def test_the_auxiliary_follows_a_batch_to_its_device(auxiliary, tokenizer):
    corrupt = Corruptor(load_auxiliary(auxiliary), tokenizer)
    moved = moved_auxiliary(corrupt._auxiliary, torch.device("meta"))  # the other device that every machine has
    assert moved.candidates.excluded_E.device.type == "meta"
    assert {parameter.device.type for parameter in moved.modules()[0].parameters()} == {"meta"}


def test_equal_rows_share_neither_masks_nor_replacements(frozen, tokenizer):
    ids, mask = (tensor[:1].expand(40, -1) for tensor in rows(tokenizer))
    hot = Corruptor(frozen, tokenizer, schedule=ConstantSchedule(initial=50.0))
    found = hot(ids, mask, progress=0.0, update=0)
    assert len({tuple(row.tolist()) for row in found.masked_positions}) >= 39  # of about 30 choose 4
    # Where two rows mask one position, a temperature of 50 draws nearly uniformly from 315 tokens.
    at_place = [found.input_ids[found.masked_positions[:, place], place] for place in range(1, 31)]
    repeated = sum(len(tokens) - len(tokens.unique()) for tokens in at_place)
    assert repeated <= 0.1 * int(found.masked_positions.sum())


def test_special_tokens_and_padding_are_never_masked_scored_or_drawn(frozen, tokenizer):
    ids, mask = rows(tokenizer, 40)
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    hot = Corruptor(frozen, tokenizer, schedule=ConstantSchedule(initial=1e6), mask_rate=0.5)
    for update in range(5):
        found = hot(ids, mask, progress=0.0, update=update)
        assert not (found.masked_positions & special).any()
        assert torch.equal(found.labels == -100, special)
        assert torch.equal(found.input_ids[special], ids[special])
        drawn = found.input_ids[found.masked_positions]
        assert not torch.isin(drawn, torch.tensor(tokenizer.all_special_ids)).any()
        count = (~special).sum(1).double()
        assert torch.equal(found.masked_positions.sum(1), (0.5 * count).round().long())
        assert torch.equal(found.labels == 1, found.input_ids != ids)


def test_a_batch_from_elsewhere_has_nothing_to_mask_unless_it_is_said_and_its_rows_share_no_number():
    batch = Batch.of(torch.ones(3, 5, dtype=torch.int64), torch.zeros(3, 5, dtype=torch.bool))
    assert not batch.eligible.any()
    assert batch.indices.tolist() == [0, 1, 2]


def test_any_function_of_the_progress_is_a_schedule(frozen, tokenizer):
    ids, mask = rows(tokenizer)
    corrupt = Corruptor(frozen, tokenizer, schedule=lambda progress: 3.0 - 2.0 * progress)
    assert corrupt(ids, mask, progress=0.25, update=0).temperature == 2.5
    default = Corruptor(frozen, tokenizer)(ids, mask, progress=0.1, update=0).temperature
    assert default == pytest.approx(1.0 + np.exp(-1.0))


def test_an_auxiliary_is_loaded_from_a_run_and_from_a_folder(auxiliary, frozen, tokenizer):
    ids, mask = rows(tokenizer)
    folder = load_auxiliary(auxiliary / "model", dtype=torch.float32)
    found = [Corruptor(a, tokenizer)(ids, mask, progress=0.0, update=0).input_ids for a in (frozen, folder)]
    assert torch.equal(*found)
    assert not any(parameter.requires_grad for parameter in folder.model.parameters())


def test_what_does_not_fit_is_one_sentence(frozen, tokenizer, corrupt, auxiliary):
    ids, mask = rows(tokenizer)
    with pytest.raises(ModelError, match=r"has another tokenizer than the one given"):
        Corruptor(frozen, tiny.word_tokenizer(tiny.WORDS))
    with pytest.raises(ModelError, match="is not a folder"):
        load_auxiliary(auxiliary / "nothing here")
    with pytest.raises(ConfigError, match="mask_rate is 15"):
        Corruptor(frozen, tokenizer, mask_rate=15)
    for schedule in (ExponentialSchedule(initial="auto"), AdaptiveSchedule()):
        with pytest.raises(ConfigError, match="depends on a run's measures"):
            Corruptor(frozen, tokenizer, schedule=schedule)
    with pytest.raises(ConfigError, match=r"progress is 3"):
        corrupt(ids, mask, progress=3, update=0)
    with pytest.raises(ConfigError, match="update is -1"):
        corrupt(ids, mask, progress=0.0, update=-1)
    with pytest.raises(ModelError, match=r"input_ids are \(32,\) int64"):
        corrupt(ids[0], mask[0], progress=0.0, update=0)
    with pytest.raises(ModelError, match=r"attention_mask is \(5, 32\)"):
        corrupt(ids, mask[1:], progress=0.0, update=0)
    with pytest.raises(ModelError, match=r"samples are \(2,\) for 6 rows"):
        corrupt(ids, mask, progress=0.0, update=0, samples=[1, 2])
    with pytest.raises(ModelError, match="an id outside the tokenizer's 320"):
        corrupt(ids + 300, mask, progress=0.0, update=0)
    with pytest.raises(ModelError, match="takes 32 tokens, and the rows have 64"):
        corrupt(ids.repeat(1, 2), mask.repeat(1, 2), progress=0.0, update=0)


# --- The loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_a_plain_loop_for_heads_of_one_logit_and_of_two_labels():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(3, 7)), draw.choice([-100, 0, 1], size=(3, 7))
    total = count = 0.0
    for logit, label in zip(logits.flat, labels.flat, strict=True):
        if label != -100:
            p = 1.0 / (1.0 + np.exp(-logit))
            total, count = total - np.log(p if label == 1 else 1.0 - p), count + 1
    one, wanted = torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)
    base = torch.tensor(draw.normal(size=(3, 7)), dtype=torch.float32)
    for head in (one, one[..., None], torch.stack((base, base + one), -1)):
        assert rtd_loss(head, wanted).item() == pytest.approx(total / count, rel=1e-5)  # float32
        assert rtd_loss(head, wanted, reduction="sum").item() == pytest.approx(total, rel=1e-5)
    two = torch.stack((base, base + one), -1)
    theirs = torch.nn.functional.cross_entropy(two.flatten(0, 1), wanted.flatten())
    assert rtd_loss(two, wanted).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_a_batch_with_nothing_scored_has_a_loss_of_zero_and_a_gradient():
    logits = torch.zeros(2, 4, requires_grad=True)
    loss = rtd_loss(logits, torch.full((2, 4), -100))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(2, 4))


def test_logits_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match=r"logits are \(2, 4, 3\) and labels \(2, 4\)"):
        rtd_loss(torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64))


# --- The Trainer ------------------------------------------------------------------------------------------------------


def features(tokenizer, count=12):
    texts = [document.text for document in tiny.documents(count)]
    return [{"input_ids": ids} for ids in tokenizer(texts, truncation=True, max_length=32)["input_ids"]]


def test_masks_of_the_collator_depend_on_seed_epoch_and_row_alone(corrupt, tokenizer):
    collator = fast_electra.FastElectraCollator(corrupt)
    given = features(tokenizer)
    whole, part = collator(given), pickle.loads(pickle.dumps(collator))(given[5:8])
    assert torch.equal(part["masked_positions"], whole["masked_positions"][5:8])
    assert torch.equal(part["samples"], whole["samples"][5:8])
    collator.set_epoch(1)
    assert not torch.equal(collator(given)["samples"], whole["samples"])
    collator.set_epoch(0)
    assert torch.equal(collator(given)["masked_positions"], whole["masked_positions"])
    assert len(collator([given[0]] * 5)["samples"].unique()) == 5
    numbered = [feature | {"index": number} for number, feature in enumerate(given)]
    assert len(collator([numbered[0], numbered[1] | {"input_ids": given[0]["input_ids"]}])["samples"].unique()) == 2


def trainer_of(corrupt, tokenizer, folder, auxiliary, callback=None, **arguments):
    from transformers import AutoConfig, Trainer, TrainingArguments

    collator = fast_electra.FastElectraCollator(corrupt)
    shape = AutoConfig.from_pretrained(auxiliary / "model", num_labels=1)
    torch.manual_seed(0)
    plain = {"use_cpu": True, "report_to": "none", "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    return Trainer(
        AutoModelForTokenClassification.from_config(shape),
        TrainingArguments(str(folder), **(plain | arguments)),
        train_dataset=features(tokenizer),
        data_collator=collator,
        callbacks=[fast_electra.FastElectraCallback(corrupt, collator), *([callback] if callback else [])],
    )


@needs_accelerate
def test_a_step_of_the_trainer_has_the_loss_and_the_temperature_of_the_corruption(
    corrupt, tokenizer, tmp_path, auxiliary
):
    trainer = trainer_of(
        corrupt, tokenizer, tmp_path, auxiliary, max_steps=4, per_device_train_batch_size=12, learning_rate=0.0
    )
    trainer.train()
    records = [record for record in trainer.state.log_history if "temperature" in record]
    schedule = ExponentialSchedule(initial=2.0, tau=0.1)
    expected = [1.0 + (schedule.initial - 1.0) * np.exp(-step / 4 / schedule.tau) for step in range(4)]
    assert [record["temperature"] for record in records] == pytest.approx(expected)

    # The first step once more, by the plain call: the rows in any order, under the numbers that they had.
    batch = fast_electra.FastElectraCollator(corrupt)(features(tokenizer))
    again = corrupt(batch["input_ids"], batch["attention_mask"], progress=0.0, update=0, samples=batch["samples"])
    model = trainer.model.train()
    logits = model(again.input_ids, attention_mask=batch["attention_mask"]).logits
    assert records[0]["loss"] == pytest.approx(rtd_loss(logits, again.labels).item(), rel=1e-5)


@needs_accelerate
def test_the_number_of_workers_and_accumulated_batches_change_no_loss(corrupt, tokenizer, tmp_path, auxiliary):
    losses = []
    for workers, size in ((0, 12), (2, 12), (2, 4)):
        trainer = trainer_of(
            corrupt,
            tokenizer,
            tmp_path,
            auxiliary,
            max_steps=2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=12 // size,
            dataloader_num_workers=workers,
        )
        trainer.train()
        losses.append([record["loss"] for record in trainer.state.log_history if "loss" in record])
    assert losses[0] == losses[1]
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)  # sums in another order, of float32


@needs_accelerate
def test_a_run_that_the_trainer_resumes_sees_the_same_batches(corrupt, tokenizer, tmp_path, auxiliary):
    plan = {"max_steps": 5, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trainer_of(corrupt, tokenizer, tmp_path, auxiliary, **plan)  # an epoch has three steps
    whole.train()
    resumed = trainer_of(corrupt, tokenizer, tmp_path, auxiliary, **plan)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    losses, again = ([r["loss"] for r in t.state.log_history if "loss" in r] for t in (whole, resumed))
    assert len(losses) == 5
    assert again == losses


# --- The documentation ------------------------------------------------------------------------------------------------


def snippets(heading):
    text = (tiny.ROOT / "docs/python.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section
    return re.findall(r"^```python[ \w]*\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)


def run(codes, names, auxiliary):
    for code in codes:
        code = code.replace('"bert-base-uncased"', repr(str(auxiliary / "model")))
        exec(compile(code, "docs/python.md", "exec"), names)
    return names


def test_the_example_of_a_loop_runs(auxiliary, capsys):
    names = run(snippets("In your own loop"), {}, auxiliary)
    assert names["loss"].isfinite()
    assert capsys.readouterr().out == "2.0\n"


@needs_accelerate
def test_the_example_of_the_trainer_learns_to_tell_replaced_tokens(auxiliary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = run(snippets("In your own loop")[:2], {}, auxiliary)
    names["documents"] = [document.text for document in tiny.documents(200)]
    names = run(snippets("With Transformers' Trainer"), names, auxiliary)
    assert names["trainer"].evaluate()["eval_rtd_auc"] > 0.6  # chance is 0.5


def test_the_example_of_the_pipeline_runs(auxiliary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for number, document in enumerate(tiny.documents(150)):
        Path(f"texts/{number}.txt").write_text(document.text)
    with Path("labelled.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((document.text, f"class {number % 2}") for number, document in enumerate(tiny.documents(60)))
    names = run(snippets("The whole pipeline"), {}, auxiliary)
    assert names["run"].updates == 4
    assert (names["folder"] / "config.json").exists()
    assert names["results"][0].task == "labelled"
    assert names["replacements"].finished
