import subprocess
import sys
import textwrap

import pytest
import torch
from pydantic import ValidationError
from transformers import AttentionMaskInterface, GPT2Config

from fast_electra.corruption.masking import mask_random_tokens
from fast_electra.data.batches import Batch
from fast_electra.errors import ConfigError, ModelError
from fast_electra.models.attention import MATMUL_ATTENTION
from fast_electra.models.build import build_model, start_at_unigram, start_from, transformers_config
from fast_electra.models.export import export_model
from fast_electra.models.inputs import longest_row, model_inputs, refuse_leaks
from fast_electra.models.loading import load_model, weights_digest
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.rtd import ReplacedTokenDetector, replaced_logits
from fast_electra.models.shapes import ModelConfig
from tests.tiny import SPECIAL, batch

SHAPE = {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 48}
ROUTED = ["modernbert", "electra", "bert", "roberta", "eurobert", "nomic_bert", "distilbert"]
EAGER = ["mpnet", "deberta", "deberta-v2", "deberta-v3"]
ARCHITECTURES = [*ROUTED, *EAGER]
# DeBERTa-v3 is DeBERTa-v2 with relative positions in buckets and none in the embeddings.
DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
# Every second layer sees 16 tokens only, so that a lost sliding window shows.
WINDOWS = {"layer_types": ["full_attention", "sliding_attention"], "local_attention": 16}


def config(architecture: str, vocabulary: int = 320, special=SPECIAL, **changes):
    options = {"modernbert": WINDOWS, "deberta-v3": DEBERTA_V3}.get(architecture, {})
    shape = ModelConfig(architecture=architecture.replace("-v3", "-v2"), options=options | changes, **SHAPE)
    return transformers_config(shape, vocabulary, special, 32)


def test_only_what_fails_with_documents_and_not_without_is_a_refusal(monkeypatch):
    model = build_model(config("bert"), "rtd", 0)
    forward = model.base_model.forward

    def devices_differ(**inputs):
        raise RuntimeError("Expected all tensors to be on the same device, but got mat2 is on cpu")

    def no_documents(**inputs):
        if "position_ids" in inputs:
            raise RuntimeError("the size of tensor a (8) must match the size of tensor b (1)")
        return forward(**inputs)

    monkeypatch.setattr(model.base_model, "forward", devices_differ)
    with pytest.raises(RuntimeError, match="same device"):
        refuse_leaks(model)
    assert model.training
    monkeypatch.setattr(model.base_model, "forward", no_documents)
    with pytest.raises(ConfigError, match="its class refuses: the size of tensor a"):
        refuse_leaks(model)
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_changing_one_document_changes_no_logit_of_another_in_its_row(architecture, dtype):
    # Rows are as long as the model is wide, where DeBERTa takes a mask of three dimensions and is silently wrong.
    rows = batch(rows=3)
    detector = ReplacedTokenDetector(build_model(config(architecture), "rtd", 0), by_document=True).eval().to(dtype)
    changed = rows.ids.clone()
    changed[:, 1:10] = changed[:, 1:10].flip(1)
    with torch.no_grad():
        before, after = detector.logits(rows, rows.ids), detector.logits(rows, changed)
    second = rows.documents == 1
    assert torch.equal(before[second], after[second])  # exactly
    assert not torch.equal(before[~second], after[~second])


