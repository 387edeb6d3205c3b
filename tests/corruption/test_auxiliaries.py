import json
import logging
import re
import shutil
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from fast_electra.config.tree import Config
from fast_electra.corruption import counted
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.auxiliary import (
    Candidates,
    CausalLanguageModel,
    MaskedLanguageModel,
    PrefixLanguageModel,
    SpanCorruptionModel,
    measure,
)
from fast_electra.corruption.counted import NGram, Unigram, unigram_log_probabilities
from fast_electra.corruption.masking import Masked, mask_random_tokens, masked_ids, originals
from fast_electra.corruption.replacement import OnTheFly
from fast_electra.data.shard_building import build_shards
from fast_electra.data.shards import open_shards
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.errors import CheckpointError, ConfigError, DataError, ModelError
from fast_electra.models.attention import MATMUL_ATTENTION
from fast_electra.models.layers import dropping, layer_stacks, truncate
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.other_lm import CausalLM, EncoderDecoderLM
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.training.assembly import assemble
from fast_electra.training.auxiliary import excluded_tokens, load_auxiliary
from fast_electra.training.precision import Execution
from tests import tiny
from tests.tiny import SPECIAL, batch

V = 320
EASY = Difficulty(1.0)
CPU = Execution(torch.device("cpu"), "float32", torch.float32, 1)
EXCLUDED = torch.arange(V) < 5
CANDIDATES = Candidates.of(EXCLUDED, torch.device("cpu"))
COMMON = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GROUPED = {"num_key_value_heads": 1, "head_dim": 16}
MASKED = {
    "albert": {"embedding_size": 16},
    "bert": {},
    "camembert": {},
    "convbert": {"embedding_size": 32, "head_ratio": 1},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "eurobert": {"num_key_value_heads": 2, "mask_token_id": 4},
    "megatron-bert": {},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3},
    "mpnet": {},
    "nomic_bert": {},
    "roberta": {},
    "roberta-prelayernorm": {},
    "xlm-roberta": {},
}
CAUSAL = {"gpt2": {}, "llama": GROUPED, "gpt_neox": {}, "qwen3": GROUPED, "gemma2": GROUPED, "opt": {"ffn_dim": 48}}


@pytest.fixture(autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()  # the tiny models' generation settings are said to be odd
    logging.getLogger("transformers").setLevel(logging.ERROR)


def model_of(auto, architecture: str, **options):
    """A tiny model with random weights far from zero, so that its distributions say something."""
    torch.manual_seed(0)
    names = COMMON if architecture not in ("distilbert", "t5") else {"vocab_size": V, "pad_token_id": 0}
    settings: dict[str, Any] = names | options
    config = transformers.CONFIG_MAPPING[architecture](**settings)
    model = auto.from_config(config, attn_implementation=MATMUL_ATTENTION).eval()
    if architecture != "t5":  # whose weights start larger
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.0)
    return model


def masked_model(architecture: str, **options):
    return model_of(AutoModelForMaskedLM, architecture, **(MASKED[architecture] | options))


def causal_model(architecture: str, **options):
    return model_of(AutoModelForCausalLM, architecture, **(CAUSAL[architecture] | options))


def t5(**options):
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
    return model_of(AutoModelForSeq2SeqLM, "t5", **(shape | options))


def settings(folder, auxiliary=None, **tree) -> Config:
    config = tiny.settings(folder, "fast_electra", auxiliary, training__updates=10, training__batch_size=4)
    found = config.model_dump()
    for key, value in tree.items():
        section, _, name = key.partition("__")
        found[section][name] = value
    return Config.model_validate(found)


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(config: Config) -> Any:
    assert config.data.shards is not None
    shards = open_shards(config.data.shards)
    return load_auxiliary(config, shards, load_tokenizer(shards.folder / "tokenizer"))


# --- masked language models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", MASKED)
def test_auxiliary_logits_at_masked_positions_equal_the_full_forward(architecture):
    rows = batch(rows=4, padding=6)
    masked = mask_random_tokens(rows, 0.2, seed=0)
    model = masked_model(architecture)
    with torch.no_grad():
        seen = masked_ids(rows, masked, SPECIAL["mask"])
        full = model(input_ids=seen, attention_mask=(~rows.padding).long()).logits
        found = MaskedLanguageModel(MaskedLM(model), CANDIDATES, SPECIAL["mask"]).logits(rows, masked, EASY)
    expected = full.gather(1, masked.positions_BM[:, :, None].expand(-1, -1, V)).flatten(0, 1)
    assert expected.std() > 0.01  # not all the same
    assert (found[:, :5] == float("-inf")).all()  # special tokens are never drawn
    torch.testing.assert_close(found[:, 5:], expected[:, 5:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "electra", "modernbert", "mpnet", "roberta"])
