"""What a fast_electra run may add to its loss: predicting the originals, and more weight on masked positions."""

import pytest
import torch
from transformers import AutoModelForMaskedLM

from fast_electra.config import resolve
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.masking import mask_random_tokens
from fast_electra.diagnosis.doctor import labels_stay_out, parameter_groups
from fast_electra.errors import ModelError
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.corrective import CorrectiveHead
from fast_electra.models.loading import load_model
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.models.shapes import ModelConfig
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.publishing.export import export_run
from fast_electra.studies.cost import cost
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import Interrupted, make_update
from fast_electra.training.outlook import flops_per_update
from fast_electra.training.setup import start
from tests import tiny
from tests.training.test_training import CPU, run, weights, without_clock

ARCHITECTURES = [
    "modernbert",
    "electra",
    "bert",
    "roberta",
    "distilbert",
    "nomic_bert",
    "eurobert",
    "mpnet",
    "deberta-v2",
    "albert",
]
CORRECTIVE, WEIGHTED = {"objective__corrective_weight": 0.3}, {"objective__masked_weight": 4.0}
BOTH = CORRECTIVE | WEIGHTED


def settings(shards, auxiliary, **changes):
    return tiny.settings(shards, "fast_electra", auxiliary, **changes)


def parts(shards, auxiliary, **changes):
    return assemble(settings(shards, auxiliary, **changes), CPU)


def models(architecture: str, **options):
    shape = ModelConfig(
        architecture=architecture, layers=2, hidden_size=32, heads=2, intermediate_size=48, options=options
    )
    config = [transformers_config(shape, 320, tiny.SPECIAL, 32) for _ in range(2)]
    return build_model(config[0], "rtd", 0).eval(), build_model(config[1], "mlm", 1).eval()


