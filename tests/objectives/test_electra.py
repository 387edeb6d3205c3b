"""Joint ELECTRA: its loss and gradients, what is shared, who optimises what, and what a run leaves behind."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, ElectraForPreTraining

from fast_electra.config.loading import load_config
from fast_electra.config.printing import dump_config
from fast_electra.corruption.masking import mask_random_tokens
from fast_electra.errors import ModelError
from fast_electra.models.build import build_model, transformers_config
from fast_electra.models.loading import load_model
from fast_electra.models.rtd import replaced_logits
from fast_electra.models.shapes import ModelConfig
from fast_electra.models.sharing import DeltaEmbedding, disentangle, fold, tie
from fast_electra.objectives.base import Prepared, Terms
from fast_electra.objectives.electra import Electra
from fast_electra.objectives.mlm import MLM
from fast_electra.objectives.settings import ElectraObjective
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import Interrupted, make_update
from fast_electra.training.precision import Execution
from fast_electra.training.setup import start
from tests import tiny
from tests.training.test_training import run, weights, without_clock

CPU = Execution(torch.device("cpu"), "float32", torch.float32, 1)
SHAPE = {"architecture": "electra", "layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 48}
GENERATOR = SHAPE | {"intermediate_size": 24}
SHARING = ["none", "tied", "disentangled"]
ARCHITECTURES = ["modernbert", "electra", "bert", "roberta", "eurobert", "nomic_bert"]
sharings = pytest.mark.parametrize("sharing", SHARING)


def settings(shards, sharing="tied", **changes):
    changes = {"objective__generator": GENERATOR, "main__architecture": "electra"} | changes
    return tiny.settings(shards, "electra", objective__sharing=sharing, **changes)


def parts(shards, sharing="tied", **changes):
    return assemble(settings(shards, sharing, **changes), CPU)


def prepared(found, rows: int = 4) -> Prepared:
    return found.objective.prepare(found.schedule.at(0), 0).split(rows)[0]


def means(objective: Electra, terms: Terms) -> dict[str, Tensor]:
    return {name: total / count for name, (total, count) in terms.losses.items()}


def named(objective: Electra) -> dict[str, Tensor]:
    """Parameters by model and name; a shared one twice."""
    return {f"{kind}.{name}": p for kind, model in objective.models().items() for name, p in model.named_parameters()}


def gradients(objective: Electra, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of the parameters by name; what the loss doesn't reach is zero."""
    parameters = named(objective)
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found, strict=True)}


def seen_by(model, objective: Electra, micro: Prepared) -> dict:
    """What the objective gave a model."""
    seen: list[dict] = []
    hook = model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    objective.terms(micro, 0.0, 0)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("disallow_correct", [False, True])
def test_the_generator_draws_no_special_token_and_learns_as_if_it_might(disallow_correct, shards):
    found = parts(shards, "none", objective__disallow_correct=disallow_correct)
    objective, micro = found.objective, prepared(found, rows=8)
    assert isinstance(objective, Electra)
    with torch.no_grad():  # special tokens are nearly all that it would draw
        bias = objective.models()["generator"].get_output_embeddings().bias
        bias[:5] += 20.0
    terms = objective.terms(micro, 0.0, 0)
    corrupted = seen_by(objective.models()["main"], objective, micro)["input_ids"]
    drawn = corrupted.gather(1, micro.masked.positions_BM)[micro.masked.valid_BM]
    assert (drawn >= 5).all()
    # The loss of masked language modelling is over the whole vocabulary, and so are its gradients.
    alone = MLM(objective.generator, objective.mask_id, objective.masker, objective.optimizer, objective.most_frequent)
    expected = alone.terms(micro, 0.0, 0)
    assert torch.equal(terms.losses["mlm"][0], expected.losses["mlm"][0])
    ours, theirs = (gradients(objective, each.losses["mlm"][0]) for each in (terms, expected))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    special = next(name for name, p in named(objective).items() if p is bias)
    assert ours[special][:5].abs().sum() > 0