def test_tables_that_were_rounded_up_are_cut_to_the_tokenizer(architecture, tmp_path, shards, tokenizer):
    model = masked_model(architecture, vocab_size=V + 24, num_hidden_layers=1)
    size = len(tokenizer)
    loaded = load(settings(shards, save(model, tokenizer, tmp_path / "model")))
    ids = torch.randint(5, size, (2, 12))
    with torch.no_grad():
        expected, found = model(input_ids=ids).logits, loaded.model(input_ids=ids).logits
    assert found.shape[-1] == loaded.model.get_input_embeddings().num_embeddings == size
    torch.testing.assert_close(found, expected[..., :size], rtol=0, atol=1e-5)


@pytest.mark.parametrize("model", [masked_model("modernbert"), causal_model("llama")], ids=["modernbert", "llama"])
def test_a_frozen_auxiliary_in_bfloat16_keeps_its_rotary_frequencies(model):
    rows = batch(rows=2)
    masked = mask_random_tokens(rows, 0.2, seed=0)
    masked_lm = model.config.model_type == "modernbert"
    wrapped: Any = MaskedLM(model) if masked_lm else CausalLM(model)
    auxiliary: Any = (
        MaskedLanguageModel(wrapped, CANDIDATES, 4) if masked_lm else CausalLanguageModel(wrapped, CANDIDATES)
    )
    exact = auxiliary.logits(rows, masked, EASY)[:, 5:]
    frequencies = {name: buffer.clone() for name, buffer in model.named_buffers() if "inv_freq" in name}
    assert frequencies
    assert exact.requires_grad
    wrapped.freeze(torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(torch.equal(buffer, frequencies[name]) for name, buffer in model.named_buffers() if name in frequencies)
    found = auxiliary.logits(rows, masked, EASY)[:, 5:]
    assert float((found - exact).detach().abs().mean() / exact.detach().std()) < 0.03  # a few roundings to 8 bits


# --- left to right ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", CAUSAL)
def test_a_causal_auxiliary_gives_the_logits_left_of_each_masked_position(architecture):
    rows = batch(rows=3, padding=5)
    masked = mask_random_tokens(rows, 0.2, seed=0)
    model = causal_model(architecture)
    with torch.no_grad():
        found = CausalLanguageModel(CausalLM(model), CANDIDATES).logits(rows, masked, EASY)
        model.set_attn_implementation("eager")  # Transformers' own attention
        full = model(input_ids=rows.ids, attention_mask=(~rows.padding).long()).logits
    for row, slot in masked.valid_BM.nonzero().tolist():
        position = int(masked.positions_BM[row, slot])
        expected = full[row, position - 1].masked_fill(EXCLUDED, float("-inf"))
        torch.testing.assert_close(found[row * masked.valid_BM.shape[1] + slot], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_causal_auxiliary_reads_nothing_at_or_right_of_a_position_and_no_other_document(architecture):
    rows = batch(rows=2)
    positions = torch.tensor([[8, 24]] * 2)
    masked = Masked(positions, torch.ones_like(positions, dtype=torch.bool))
    auxiliary = CausalLanguageModel(CausalLM(causal_model(architecture), by_document=True), CANDIDATES)

    def logits(place: int) -> torch.Tensor:
        ids = rows.ids.clone()
        ids[:, place] = (ids[:, place] + 7) % V
        changed = type(rows)(**{**rows.__dict__, "ids": ids})
        with torch.no_grad():
            return auxiliary.logits(changed, masked, EASY).view(2, 2, V)

    with torch.no_grad():
        before = auxiliary.logits(rows, masked, EASY).view(2, 2, V)
    assert torch.equal(logits(24), before)
    assert torch.equal(logits(30), before)
    assert not torch.equal(logits(7)[:, 0], before[:, 0])
    assert torch.equal(logits(7)[:, 1], before[:, 1])  # of another document


def test_a_causal_class_that_reads_both_sides_is_refused():
    with pytest.raises(ModelError, match="BertLMHeadModel reads tokens to the right"):
        CausalLM(model_of(AutoModelForCausalLM, "bert"))
    CausalLM(model_of(AutoModelForCausalLM, "bert", is_decoder=True))


def test_a_prefix_auxiliary_equals_a_plain_pass_of_each_row():
    rows = batch(rows=4, padding=5)
    masked = mask_random_tokens(rows, 0.2, seed=0)
    model = t5()
    with torch.no_grad():
        found = PrefixLanguageModel(EncoderDecoderLM(model), CANDIDATES).logits(rows, masked, EASY)
        found = found.view(*masked.positions_BM.shape, V)
        model.set_attn_implementation("eager")
        for row in range(4):
            chosen = masked.positions_BM[row][masked.valid_BM[row]].tolist()
            for slot, position in enumerate(chosen):
                start = torch.tensor([[0]])
                decoder = torch.cat((start, rows.ids[row : row + 1, chosen[0] : position]), 1)
                expected = model(input_ids=rows.ids[row : row + 1, : chosen[0]], decoder_input_ids=decoder).logits
                expected = expected[0, -1].masked_fill(EXCLUDED, float("-inf"))
                torch.testing.assert_close(found[row, slot], expected, rtol=0, atol=1e-5)


def test_span_corruption_gives_a_sentinel_to_each_run_and_its_tokens_to_the_decoder():
    ids = torch.tensor([[2, 11, 12, 13, 14, 15, 16, 3, 0, 0], [2, 21, 22, 23, 24, 25, 26, 27, 28, 3]])
    padding = ids == 0
    rows = batch(rows=2, length=10)
    rows = type(rows)(**{**rows.__dict__, "ids": ids, "padding": padding, "eligible": ids > 5})
    masked = Masked(torch.tensor([[2, 3, 5], [1, 0, 2]]), torch.tensor([[True] * 3, [True, False, False]]))
    auxiliary = SpanCorruptionModel(EncoderDecoderLM(t5()), CANDIDATES, torch.tensor([101, 102, 103]))
    encoder, seen, decoder, wanted = auxiliary.inputs(rows, masked)
    assert encoder[0][seen[0]].tolist() == [2, 11, 101, 14, 102, 16, 3]
    assert encoder[1][seen[1]].tolist() == [2, 101, 22, 23, 24, 25, 26, 27, 28, 3]
    assert decoder[0].tolist() == [0, 101, 12, 13, 102, 15, 0]
    assert decoder[1].tolist() == [0, 101, 21, 0, 0, 0, 0]
    assert wanted[0].tolist() == [1, 2, 4]
    assert wanted[1, 0] == 1


def test_a_span_corruption_auxiliary_equals_a_plain_pass_of_each_row_and_reads_no_token_that_it_predicts():
    rows = batch(rows=4, padding=5)
    masked = mask_random_tokens(rows, 0.3, seed=0)
    sentinels = torch.arange(V - 12, V)
    excluded = EXCLUDED | (torch.arange(V) >= V - 12)
    model = t5()
    auxiliary = SpanCorruptionModel(EncoderDecoderLM(model), Candidates.of(excluded, sentinels.device), sentinels)
    with torch.no_grad():
        found = auxiliary.logits(rows, masked, EASY).view(*masked.positions_BM.shape, V)
        last = masked.positions_BM.gather(1, masked.valid_BM.sum(1, keepdim=True) - 1)
        changed = type(rows)(**{**rows.__dict__, "ids": rows.ids.scatter(1, last, 77)})
        again = auxiliary.logits(changed, masked, EASY).view(*masked.positions_BM.shape, V)
        assert torch.equal(found[masked.valid_BM], again[masked.valid_BM])
        model.set_attn_implementation("eager")
        for row in range(4):
            chosen = masked.positions_BM[row][masked.valid_BM[row]].tolist()
            encoder, decoder, spans = [], [0], 0
            for position, token in enumerate(rows.ids[row].tolist()):
                if position in chosen:
                    if position - 1 not in chosen:
                        encoder.append(int(sentinels[spans]))
                        decoder.append(int(sentinels[spans]))
                        spans += 1
                    seen = torch.tensor([encoder + rest(rows, row, position, chosen, sentinels, spans)])
                    logits = model(input_ids=seen, decoder_input_ids=torch.tensor([decoder])).logits[0, -1]
                    expected = logits.masked_fill(excluded, float("-inf"))
                    torch.testing.assert_close(found[row, chosen.index(position)], expected, rtol=0, atol=1e-5)
                    decoder.append(token)
                elif not rows.padding[row, position]:
                    encoder.append(token)


def rest(rows, row, position, chosen, sentinels, spans) -> list[int]:
    """What stands right of a masked position in the encoder's text."""
    found = []
    for later in range(position + 1, rows.ids.shape[1]):
        if later in chosen:
            if later - 1 not in chosen:
                found.append(int(sentinels[spans]))
                spans += 1
        elif not rows.padding[row, later]:
            found.append(int(rows.ids[row, later]))
    return found


def test_our_attention_gives_t5_its_own_logits():
    model, ids = t5(), torch.randint(5, V, (2, 14))
    seen = torch.ones_like(ids)
    seen[1, -4:] = 0
    with torch.no_grad():
        ours = model(input_ids=ids, attention_mask=seen, decoder_input_ids=ids[:, :9]).logits
        model.set_attn_implementation("eager")
        theirs = model(input_ids=ids, attention_mask=seen, decoder_input_ids=ids[:, :9]).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


# --- counted ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stream(shards):
    return open_shards(shards).split("train")


@pytest.fixture(scope="module")
def allowed(shards):
    return ~excluded_tokens(load_tokenizer(shards / "tokenizer"))


def test_unigram_and_uniform_are_the_counts_and_never_special(stream, allowed):
    tokens = stream.read(0, stream.tokens)
    counts = np.bincount(tokens, minlength=len(allowed)) + 1.0
    counts[~allowed.numpy()] = 0
    found = unigram_log_probabilities(stream, allowed)
    np.testing.assert_allclose(found.exp().numpy(), counts / counts.sum(), rtol=1e-5)
    uniform = counted.uniform_log_probabilities(allowed).exp()
    assert torch.equal(uniform > 0, allowed)
    torch.testing.assert_close(uniform[allowed], torch.full((int(allowed.sum()),), 1 / int(allowed.sum())))


def test_ngrams_are_interpolated_bigrams_of_both_unmasked_neighbours(shards, stream, allowed):
    auxiliary = NGram.count(stream, allowed, CPU.device)
    tokens, size, good = stream.read(0, stream.tokens), len(allowed), allowed.numpy()
    pairs = np.zeros((size, size))
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    pairs[~good] = 0
    pairs[:, ~good] = 0
    unigram = unigram_log_probabilities(stream, allowed).double().exp().numpy()

    def conditional(counts: np.ndarray) -> np.ndarray:
        total, different = counts.sum(), (counts > 0).sum()
        weight = total / (total + different) if total else 0.0
        return weight * counts / max(total, 1) + (1 - weight) * unigram

    parts = assemble(settings(shards, auxiliary__kind="ngram"), CPU)
    rows = parts.schedule.at(0)
    masked = mask_random_tokens(rows, 0.4, seed=0)  # so many that some neighbours are masked
    found = auxiliary.logits(rows, masked, EASY).double().softmax(1).view(*masked.positions_BM.shape, size)
    hidden = torch.zeros_like(rows.eligible).scatter(1, masked.positions_BM, masked.valid_BM)
    neighbours = 0
    for row, slot in masked.valid_BM.nonzero().tolist():
        position = int(masked.positions_BM[row, slot])
        expected = unigram.copy()
        for place, table in ((position - 1, pairs), (position + 1, pairs.T)):
            if rows.eligible[row, place] and not hidden[row, place]:
                expected *= np.divide(conditional(table[rows.ids[row, place]]), unigram, out=np.zeros(size), where=good)
                neighbours += 1
        np.testing.assert_allclose(found[row, slot].numpy(), expected / expected.sum(), rtol=1e-4, atol=1e-9)
    assert 0 < neighbours < 2 * int(masked.valid_BM.sum())


def test_counting_in_chunks_gives_the_same_tables_and_pairs_stay_within_their_bound(stream, allowed, monkeypatch):
    whole = NGram.count(stream, allowed, CPU.device)
    monkeypatch.setattr(counted, "_CHUNK", 100)
    parts = NGram.count(stream, allowed, CPU.device)
    for one, other in ((whole.after, parts.after), (whole.before, parts.before)):
        assert torch.equal(one.starts_V, other.starts_V)
        assert torch.equal(one.gains_P, other.gains_P)
    monkeypatch.setattr(counted, "_MOST_PAIRS", 50)
    few = NGram.count(stream, allowed, CPU.device)
    assert len(few.after.tokens_P) == 50
    monkeypatch.setattr(counted, "_MOST_TOKENS", 400)
    assert list(counted._chunks(1000)) == [(0, 100), (200, 300), (500, 600), (700, 800)]


# --- truncation, checkpoints, generators -----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [name for name in MASKED if name != "albert"])
def test_a_truncated_auxiliary_is_the_model_of_its_first_layers_and_is_saved_as_such(architecture, tmp_path):
    layers = {"n_layers" if architecture == "distilbert" else "num_hidden_layers": 3}
    model = masked_model(architecture, **layers)
    smaller = masked_model(architecture, **{name: 2 for name in layers})
    smaller.load_state_dict(model.state_dict(), strict=False)
    truncate(model, 2)
    ids = batch(rows=2).ids
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, smaller(input_ids=ids).logits)
        model.save_pretrained(tmp_path)
        again = AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation=MATMUL_ATTENTION)
        assert torch.equal(model(input_ids=ids).logits, again.eval()(input_ids=ids).logits)