def by_hand(found, prepared, difficulty=1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """RTD losses and weights of scored tokens, and the mean cross-entropy: whole models and loops over positions."""
    objective, batch = found.objective, prepared.batch
    corrupted = objective.source.corrupt(batch, prepared.masked, Difficulty(difficulty), 0).ids_BS
    attention = {"attention_mask": (~batch.padding).long()}
    main = objective.models()["main"]
    z = main(input_ids=corrupted, **attention).logits.reshape(corrupted.shape)
    masked_lm = objective.models().get("masked_lm")
    words = masked_lm(input_ids=corrupted, **attention).logits.log_softmax(-1) if masked_lm else None
    places = {
        (row, int(position))
        for row in range(len(batch.ids))
        for position, valid in zip(prepared.masked.positions_BM[row], prepared.masked.valid_BM[row], strict=True)
        if valid
    }
    losses, heavy = [], []
    for row in range(len(batch.ids)):
        for position in range(batch.ids.shape[1]):
            if batch.eligible[row, position]:
                sign = -1.0 if corrupted[row, position] != batch.ids[row, position] else 1.0
                losses.append((1 + (sign * z[row, position]).exp()).log())
                heavy.append(4.0 if (row, position) in places else 1.0)
    entropies = [-words[place][batch.ids[place]] for place in sorted(places)] if words is not None else [z.sum() * 0]
    return torch.stack(losses), torch.tensor(heavy), torch.stack(entropies).mean()


def first(found, rows: int = 8):
    return found.objective.prepare(found.schedule.at(0), 0).split(rows)[0]


@pytest.mark.parametrize("architecture", ["modernbert", "electra"])
def test_loss_and_gradients_are_those_of_a_plain_forward_of_two_models(architecture, shards, auxiliary):
    found = parts(shards, auxiliary, main__architecture=architecture, **BOTH)
    prepared = first(found)
    terms = found.objective.terms(prepared, 1.0, 0)
    temperature = found.objective.settings(1.0)["temperature"]
    losses, heavy, entropy = by_hand(found, prepared, temperature)
    rtd = (losses * heavy).sum() / heavy.sum()
    ours = {name: total / count for name, (total, count) in terms.losses.items()}
    assert ours["rtd"].item() == pytest.approx(rtd.item(), rel=1e-5)
    assert ours["corrective"].item() == pytest.approx(entropy.item(), rel=1e-5)
    assert {name: float(count) for name, (_, count) in terms.losses.items()} == {
        name: float(count) for name, count in found.objective.counts(prepared).items()
    }
    (group,) = found.objective.parameter_groups()
    names, parameters = zip(*group.parameters.items(), strict=True)
    expected = torch.autograd.grad(rtd + 0.3 * entropy, parameters)
    total = sum(found.objective.weights[name] * loss for name, loss in ours.items())
    for name, mine, theirs in zip(names, torch.autograd.grad(total, parameters), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_on_the_shared_encoder_gives_the_logits_of_the_whole_masked_language_model(architecture):
    main, masked_lm = models(architecture)
    rows = tiny.batch(padding=5)
    masked = mask_random_tokens(rows, 0.2, seed=0)
    detector = ReplacedTokenDetector(main)
    with torch.no_grad():
        before = detector.logits(rows, rows.ids)
        head = CorrectiveHead(masked_lm, detector)
        logits, hidden_states = detector.logits_and_hidden_states(rows, rows.ids)
        assert hidden_states is not None
        ours = head.logits(hidden_states[-1], masked.positions_BM)
        theirs = MaskedLM(head.model).masked_logits(rows, rows.ids, masked.positions_BM)
    assert torch.equal(logits, before)
    assert torch.equal(ours, theirs)
    assert head.model.base_model is main.base_model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_output_layer_is_the_token_table_of_the_main_model_where_the_class_ties_it(architecture):
    main, masked_lm = models(architecture)
    was_tied = masked_lm.get_output_embeddings().weight is masked_lm.get_input_embeddings().weight
    head = CorrectiveHead(masked_lm, ReplacedTokenDetector(main))
    assert (masked_lm.get_output_embeddings().weight is main.get_input_embeddings().weight) == was_tied
    assert was_tied or architecture == "eurobert"
    assert not {id(p) for p in head.parameters().values()} & {id(p) for p in main.parameters()}


def test_a_head_that_needs_more_than_hidden_states_is_refused():
    main, masked_lm = models("deberta-v2", legacy=False)
    with pytest.raises(ModelError, match="DebertaV2ForMaskedLM needs more than hidden states"):
        CorrectiveHead(masked_lm, ReplacedTokenDetector(main))


def test_the_encoder_runs_once_an_update(shards, auxiliary):
    found = parts(shards, auxiliary, **CORRECTIVE)
    calls: list[int] = []
    found.objective.models()["main"].base_model.register_forward_pre_hook(lambda *_: calls.append(1))
    found.objective.terms(first(found), 0.0, 0)
    assert len(calls) == 1


@pytest.mark.parametrize("changes", [WEIGHTED, BOTH], ids=["weighted", "both"])
def test_micro_batches_equal_one_batch(changes, shards, auxiliary):
    found = []
    for size in (8, 2):
        config = settings(shards, auxiliary, training__micro_batch_size=size, **changes)
        whole = assemble(config, CPU)
        state, plan = start(config, whole, CPU)
        for update in range(3):
            make_update(state, plan, whole.objective.prepare(whole.schedule.at(update), plan.seed), CPU)
        found.append(torch.cat([m.flatten() for m in state.optimizers[0].masters.values()]))
    # AdamW turns rounding in near-zero gradients into steps; after three of size 3e-3 they stay this close.
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resuming_gives_the_same_weights_of_encoder_and_both_heads_bit_for_bit(precision, tmp_path, shards, auxiliary):
    config = settings(shards, auxiliary, training__updates=9, execution__precision=precision, **BOTH)
    run(config, tmp_path / "whole")
    for cut in (2, 4):
        with pytest.raises(Interrupted):
            run(config, tmp_path / "parts", stop_after=cut)
    run(config, tmp_path / "parts")
    assert without_clock(tmp_path / "parts") == without_clock(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    heads = [(tmp_path / name / "masked_lm" / "model.safetensors").read_bytes() for name in ("parts", "whole")]
    assert heads[0] == heads[1]


def test_a_run_leaves_the_vocabulary_head_beside_the_main_model(tmp_path, shards, auxiliary):
    config = settings(shards, auxiliary, training__log_every=1, **CORRECTIVE)
    result = pretrain(config, tmp_path / "run")
    assert {"rtd", "corrective_loss", "corrective_accuracy", "rtd_auc"} <= set(result.validation)
    (*_, record) = without_clock(tmp_path / "run")
    assert record["loss"] == pytest.approx(record["rtd"] + 0.3 * record["corrective"], rel=1e-5)
    masked_lm, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "masked_lm", output_loading_info=True)
    assert not any(report.values())
    main = load_model(tmp_path / "run" / "model", "rtd")
    for name, parameter in main.base_model.named_parameters():
        assert torch.equal(parameter, masked_lm.base_model.get_parameter(name)), name
    assert "trained on replaced tokens" in (tmp_path / "run" / "masked_lm" / "README.md").read_text()
    export_run(tmp_path / "run", tmp_path / "out", say=print)
    export_run(tmp_path / "run", tmp_path / "last", checkpoint=12, say=print)
    for folder in ("out", "last"):
        stored = (tmp_path / folder / "masked_lm" / "model.safetensors").read_bytes()
        assert stored == (tmp_path / "run" / "masked_lm" / "model.safetensors").read_bytes()


def test_without_a_weight_there_is_no_head(tmp_path, shards, auxiliary):
    found = parts(shards, auxiliary)
    assert set(found.objective.models()) == {"main"}
    assert set(found.objective.counts(first(found))) == {"rtd"}


def test_validation_measures_are_those_of_the_plain_forward(shards, auxiliary):
    found = parts(shards, auxiliary, **BOTH)
    for model in found.objective.models().values():
        model.eval()
    measures = found.objective.validate(found.validation, seed=0)
    with torch.no_grad():
        parts_of = [by_hand(found, prepared) for prepared in found.validation]
        masked = [int(prepared.masked.valid_BM.sum()) for prepared in found.validation]
    losses, heavy = torch.cat([x[0] for x in parts_of]), torch.cat([x[1] for x in parts_of])
    rtd = float((losses * heavy).sum() / heavy.sum())
    entropy = sum(float(x[2]) * n for x, n in zip(parts_of, masked, strict=True)) / sum(masked)
    assert measures["rtd"] == pytest.approx(rtd, rel=1e-5)
    assert measures["corrective_loss"] == pytest.approx(entropy, rel=1e-5)
    assert measures["loss"] == pytest.approx(rtd + 0.3 * entropy, rel=1e-5)
    assert 0 <= measures["corrective_accuracy"] <= 1


def test_the_head_learns_to_correct(tmp_path):
    shards = tiny.make_repetitive_shards(tmp_path / "shards")
    pretrain(tiny.settings(shards, training__updates=3), tmp_path / "auxiliary")  # it knows nothing
    more = {"training__updates": 100, "optimizer__learning_rate": 1e-2}
    pretrain(settings(shards, tmp_path / "auxiliary", **more, **CORRECTIVE), tmp_path / "run")
    records = without_clock(tmp_path / "run")
    assert records[-1]["corrective"] < records[0]["corrective"] - 1


def test_the_head_starts_from_the_auxiliarys_with_the_encoder(shards, auxiliary):
    found = parts(shards, auxiliary, main__start="auxiliary", **CORRECTIVE)
    ours, theirs = (
        found.objective.models()["masked_lm"].state_dict(),
        load_model(auxiliary / "model", "mlm").state_dict(),
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any("of the vocabulary head's" in note for note in found.notes)


def test_embeddings_may_be_copied_and_the_output_layer_follows(shards, auxiliary):
    found = parts(shards, auxiliary, main__embeddings="copied", **CORRECTIVE)
    table = load_model(auxiliary / "model", "mlm").get_input_embeddings().weight
    assert torch.equal(found.objective.models()["masked_lm"].get_output_embeddings().weight, table)


def test_a_frozen_encoder_leaves_both_heads_to_train(shards, auxiliary):
    found = parts(shards, auxiliary, main__freeze="encoder", **CORRECTIVE)
    (group,) = found.objective.parameter_groups()
    trained = {name for name, parameter in group.parameters.items() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"head", "classifier", "masked_lm"}


def test_cached_corruption_trains_like_corruption_on_the_fly(tmp_path, shards, auxiliary):
    race = {"sampler": "race"}
    config = settings(shards, auxiliary, **BOTH)
    config = config.model_copy(update={"corruption": config.corruption.model_copy(update=race)})
    build_cache(config, tmp_path / "cache")
    pretrain(config, tmp_path / "online")
    cached = config.corruption.model_copy(update={"cache": tmp_path / "cache"})
    pretrain(config.model_copy(update={"corruption": cached}), tmp_path / "cached")
    assert weights(tmp_path / "online") == weights(tmp_path / "cached")
    heads = [(tmp_path / name / "masked_lm" / "model.safetensors").read_bytes() for name in ("online", "cached")]
    assert heads[0] == heads[1]


def test_flops_count_the_head(shards, auxiliary):
    without, with_head = settings(shards, auxiliary), settings(shards, auxiliary, **CORRECTIVE)
    found = [flops_per_update(config, assemble(config, CPU), CPU) for config in (without, with_head)]
    masked = assemble(without, CPU).objective.prepare(assemble(without, CPU).schedule.at(0), 0).masked
    # A dense layer and the output layer, for every slot, a multiply and an add, forward and backward
    weights_of_head = 32 * 32 + 32 * assemble(without, CPU).shards.vocabulary_size
    assert found[1] - found[0] == 3 * 2 * masked.positions_BM.numel() * weights_of_head


def test_the_cost_table_counts_the_head_with_the_main_model():
    """3 · 2 · weights · masked positions a row, as by a pencil; nothing else changes."""
    online, changed = (
        cost(resolve(settings(None, None, main__architecture="electra", **changes).model_dump(mode="json")), 320, 2)
        for changes in ({}, CORRECTIVE)
    )
    for key in ("flops_per_token", "flops_per_token_by_formula"):
        before, after = (found["head_masked"][key]["online"] for found in (online, changed))
        assert (after["main"] - before["main"]) * 32 == pytest.approx(6 * (32 * 32 + 32 * 320) * 5, rel=1e-9)
        assert after["auxiliary"] == before["auxiliary"]


def test_the_doctor_finds_nothing_wrong_with_a_second_head(shards, auxiliary):
    objective = parts(shards, auxiliary, **BOTH).objective
    prepared = first(parts(shards, auxiliary))
    assert [f.severity for f in (*parameter_groups(objective), *labels_stay_out(objective, prepared))] == ["ok", "ok"]


def test_every_trained_parameter_is_in_the_one_group_once(shards, auxiliary):
    found = parts(shards, auxiliary, **CORRECTIVE)
    (group,) = found.objective.parameter_groups()
    trained = {id(p) for model in found.objective.models().values() for p in model.parameters()}
    grouped = [id(p) for p in group.parameters.values()]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trained


@pytest.mark.parametrize("name", ["masked_weight", "corrective_weight"])
def test_weights_that_mean_nothing_are_refused(name, shards, auxiliary):
    with pytest.raises(ValueError, match="greater than"):
        settings(shards, auxiliary, **{f"objective__{name}": -1.0})