@sharings
def test_loss_and_gradients_are_those_of_a_reference_written_by_hand(sharing, shards):
    objective = parts(shards, sharing).objective
    micro = prepared(parts(shards))
    for model in objective.models().values():
        model.double()
    main, generator = objective.models()["main"], objective.models()["generator"]
    terms = objective.terms(micro, 0.0, 0)
    ours = means(objective, terms)
    corrupted = seen_by(main, objective, micro)["input_ids"]
    # The reference: whole sequences, loops over positions, nothing of ours but the models and the sampled tokens.
    ids, shown, cross_entropies = micro.batch.ids, micro.batch.ids.clone(), []
    places = [
        (row, int(position))
        for row in range(len(ids))
        for position, valid in zip(micro.masked.positions_BM[row], micro.masked.valid_BM[row], strict=True)
        if valid
    ]
    for place in places:
        shown[place] = objective.mask_id
    padding = {"attention_mask": (~micro.batch.padding).long()}
    logits = generator(input_ids=shown, **padding).logits
    for place in places:
        scores = logits[place]
        cross_entropies.append(scores.exp().sum().log() - scores[ids[place]])
    mlm = torch.stack(cross_entropies).mean()
    if sharing == "disentangled":
        table = generator.get_input_embeddings().weight.detach() + main.get_input_embeddings().delta
        embedded = torch.nn.functional.embedding(corrupted, table)
    else:
        embedded = main.get_input_embeddings()(corrupted)
    z = main(inputs_embeds=embedded, **padding).logits
    binary = []
    for row in range(len(ids)):
        for position in range(ids.shape[1]):
            if micro.batch.eligible[row, position]:
                replaced = corrupted[row, position] != ids[row, position]
                p = 1 / (1 + (-z[row, position]).exp())
                binary.append(-(p if replaced else 1 - p).log())
    rtd = torch.stack(binary).mean()
    assert ours["mlm"].item() == pytest.approx(mlm.item(), rel=1e-5)
    assert ours["rtd"].item() == pytest.approx(rtd.item(), rel=1e-5)
    expected = gradients(objective, mlm + 50 * rtd)
    found = gradients(objective, ours["mlm"] + objective.weights["rtd"] * ours["rtd"])
    for name, gradient in expected.items():  # our losses are float32, the rest float64
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@sharings
def test_the_rtd_loss_reaches_the_generator_through_tied_embeddings_alone(sharing, shards):
    objective = parts(shards, sharing).objective
    losses = means(objective, objective.terms(prepared(parts(shards)), 0.0, 0))
    shared = {id(p) for p in objective.models()["main"].parameters()}
    generator = dict(objective.models()["generator"].named_parameters())
    reached = {n.removeprefix("generator."): bool(g.any()) for n, g in gradients(objective, losses["rtd"]).items()}
    for name, parameter in generator.items():
        assert reached[name] == (sharing == "tied" and id(parameter) in shared), name


def test_disentangled_the_main_models_gradient_does_not_touch_the_shared_table(shards):
    objective = parts(shards, "disentangled").objective
    losses = means(objective, objective.terms(prepared(parts(shards)), 0.0, 0))
    table = "generator.electra.embeddings.word_embeddings.weight"
    delta = "main.electra.embeddings.word_embeddings.delta"
    by_rtd, by_mlm = gradients(objective, losses["rtd"]), gradients(objective, losses["mlm"])
    assert not by_rtd[table].any()
    assert by_rtd[delta].any()
    assert by_mlm[table].any()
    assert not by_mlm[delta].any()