@pytest.mark.parametrize("head", ["rtd", "mlm"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_dropout_of_a_shape_is_that_of_every_layer(architecture, head):
    for dropout in (0.0, 0.25):
        shape = ModelConfig(architecture=architecture.replace("-v3", "-v2"), dropout=dropout, **SHAPE)
        model = build_model(transformers_config(shape, 320, SPECIAL, 32), head, 0)
        found = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
        assert set(found.values()) <= {dropout}, found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_document_is_scored_as_if_it_were_alone(architecture):
    rows = batch(rows=2)
    detector = ReplacedTokenDetector(build_model(config(architecture), "rtd", 0), by_document=True).eval()
    with torch.no_grad():
        packed = detector.logits(rows, rows.ids)
        alone = replaced_logits(detector.model(input_ids=rows.ids[:, :17]).logits)
    torch.testing.assert_close(packed[:, :17], alone, rtol=0, atol=1e-5)  # float32 rounding of longer sums


COUNTING = [
    "roberta",
    "mpnet",
    "data2vec-text",
    "esm",
    "longformer",
    "nystromformer",
    "bert",
    "distilbert",
    "modernbert",
]


@pytest.mark.parametrize("architecture", COUNTING)
def test_a_fresh_model_takes_rows_of_its_full_length_and_a_published_one_as_many_as_it_has_positions_for(architecture):
    options = {"longformer": {"attention_window": 8}, "esm": {"position_embedding_type": "absolute"}}
    shape = config(architecture, special=SPECIAL | {"pad": 1, "unk": 0}, **options.get(architecture, {}))
    assert longest_row(shape) == 32
    model = build_model(shape, "mlm", 0).eval()
    ids = torch.arange(5, 37)[None]
    with torch.no_grad():
        assert model(input_ids=ids).logits.isfinite().all()
        # Positions that are given start where those start that the class makes: nothing changes but the mask's way.
        if architecture not in (
            "distilbert",
            "longformer",
            "nystromformer",
            "esm",
        ):  # they take none, or no document ids
            rows = Batch.of(ids, torch.zeros_like(ids, dtype=torch.bool))
            given = model(**model_inputs(model.config, ids, rows, by_document=True)).logits
            torch.testing.assert_close(given, model(input_ids=ids).logits, rtol=0, atol=1e-5)
        if architecture in ("bert", "roberta", "mpnet", "data2vec-text", "esm"):
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.arange(5, 38)[None])


@pytest.mark.parametrize("architecture", ["roberta", "mpnet"])
def test_positions_start_where_the_class_starts_them_whatever_the_padding_id_is(architecture):
    rows = batch(rows=2)
    special = SPECIAL | {"pad": 1, "unk": 0}  # as in the published ones
    model = build_model(config(architecture, special=special), "rtd", 0)
    detector = ReplacedTokenDetector(model, by_document=True).eval()
    with torch.no_grad():
        packed = detector.logits(rows, rows.ids)
        alone = replaced_logits(detector.model(input_ids=rows.ids[:, :17]).logits)
    torch.testing.assert_close(packed[:, :17], alone, rtol=0, atol=1e-5)


def test_document_masks_are_added_as_numbers_and_never_as_zero_and_one():
    documents = torch.tensor([[[0, 0, 1]]])
    mask = AttentionMaskInterface()[MATMUL_ATTENTION](1, 3, 3, attention_mask=documents)
    assert mask.dtype == torch.float32
    assert mask[0, 0, 0].tolist() == [0.0, 0.0, torch.finfo(torch.bfloat16).min]


def test_a_sliding_window_stays_inside_a_document():
    rows = batch(rows=2)
    local = {"layer_types": ["sliding_attention"] * 2, "local_attention": 8}
    model = build_model(config("modernbert", **local), "rtd", 0)
    detector = ReplacedTokenDetector(model, by_document=True).eval()
    changed = rows.ids.clone()
    changed[:, 1] = 7
    with torch.no_grad():
        before, after = detector.logits(rows, rows.ids), detector.logits(rows, changed)
    # Two layers of four tokens to each side: position 1 reaches 9, and not 10 of its own document.
    assert torch.equal(before[:, 10:], after[:, 10:])
    assert not torch.equal(before[:, 9], after[:, 9])


def test_a_class_that_lets_documents_mix_by_a_convolution_is_refused():
    model = build_model(config("deberta-v2", conv_kernel_size=3), "rtd", 0)
    with pytest.raises(ConfigError, match=r"data\.attention=document is not possible with this deberta-v2"):
        ReplacedTokenDetector(model, by_document=True)
    ReplacedTokenDetector(model)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_token_but_padding_has_a_trained_embedding(architecture):
    rows = batch(rows=2)
    ids = rows.ids.clone()
    ids[:, 3] = SPECIAL["unk"]  # id 1, MPNet's own padding
    model = build_model(config(architecture), "rtd", 0)
    replaced_logits(model(input_ids=ids).logits).sum().backward()
    gradient = model.get_input_embeddings().weight.grad
    assert all(gradient[token].any() for token in ids.unique())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_our_attention_gives_transformers_own_logits(architecture):
    rows = batch(rows=3, padding=7)
    model = build_model(config(architecture), "rtd", 0).eval()
    padding = (~rows.padding).long()
    with torch.no_grad():
        ours = model(input_ids=rows.ids, attention_mask=padding).logits
        model.set_attn_implementation("eager")
        theirs = model(input_ids=rows.ids, attention_mask=padding).logits
    torch.testing.assert_close(ours[~rows.padding], theirs[~rows.padding], rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_at_masked_positions_equal_the_full_forward(architecture):
    rows = batch(rows=4)
    masked = mask_random_tokens(rows, 0.2, seed=0)
    model = build_model(config(architecture), "mlm", 0).eval()
    with torch.no_grad():
        full = model(input_ids=rows.ids).logits
        some = MaskedLM(model).masked_logits(rows, rows.ids, masked.positions_BM)
    expected = full.gather(1, masked.positions_BM[:, :, None].expand(-1, -1, full.shape[-1])).flatten(0, 1)
    torch.testing.assert_close(some, expected, rtol=0, atol=1e-5)


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = build_model(config("modernbert"), "rtd", 7).state_dict()
    torch.manual_seed(2)
    second = build_model(config("modernbert"), "rtd", 7).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_export_gives_the_same_logits_and_softmax_is_the_sigmoid(architecture, tmp_path, tokenizer):
    rows = batch(rows=2)
    model = build_model(config(architecture, len(tokenizer)), "rtd", 0).eval()
    with torch.no_grad():
        trained = replaced_logits(model(input_ids=rows.ids % len(tokenizer)).logits)
    export_model(model, tokenizer, tmp_path / "model", "card")
    again = load_model(tmp_path / "model", "rtd")
    with torch.no_grad():
        raw = again(input_ids=rows.ids % len(tokenizer)).logits
    torch.testing.assert_close(replaced_logits(raw), trained, rtol=0, atol=1e-5)
    if raw.ndim == 3:
        torch.testing.assert_close(raw.softmax(-1)[..., 1], trained.sigmoid(), rtol=0, atol=1e-5)
        assert (raw[..., 0] == 0).all()


def test_a_process_without_this_package_loads_the_export_and_marks_replaced_tokens(tmp_path, tokenizer):
    model = build_model(config("modernbert", len(tokenizer)), "rtd", 0)
    export_model(model, tokenizer, tmp_path / "model", "card")
    program = f"""
    import sys
    sys.modules["fast_electra"] = None  # any import of it raises
    import transformers
    from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer, pipeline
    folder = {str(tmp_path / "model")!r}
    encoder = AutoModel.from_pretrained(folder)
    model, report = AutoModelForTokenClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = pipeline("token-classification", model=model, tokenizer=tokenizer)("total = left + right")
    assert found and {{token["entity"] for token in found}} <= {{"original", "replaced"}}, found
    assert encoder(**tokenizer("x", return_tensors="pt")).last_hidden_state.shape[-1] == 32
    print("fine")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip().endswith("fine"), done.stderr


def test_a_main_model_starts_from_the_auxiliarys_weights():
    auxiliary = build_model(config("modernbert"), "mlm", 0)
    main = build_model(config("modernbert"), "rtd", 1)
    copied = start_from(main, auxiliary, embeddings_only=False)
    own = dict(main.base_model.named_parameters())
    theirs = dict(auxiliary.base_model.named_parameters())
    assert set(copied) == set(own)
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert all(own[name] is not theirs[name] for name in own)


def test_an_unknown_activation_is_no_missing_head():
    with pytest.raises(ModelError, match=r"Transformers cannot build a bert of this configuration \(KeyError: .*gelo"):
        build_model(config("bert", hidden_act="gelo"), "mlm", 0)
    with pytest.raises(ModelError, match="gpt2 has no mlm head in Transformers: take another architecture"):
        build_model(GPT2Config(), "mlm", 0)


def test_an_impossible_shape_or_architecture_is_one_clear_sentence():
    with pytest.raises(ModelError, match="is not a model_type of Transformers"):
        transformers_config(ModelConfig(architecture="modernbart", **SHAPE), 320, SPECIAL, 32)
    with pytest.raises(ModelError, match="not a key of the modernbert configuration"):
        transformers_config(ModelConfig(options={"local_atention": 8}, **SHAPE), 320, SPECIAL, 32)
    three = {"layer_types": ["full_attention"] * (SHAPE["layers"] + 1)}
    with pytest.raises(
        ValidationError, match=r"options.layer_types has 3 entries for layers \(2\): give one per layer"
    ):
        ModelConfig(options=three, **SHAPE)
    with pytest.raises(ModelError, match="Transformers refuses this modernbert shape: "):
        transformers_config(ModelConfig(options={"layer_types": ["full", "full"]}, **SHAPE), 320, SPECIAL, 32)


def test_sequences_are_classified_by_the_mean_of_their_tokens_unless_said():
    """No loss reaches [CLS] in pre-training; ModernBERT's own class would read it alone."""
    shape = ModelConfig(layers=1, hidden_size=32, heads=2, intermediate_size=48)
    said = shape.model_copy(update={"options": {"classifier_pooling": "cls"}})
    found = [transformers_config(each, 320, SPECIAL, 64).classifier_pooling for each in (shape, said)]
    assert found == ["mean", "cls"]


def test_what_is_no_model_is_refused(tmp_path, tokenizer):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config.json is missing"):
        load_model(tmp_path / "empty", "mlm")
    with pytest.raises(ModelError, match="is not a folder"):
        load_model(tmp_path / "nowhere", "mlm")
    export_model(build_model(config("modernbert", len(tokenizer)), "rtd", 0), tokenizer, tmp_path / "rtd", "card")
    with pytest.raises(ModelError, match="not a modernbert with an mlm head"):
        load_model(tmp_path / "rtd", "mlm")
    damaged = build_model(config("modernbert", len(tokenizer)), "mlm", 0)
    with torch.no_grad():
        next(damaged.parameters())[0, 0] = float("nan")
    export_model(damaged, tokenizer, tmp_path / "nan", "card")
    with pytest.raises(ModelError, match="hold NaN"):
        load_model(tmp_path / "nan", "mlm")
    weights = tmp_path / "rtd" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"has .* bytes and should have .*: fetch or export it again"):
        load_model(tmp_path / "rtd", "rtd")
    with pytest.raises(ModelError, match=r"model.safetensors is damaged or incomplete"):
        weights_digest(tmp_path / "rtd")


def test_a_new_vocabulary_head_starts_at_the_unigram_frequencies_also_where_its_table_is_longer():
    log_probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0]).log().repeat_interleave(25) - torch.tensor(25.0).log()
    shape = ModelConfig(architecture="bert", layers=1, hidden_size=32, heads=2, intermediate_size=48)
    model = build_model(transformers_config(shape, 104, SPECIAL, 32), "mlm", seed=0)
    start_at_unigram(model, log_probabilities)
    bias = model.get_output_embeddings().bias
    assert torch.equal(bias[:75], log_probabilities[:75])
    assert (bias[75:] == log_probabilities[74]).all()  # never in the corpus, or no token's at all
    trained = bias.detach().clone()
    start_at_unigram(model, log_probabilities.flip(0))
    assert torch.equal(bias, trained)


def test_a_head_whose_output_embeddings_are_another_layer_is_left_as_it_is():
    options = {"legacy": False}
    shape = ModelConfig(
        architecture="deberta-v2", layers=1, hidden_size=32, heads=2, intermediate_size=48, options=options
    )
    model = build_model(transformers_config(shape, 104, SPECIAL, 32), "mlm", seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_at_unigram(model, torch.full((104,), 1 / 104).log())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