def test_encoder_decoders_and_causal_models_are_truncated_too():
    for model in (t5(num_layers=3), causal_model("llama", num_hidden_layers=3), causal_model("gpt2", n_layer=3)):
        truncate(model, 2)
        assert {len(stack) for stack in layer_stacks(model)} == {2}
        ids = batch(rows=2).ids
        with torch.no_grad():
            extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
            assert model(input_ids=ids, **extra).logits.isfinite().all()


def test_layers_that_are_not_there_are_refused(shards, auxiliary):
    with pytest.raises(ModelError, match=r"auxiliary.layers=3, but the auxiliary has 2"):
        load(settings(shards, auxiliary, auxiliary__layers=3))
    with pytest.raises(ModelError, match="no layers can be removed from this albert"):
        truncate(masked_model("albert"), 1)


def test_an_auxiliary_is_taken_at_any_of_its_checkpoints(tmp_path, shards, auxiliary):
    last = load(settings(shards, auxiliary))
    same = load(settings(shards, auxiliary, auxiliary__checkpoint=12))
    earlier = load(settings(shards, auxiliary, auxiliary__checkpoint=8))
    assert same.digest == last.digest  # float32 run: the export is the last checkpoint
    assert earlier.digest != last.digest
    assert load(settings(shards, auxiliary, auxiliary__layers=1)).digest != last.digest
    with pytest.raises(CheckpointError, match=r"has no checkpoint of update 5: it has 8, 12\."):
        load(settings(shards, auxiliary, auxiliary__checkpoint=5))
    elsewhere = shutil.copytree(auxiliary / "model", tmp_path / "model")
    with pytest.raises(CheckpointError, match="is no run"):
        load(settings(shards, elsewhere, auxiliary__checkpoint=5))