def test_a_disentangled_table_starts_as_the_generators_and_follows_it(shards):
    objective = parts(shards, "disentangled").objective
    base = objective.models()["generator"].get_input_embeddings().weight
    ours = objective.models()["main"].get_input_embeddings()
    assert torch.equal(ours.weight, base)
    with torch.no_grad():
        base.add_(1.0)
    assert torch.equal(ours(torch.tensor([[7]])), base[None, None, 7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folding_base_and_difference_into_one_table_changes_no_bit_of_the_output(architecture, dtype):
    rows = tiny.batch(padding=5)
    shape = ModelConfig.model_validate(SHAPE | {"architecture": architecture})
    generator, main = (
        build_model(transformers_config(shape, 320, tiny.SPECIAL, 32), head, seed).eval()
        for seed, head in enumerate(("mlm", "rtd"))
    )
    disentangle(main, generator.get_input_embeddings())
    with torch.no_grad():
        main.get_input_embeddings().delta.normal_(std=0.01)
    main.to(dtype), generator.to(dtype)
    folded = fold(main)
    assert type(folded.get_input_embeddings()) is torch.nn.Embedding
    assert isinstance(main.get_input_embeddings(), DeltaEmbedding)  # the model itself is unchanged
    with torch.no_grad():
        assert torch.equal(folded(input_ids=rows.ids).logits, main(input_ids=rows.ids).logits)
    assert fold(folded) is folded


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tied_embeddings_stay_one_parameter_when_models_are_cast(architecture):
    shape = ModelConfig.model_validate(SHAPE | {"architecture": architecture})
    generator, main = (
        build_model(transformers_config(shape, 320, tiny.SPECIAL, 32), head, seed)
        for seed, head in enumerate(("mlm", "rtd"))
    )
    was_tied = generator.get_output_embeddings().weight is generator.get_input_embeddings().weight
    shared = tie(main, generator)
    main.to(torch.bfloat16), generator.to(torch.bfloat16)
    table = generator.get_input_embeddings().weight
    assert main.get_input_embeddings().weight is table
    assert (generator.get_output_embeddings().weight is table) == was_tied
    assert [name for name, p in main.named_parameters() if any(p is q for q in generator.parameters())] == shared
    if architecture in ("electra", "bert"):  # as in ELECTRA's own code
        last = {name.split(".")[-2] for name in shared}
        assert last == {"word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"}


def test_a_narrower_generator_ties_through_its_embedding_size(shards):
    narrow = GENERATOR | {"hidden_size": 16, "options": {"embedding_size": 32}}
    objective = parts(shards, objective__generator=narrow).objective
    assert objective.models()["generator"].config.hidden_size == 16
    assert len({id(model.get_input_embeddings().weight) for model in objective.models().values()}) == 1
    for sharing in ("tied", "disentangled"):
        with pytest.raises(ModelError, match="embedding_size"):
            parts(shards, sharing, objective__generator=GENERATOR | {"hidden_size": 16})


@pytest.mark.parametrize("clip", ["per_model", "joint"])
@sharings
def test_every_trainable_parameter_is_in_exactly_one_group_and_both_models_move(sharing, clip, shards):
    found = parts(shards, sharing, objective__clip=clip)
    grouped = [id(p) for group in found.objective.parameter_groups() for p in group.parameters.values()]
    trainable = {id(p) for model in found.objective.models().values() for p in model.parameters() if p.requires_grad}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == trainable
    state, plan = start(settings(shards, sharing, objective__clip=clip), found, CPU)
    optimized = [id(p) for o in state.optimizers for group in o.adamw.param_groups for p in group["params"]]
    assert len(optimized) == len(set(optimized)) == len(trainable)
    before = {kind: copy.deepcopy(model.state_dict()) for kind, model in found.objective.models().items()}
    make_update(state, plan, prepared(found), CPU)
    for kind, model in found.objective.models().items():
        for name, parameter in model.named_parameters():
            assert not torch.equal(before[kind][name], parameter), f"{kind}.{name}"


@sharings
def test_each_model_is_clipped_by_the_gradient_of_its_own_unweighted_loss(sharing, shards):
    found = parts(shards, sharing)
    losses = means(found.objective, found.objective.terms(micro := prepared(found), 0.0, found.seed))
    mlm, rtd = gradients(found.objective, losses["mlm"]), gradients(found.objective, losses["rtd"])
    identity = {name: id(p) for name, p in named(found.objective).items()}
    shared = {name for name, number in identity.items() if list(identity.values()).count(number) == 2}
    expected = {
        "main": [g for name, g in rtd.items() if name.startswith("main.") and name not in shared],
        "generator": [g for name, g in mlm.items() if name.startswith("generator.") and name not in shared],
        "shared": [(mlm[name] + 50 * rtd[name]) / 51 for name in shared if name.startswith("main.")],
    }
    state, plan = start(settings(shards, sharing), found, CPU)
    make_update(state, plan, micro, CPU)
    assert [o.name for o in state.optimizers] == ["main", "generator"] + ["shared"] * (sharing == "tied")
    for optimizer in state.optimizers:
        norm = torch.cat([g.flatten() for g in expected[optimizer.name]]).norm()
        assert float(state.sums[f"gradient_norm.{optimizer.name}"][0]) == pytest.approx(float(norm), rel=1e-4)


def test_joint_clipping_is_by_the_gradient_of_the_weighted_sum(shards):
    found = parts(shards, objective__clip="joint")
    losses = means(found.objective, found.objective.terms(micro := prepared(found), 0.0, found.seed))
    both = gradients(found.objective, losses["mlm"] + 50 * losses["rtd"])
    once = {id(p): both[name] for name, p in named(found.objective).items()}
    state, plan = start(settings(shards, objective__clip="joint"), found, CPU)
    make_update(state, plan, micro, CPU)
    norm = torch.cat([g.flatten() for g in once.values()]).norm()
    assert float(state.sums["gradient_norm"][0]) == pytest.approx(float(norm), rel=1e-4)


def test_a_decoupled_generator_has_its_own_learning_rate(shards):
    decoupled = {"learning_rate": 1e-12}
    found = parts(shards, "none", objective__generator_optimizer=decoupled)
    before = {kind: copy.deepcopy(model.state_dict()) for kind, model in found.objective.models().items()}
    state, plan = start(settings(shards, "none", objective__generator_optimizer=decoupled), found, CPU)
    make_update(state, plan, prepared(found), CPU)
    moved = {
        kind: max(float((model.state_dict()[name] - old).abs().max()) for name, old in before[kind].items())
        for kind, model in found.objective.models().items()
    }
    assert moved["main"] > 1e-4
    assert moved["generator"] < 1e-9


def test_never_sampling_the_original_leaves_none_at_a_masked_position(shards):
    found = parts(shards, objective__disallow_correct=True)
    micro = prepared(found)
    corrupted = seen_by(found.objective.models()["main"], found.objective, micro)["input_ids"]
    differs = (corrupted != micro.batch.ids).gather(1, micro.masked.positions_BM)
    assert bool(differs[micro.masked.valid_BM].all())
    terms = found.objective.terms(micro, 0.0, 0)
    assert terms.metrics["replaced_fraction"][0] == terms.metrics["replaced_fraction"][1]


def test_only_masked_positions_change_and_special_tokens_never_do(shards):
    found = parts(shards)
    micro = prepared(found, rows=8)
    corrupted = seen_by(found.objective.models()["main"], found.objective, micro)["input_ids"]
    masked = torch.zeros_like(micro.batch.eligible).scatter(1, micro.masked.positions_BM, micro.masked.valid_BM)
    assert torch.equal(corrupted[~masked], micro.batch.ids[~masked])
    assert not masked[~micro.batch.eligible].any()


def test_the_rtd_loss_is_electras_own_on_rows_without_special_tokens(shards):
    objective = parts(shards).objective
    rows = tiny.batch(vocabulary=300)
    generated = torch.randint(5, 300, rows.ids.shape, generator=torch.Generator().manual_seed(3))
    rows = dataclasses.replace(rows, ids=generated, eligible=torch.ones_like(rows.eligible))
    micro = Prepared(rows, mask_random_tokens(rows, 0.15, 0))
    model = objective.models()["main"]
    assert isinstance(model, ElectraForPreTraining)
    with torch.no_grad():
        corrupted = seen_by(model, objective, micro)["input_ids"]
        labels = (corrupted != rows.ids).long()
        assert 0 < labels.sum() <= micro.masked.valid_BM.sum()
        theirs = model(input_ids=corrupted, labels=labels).loss
        total, count = objective.terms(micro, 0.0, 0).losses["rtd"]
    torch.testing.assert_close(total / count, theirs, rtol=1e-5, atol=0)


def test_labels_reach_neither_model(shards):
    found = parts(shards)
    for model in found.objective.models().values():
        seen = seen_by(model, found.objective, prepared(found))
        assert set(seen) <= {"input_ids", "attention_mask", "position_ids"}


def test_the_generator_is_shown_some_originals_when_asked(shards):
    found = parts(shards, objective__kept=0.5)
    micro = prepared(found, rows=8)
    shown = seen_by(found.objective.models()["generator"], found.objective, micro)["input_ids"]
    at_masked = shown.gather(1, micro.masked.positions_BM)[micro.masked.valid_BM]
    share = float((at_masked != found.objective.mask_id).float().mean())
    assert 0.2 < share < 0.8  # 32 positions: four standard deviations are 0.35


def test_special_tokens_are_scored_only_when_asked_and_measured_never(shards):
    aucs = []
    for asked in (False, True):
        found = parts(shards, objective__include_special=asked)
        micro = prepared(found)
        expected = (~micro.batch.padding).sum() if asked else micro.batch.eligible.sum()
        assert found.objective.counts(micro)["rtd"] == expected
        assert found.objective.terms(micro, 0.0, 0).losses["rtd"][1] == expected
        measures = found.objective.validate(found.validation, seed=0)
        assert measures["loss"] == pytest.approx(measures["mlm"] + 50 * measures["rtd"])
        assert {"masked_accuracy", "unigram_accuracy", "rtd_auc", "replaced_fraction"} <= set(measures)
        aucs.append(measures["rtd_auc"])
    assert aucs[0] == aucs[1]


def test_micro_batches_equal_one_batch(shards):
    found = []
    for size in (8, 2):
        config = settings(shards, training__micro_batch_size=size)
        whole = assemble(config, CPU)
        state, plan = start(config, whole, CPU)
        make_update(state, plan, prepared(whole, 8), CPU)
        found.append({name: float(pair[0]) for name, pair in state.sums.items() if "norm" in name or name == "loss"})
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@sharings
def test_resuming_gives_the_same_weights_bit_for_bit(sharing, tmp_path, shards):
    config = settings(
        shards, sharing, training__updates=4, training__batch_size=4, execution__precision="bfloat16",
        training__checkpoint_every=100, training__validation_sequences=4, main__dropout=0.1,
    )  # fmt: skip
    run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "parts", stop_after=2)
    run(config, tmp_path / "parts")
    assert without_clock(tmp_path / "parts") == without_clock(tmp_path / "whole")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    generators = [(tmp_path / name / "generator" / "model.safetensors").read_bytes() for name in ("parts", "whole")]
    assert generators[0] == generators[1]


@sharings
def test_a_run_exports_both_models_and_plain_transformers_loads_them(sharing, tmp_path, shards):
    result = pretrain(settings(shards, sharing, training__updates=3), tmp_path / "run")
    main, report = AutoModelForPreTraining.from_pretrained(tmp_path / "run" / "model", output_loading_info=True)
    assert not any(report.values()), report
    generator, report = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "generator", output_loading_info=True)
    assert not any(report.values()), report
    assert isinstance(main, ElectraForPreTraining)
    same = torch.equal(main.get_input_embeddings().weight, generator.get_input_embeddings().weight)
    assert same == (sharing == "tied")
    assert "generator" in (tmp_path / "run" / "generator" / "README.md").read_text()
    assert result.validation["replaced_fraction"] > 0
    config = settings(shards, sharing, training__updates=3)
    auxiliary = tiny.settings(shards, "fast_electra", tmp_path / "run" / "generator", main__architecture="electra")
    assert assemble(auxiliary, CPU).auxiliary_digest is not None  # a generator serves as an auxiliary
    assert not pretrain(config, tmp_path / "run").fresh


def test_a_disentangled_export_gives_the_trained_models_logits(tmp_path, shards):
    config = settings(shards, "disentangled", main__architecture="modernbert", execution__precision="bfloat16")
    config = config.model_copy(
        update={"objective": config.objective.model_copy(update={"generator": _modern(config.objective)})}
    )
    execution = Execution(torch.device("cpu"), "bfloat16", torch.bfloat16, 1)
    found = assemble(config, execution)
    state, plan = start(config, found, execution)
    for update in range(3):
        make_update(state, plan, found.objective.prepare(found.schedule.at(update), 0), execution)
    from fast_electra.models.export import export_model

    main = found.objective.models()["main"].eval()
    export_model(main, found.tokenizer, tmp_path / "model", "card")
    ids = prepared(found).batch.ids
    with torch.no_grad():
        trained = replaced_logits(copy.deepcopy(fold(main)).float()(input_ids=ids).logits)
        exported = replaced_logits(load_model(tmp_path / "model", "rtd")(input_ids=ids).logits)
    torch.testing.assert_close(exported, trained, rtol=0, atol=1e-5)


def _modern(objective: ElectraObjective):
    return objective.generator.model_copy(update={"architecture": "modernbert"})


def test_a_generator_may_be_continued_from_a_run(shards, auxiliary):
    found = parts(shards, "none", objective__generator={"model": str(auxiliary)})
    theirs = load_model(auxiliary / "model", "mlm").state_dict()
    ours = found.objective.models()["generator"].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_does_not_fit_is_one_clear_sentence(tmp_path, shards, auxiliary):
    with pytest.raises(ModelError, match=r"objective\.generator\.architecture=elektra is not a model_type"):
        parts(shards, objective__generator=GENERATOR | {"architecture": "elektra"})
    with pytest.raises(ValueError, match="must not exceed 1"):
        settings(shards, objective__kept=0.6, objective__random=0.6)
    with pytest.raises(ValueError, match="generator_optimizer needs clip=per_model"):
        settings(shards, objective__clip="joint", objective__generator_optimizer={"learning_rate": 1e-3})
    other = tiny.make_shards(tmp_path / "other", seed=5)
    with pytest.raises(ModelError, match="another tokenizer than the shards"):
        parts(other, objective__generator={"model": str(auxiliary)})