@pytest.mark.parametrize("clip", ["per_model", "joint"])
def test_a_joint_run_stands_for_its_generator_at_its_end_and_at_a_checkpoint(clip, tmp_path, shards):
    shape = {"architecture": "electra", "layers": 1, "hidden_size": 32, "heads": 2, "intermediate_size": 48}
    tree = tiny.settings(shards).model_dump() | {"objective": {"kind": "electra", "generator": shape, "clip": clip}}
    tree["main"] |= shape
    tree["training"] |= {"updates": 4, "checkpoint_every": 2}
    pretrain(Config.model_validate(tree), tmp_path / "joint")
    last = load(settings(shards, tmp_path / "joint"))
    direct = load(settings(shards, tmp_path / "joint" / "generator"))
    assert last.part.kind == "masked_lm"
    assert last.digest == direct.digest
    assert load(settings(shards, tmp_path / "joint", auxiliary__checkpoint=4)).digest == last.digest
    earlier = load(settings(shards, tmp_path / "joint", auxiliary__checkpoint=2))
    for (name, one), (_, other) in zip(earlier.model.named_parameters(), last.model.named_parameters(), strict=True):
        assert not torch.equal(one, other), name


# --- augmentations ---------------------------------------------------------------------------------------------------


def auxiliaries():
    sentinels = torch.arange(V - 12, V)
    yield MaskedLanguageModel(MaskedLM(masked_model("modernbert")), CANDIDATES, SPECIAL["mask"])
    yield MaskedLanguageModel(MaskedLM(masked_model("bert")), CANDIDATES, SPECIAL["mask"])
    yield CausalLanguageModel(CausalLM(causal_model("gpt2")), CANDIDATES)
    yield PrefixLanguageModel(EncoderDecoderLM(t5()), CANDIDATES)
    yield SpanCorruptionModel(EncoderDecoderLM(t5()), CANDIDATES, sentinels)