def test_what_is_shared_is_said(shards):
    (tied,) = parts(shards, "tied").notes
    assert "word_embeddings" in tied
    assert "parameters plus a trained difference" in parts(shards, "disentangled").notes[0]
    assert parts(shards, "none").notes == []


@pytest.mark.parametrize("decoupled", [None, {"learning_rate": 1e-4}])
def test_a_written_configuration_reads_as_it_was(decoupled, tmp_path, shards):
    config = settings(shards, objective__generator_optimizer=decoupled)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_a_seed_fixes_everything(shards):
    found = []
    for number in (1, 2):
        torch.manual_seed(number)  # whatever was drawn before
        config = settings(shards, "none", main__dropout=0.1)
        whole = assemble(config, CPU)
        state, plan = start(config, whole, CPU)
        make_update(state, plan, prepared(whole), CPU)
        found.append(state.tensors())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_every_record_has_the_keys_that_scripts_rely_on(tmp_path, shards):
    pretrain(settings(shards, training__updates=1, training__validation_sequences=4), tmp_path / "run")
    (record,) = without_clock(tmp_path / "run")
    assert {"update", "loss", "temperature", "learning_rate", "mlm", "rtd", "masked_accuracy"} <= set(record)
    assert {"clipped.main", "clipped.generator", "clipped.shared", "learning_rate.generator"} <= set(record)


@pytest.mark.parametrize("changes", [{"sampler": "race"}, {"sampler": "triton"}])
def test_only_the_default_sampler_draws_from_a_generator(changes, shards):
    with pytest.raises(ValueError, match="trains the generator that it samples from"):
        settings(shards, **{f"corruption__{key}": value for key, value in changes.items()})