@torch.no_grad()
def test_dropout_and_attention_dropping_act_inside_the_auxiliary_and_at_strength_zero_not_at_all():
    rows = batch(rows=2)
    masked = mask_random_tokens(rows, 0.2, seed=0)
    for auxiliary in auxiliaries():
        plain = auxiliary.logits(rows, masked, EASY)
        for kind in ("dropout", "attention_dropping"):
            seeded = []
            for seed in (1, 1, 2):
                torch.manual_seed(seed)
                seeded.append(auxiliary.logits(rows, masked, Difficulty(1.0, **{kind: 0.5})))
            assert torch.equal(seeded[0], seeded[1])
            assert not torch.equal(seeded[0], seeded[2])
            assert not torch.equal(seeded[0], plain)
        state = torch.get_rng_state()
        assert torch.equal(auxiliary.logits(rows, masked, Difficulty(1.0, 0.0, 0.0)), plain)  # nothing is left behind
        assert torch.equal(torch.get_rng_state(), state)  # and nothing drawn


@pytest.mark.parametrize("architecture", [*MASKED, *CAUSAL, "t5"])
@torch.no_grad()
def test_the_documentation_says_which_augmentation_each_model_feels(architecture):
    if architecture == "t5":
        model = t5()
    else:
        model = masked_model(architecture) if architecture in MASKED else causal_model(architecture)
    ids = batch(rows=2).ids
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if architecture == "t5" else {})
    plain, felt = model(**inputs).logits, []
    for rates in ((0.5, 0.0), (0.0, 0.5)):
        with dropping(model, *rates):
            felt.append("no" if torch.equal(model(**inputs).logits, plain) else "yes")
    page = (tiny.ROOT / "docs" / "auxiliaries.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| [^|]*(?<![\w-]){architecture}(?![\w-])[^|]*\|.*$", page, re.MULTILINE)
    assert [cell.split(":")[0].split(",")[0].strip() for cell in row.split("|")[4:6]] == felt


@torch.no_grad()
def test_dropout_drops_its_share_of_hidden_states_and_scales_the_rest():
    model = masked_model("bert")
    (stack,) = layer_stacks(model)
    seen: list[torch.Tensor] = []
    stack[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    ids = batch(rows=64).ids
    model(input_ids=ids)
    with dropping(model, 0.3, 0.0):
        hook = stack[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        model(input_ids=ids)
        hook.remove()
    plain, dropped = seen[0], seen[-1]
    kept = dropped != 0
    share = 1 - float(kept.float().mean())
    assert abs(share - 0.3) < 5 * (0.21 / kept.numel()) ** 0.5
    torch.testing.assert_close(dropped[kept], plain[kept] / 0.7)


def test_an_augmentation_that_would_change_nothing_is_refused(tmp_path, shards, tokenizer):
    model = masked_model("deberta-v2", vocab_size=len(tokenizer))
    folder = save(model, tokenizer, tmp_path / "deberta")
    schedule = {"kind": "attention_dropping", "strength": 0.3}
    with pytest.raises(ConfigError, match=r"augmentation.kind=attention_dropping changes nothing"):
        assemble(settings(shards, folder, corruption__augmentation=schedule), CPU)


# --- the check before use --------------------------------------------------------------------------------------------


def test_the_measures_are_the_plain_ones(stream, allowed):
    rows = batch(rows=4, vocabulary=len(allowed))
    masked = mask_random_tokens(rows, 0.2, seed=0)
    candidates = Candidates.of(~allowed, allowed.device)
    model = MaskedLanguageModel(MaskedLM(masked_model("bert", vocab_size=len(allowed))), candidates, SPECIAL["mask"])
    unigram = unigram_log_probabilities(stream, allowed)
    found = measure(model, [(b, m) for b, m in zip(rows.split(2), masked.split(2), strict=True)], 7, unigram)
    with torch.no_grad():
        log_p = model.logits(rows, masked, EASY).log_softmax(1)[masked.valid_BM.flatten()].double().numpy()
    truth = originals(rows, masked)[masked.valid_BM].numpy()
    picked = log_p[np.arange(len(truth)), truth]
    assert found["masked_accuracy"] == np.mean(log_p.argmax(1) == truth)
    assert found["unigram_accuracy"] == np.mean(truth == 7)
    assert found["perplexity"] == pytest.approx(np.exp(-picked.mean()), rel=1e-5)
    assert found["unigram_perplexity"] == pytest.approx(np.exp(-unigram.numpy()[truth].mean()), rel=1e-5)
    uniform = Unigram(counted.uniform_log_probabilities(allowed))
    assert measure(uniform, [(rows, masked)], 7, unigram)["perplexity"] == pytest.approx(int(allowed.sum()), rel=1e-5)


def test_an_auxiliary_at_the_unigram_plateau_gets_a_warning_and_a_better_one_does_not(tmp_path, shards, tokenizer):
    folder = save(masked_model("bert", vocab_size=len(tokenizer)), tokenizer, tmp_path / "untrained")
    parts = assemble(settings(shards, folder), CPU)
    assert any(note.startswith("warning: this auxiliary knows no more than token frequencies") for note in parts.notes)
    better = assemble(settings(shards, auxiliary__kind="ngram"), CPU)
    assert better.auxiliary_measures["perplexity"] < 0.5 * better.auxiliary_measures["unigram_perplexity"]
    assert [note for note in better.notes if "masked tokens" in note]
    floor = assemble(settings(shards, auxiliary__kind="unigram"), CPU)
    assert not any("warning" in note for note in better.notes + floor.notes)
    assert floor.auxiliary_measures["perplexity"] == pytest.approx(floor.auxiliary_measures["unigram_perplexity"])


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def span_shards(tmp_path_factory):
    """Shards whose tokenizer has T5's sentinels."""
    texts = tiny.documents()
    config = tiny.settings(None).data.model_copy(update={"workers": 1})  # type: ignore[arg-type]
    tokenizer = tiny.train_tokenizer((d.text for d in texts), config.tokenizer, config.length)
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<extra_id_{n}>" for n in range(8)]})
    folder = tmp_path_factory.mktemp("span") / "shards"
    build_shards(texts, tokenizer, folder, config)
    return folder


@pytest.mark.parametrize(
    "kind", ["masked_lm", "causal_lm", "prefix_lm", "span_corruption", "ngram", "unigram", "uniform"]
)
def test_every_kind_of_auxiliary_trains_a_main_model(kind, tmp_path, span_shards):
    tokenizer = load_tokenizer(span_shards / "tokenizer")
    make = {
        "masked_lm": lambda **o: masked_model("electra", **o),
        "causal_lm": lambda **o: causal_model("llama", **o),
        "prefix_lm": t5,
        "span_corruption": t5,
    }
    folder = None
    if kind in make:
        folder = save(make[kind](vocab_size=len(tokenizer)), tokenizer, tmp_path / "auxiliary")
    asked = kind if kind in ("prefix_lm", "ngram", "unigram", "uniform") else "auto"
    config = settings(span_shards, folder, auxiliary__kind=asked)
    parts = assemble(config, CPU)
    source = parts.objective.source  # type: ignore[attr-defined]
    assert isinstance(source, OnTheFly)
    prepared = parts.objective.prepare(parts.schedule.at(0), 0)
    corrupted = source.corrupt(prepared.batch, prepared.masked, Difficulty(2.0), seed=0)
    drawn = corrupted.ids_BS[corrupted.replaced_BS]
    assert len(drawn)
    if kind != "masked_lm":
        assert not torch.isin(drawn, torch.tensor(tokenizer.all_special_ids)).any()
    for module in source.auxiliary.modules():
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    result = pretrain(config, tmp_path / "run")
    assert result.updates == 10
    assert 0 < result.validation["replaced_fraction"] <= 1


def test_a_causal_model_without_a_mask_token_reads_the_shards_of_its_own_tokenizer(tmp_path, shards, tokenizer):
    # The shards' tokenizer is the model's and [MASK]; the model has no row for it.
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    mask = content["model"]["vocab"].pop("[MASK]", None)
    mask = next(t["id"] for t in content["added_tokens"] if t["content"] == "[MASK]") if mask is None else mask
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "[MASK]"]
    assert mask == SPECIAL["mask"]
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        pad_token="[PAD]",
    )
    assert theirs.mask_token is None
    folder = save(causal_model("gpt2", vocab_size=len(tokenizer)), theirs, tmp_path / "gpt2")
    assert load(settings(shards, folder)).part.kind == "causal_lm"
    with pytest.raises(DataError, match=r"has no .*mask token"):
        load(settings(shards, folder, auxiliary__kind="masked_lm"))


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_no_auxiliary_is_refused_in_one_sentence(tmp_path, shards, tokenizer, auxiliary):
    size = len(tokenizer)
    bert = masked_model("bert", vocab_size=size)
    classifier = transformers.AutoModelForSequenceClassification.from_config(bert.config)
    with pytest.raises(ModelError, match="is a BertForSequenceClassification, which is not a language model"):
        load(settings(shards, save(classifier, tokenizer, tmp_path / "classifier")))
    with pytest.raises(ModelError, match=r"has no weights for cls.*main.freeze=encoder"):
        load(settings(shards, save(AutoModel.from_config(bert.config), tokenizer, tmp_path / "encoder")))
    with pytest.raises(ModelError, match="needs an encoder-decoder"):
        load(settings(shards, auxiliary, auxiliary__kind="prefix_lm"))
    with pytest.raises(ModelError, match="is an encoder-decoder"):
        load(settings(shards, save(t5(vocab_size=size), tokenizer, tmp_path / "t5"), auxiliary__kind="masked_lm"))
    with pytest.raises(ModelError, match="has no sentinels"):
        load(settings(shards, tmp_path / "t5"))


def test_damaged_foreign_and_unreachable_weights_are_refused_in_one_sentence(tmp_path, shards, tokenizer):
    bert = masked_model("bert", vocab_size=len(tokenizer))
    folder = save(bert, tokenizer, tmp_path / "bert")
    shutil.copytree(folder, tmp_path / "bin")
    (tmp_path / "bin" / "model.safetensors").rename(tmp_path / "bin" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*.safetensors file, only pytorch_model.bin.*save the model again"):
        load(settings(shards, tmp_path / "bin"))
    remote = shutil.copytree(folder, tmp_path / "remote")
    content = json.loads((remote / "config.json").read_text())
    content |= {"model_type": "of_their_own", "auto_map": {"AutoConfig": "code.Own", "AutoModelForMaskedLM": "code.M"}}
    (remote / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="needs code that comes with it, and such code is never run"):
        load(settings(shards, remote))
    with pytest.raises(ModelError, match=r"nobody/nothing is not a folder here.*without network.*name the folder"):
        load(settings(shards, "nobody/nothing"))
    with torch.no_grad():
        nn.init.constant_(bert.bert.embeddings.LayerNorm.bias, float("nan"))
    with pytest.raises(ModelError, match="hold NaN or infinity"):
        load(settings(shards, save(bert, tokenizer, tmp_path / "nan")))


def test_tokens_that_mean_something_else_are_refused_with_what_differs(tmp_path, shards, tokenizer):
    size = len(tokenizer)
    data = tiny.settings(shards).data
    other = tiny.train_tokenizer((d.text for d in tiny.documents(seed=5)), data.tokenizer, data.length)
    bert = masked_model("bert", vocab_size=max(size, len(other)))
    with pytest.raises(ModelError, match=r"another tokenizer than the shards .*in another order; .* is \d+ there"):
        load(settings(shards, save(bert, other, tmp_path / "a")))
    longer = load_tokenizer(shards / "tokenizer")
    longer.add_tokens("[MORE]")
    with pytest.raises(ModelError, match=rf"{size + 1} and {size} tokens; '\[MORE\]' is not among the shards'"):
        load(settings(shards, save(bert, longer, tmp_path / "more")))
    gpt2 = causal_model("gpt2", vocab_size=size)
    with pytest.raises(ModelError, match="another tokenizer than the shards"):
        load(settings(shards, save(gpt2, other, tmp_path / "b")))
    swapped = load_tokenizer(shards / "tokenizer")
    swapped.mask_token = "[UNK]"
    with pytest.raises(ModelError, match=r"its mask token is '\[UNK\]', and here it is '\[MASK\]'"):
        load(settings(shards, save(bert, swapped, tmp_path / "c")))
    small = masked_model("bert", vocab_size=size - 20)
    with pytest.raises(ModelError, match=f"embeddings for {size - 20} tokens, but its tokenizer has {size}"):
        load(settings(shards, save(small, tokenizer, tmp_path / "d")))
    with pytest.raises(ModelError, match=r"takes 40 tokens, fewer than data.length=64"):
        load(settings(shards, save(masked_model("bert", vocab_size=size), tokenizer, tmp_path / "e"), data__length=64))


def test_an_encoder_decoder_and_documents_apart_are_refused_together(tmp_path, span_shards):
    tokenizer = load_tokenizer(span_shards / "tokenizer")
    folder = save(t5(vocab_size=len(tokenizer)), tokenizer, tmp_path / "t5")
    with pytest.raises(ConfigError, match=r"attention=document is not possible with auxiliary.kind=span_corruption"):
        assemble(settings(span_shards, folder, data__attention="document"), CPU)
    with pytest.raises(ModelError, match=r"may have 18 masked spans, and the auxiliary .* has 8 sentinels"):
        load(settings(span_shards, folder, data__length=120))


def test_a_run_of_fast_electra_is_no_auxiliary(tmp_path, shards):
    pretrain(settings(shards, auxiliary__kind="uniform"), tmp_path / "run")
    with pytest.raises(ModelError, match="detects tokens and predicts none"):
        load(settings(shards, tmp_path / "run"))
