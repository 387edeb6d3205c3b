"""Whole words and spans: what a word is, how long spans are. What all kinds of masking promise: test_lessons.py."""

import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fast_electra.corruption.masking import (
    WordPieces,
    mask_random_tokens,
    mask_spans,
    mask_whole_words,
    span_lengths,
    word_pieces,
)
from fast_electra.corruption.masking_kinds import Masking, SpanMasking
from tests import tiny


def selected(rows, masked) -> torch.Tensor:
    return torch.zeros_like(rows.eligible).scatter(1, masked.positions_BM, masked.valid_BM)


def runs(selected_S: torch.Tensor, eligible_S: torch.Tensor) -> list[int]:
    """Lengths of the runs of masked positions that touch no end and no special token."""
    signs = "".join(
        "x" if masked else "-" if eligible else "|" for masked, eligible in zip(selected_S, eligible_S, strict=True)
    )
    return [len(run) for run in re.findall(r"(?<=-)x+(?=-)", signs)]


def words(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The words of a text as masking sees them."""
    pieces = word_pieces(tokenizer)
    found: list[list[int]] = []
    for number in tokenizer(text, add_special_tokens=False)["input_ids"]:
        if found and pieces.continues_V[number] and pieces.open_V[found[-1][-1]]:
            found[-1].append(number)
        else:
            found.append([number])
    return [tokenizer.decode(word) for word in found]


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def test_words_of_byte_level_bpe_are_runs_of_letters_behind_a_space():
    config = tiny.settings(None).data.tokenizer.model_copy(update={"kind": "text", "vocabulary_size": 300})  # type: ignore[arg-type]
    tokenizer = tiny.train_tokenizer((d.text for d in tiny.documents()), config, 32)
    assert len(tokenizer.tokenize(" function_value")) > 3  # in pieces
    found = [word.strip() for word in words(tokenizer, "return function_value, naïve (x2)")]
    assert [word for word in found if word] == ["return", "function_value", ",", "naïve", "(", "x2", ")"]


def test_words_of_the_code_tokenizer_are_what_its_pre_tokenizer_says(tokenizer):
    assert words(tokenizer, "return quantity = left+right_9\n    ") == [
        *("return", " ", "quantity", " ", "=", " left", "+", "right_9", "\n    ")
    ]


def test_words_of_wordpiece_begin_where_no_hashes_stand():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "un": 1, "##mask": 2, "##ed": 3, ",": 4, "do": 5}))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    assert words(wrapped(tokenizer), "unmasked, do un") == ["unmasked", ",", "do", "un"]


def test_words_of_sentencepiece_begin_behind_its_underscore():
    pieces = [("[UNK]", 0.0), ("▁un", -1.0), ("mask", -1.0), ("ed", -1.0), (",", -1.0), ("▁do", -1.0), ("▁", -5.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    assert [word.strip() for word in words(wrapped(tokenizer), "unmasked, do un")] == ["unmasked", ",", "do", "un"]


def test_words_of_bpe_with_a_suffix_end_at_it():
    vocabulary = {"[UNK]": 0, "a": 1, "b</w>": 2, "b": 3, "ab</w>": 4}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b</w>")], end_of_word_suffix="</w>", unk_token="[UNK]"))
    pieces = word_pieces(wrapped(tokenizer))
    assert pieces.open_V.tolist() == [False, True, False, True, False]
    assert pieces.continues_V[1:].all()


def test_scripts_without_spaces_are_words_token_by_token():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "語": 1, "かな": 2, "слово": 3, "हिन्दी": 4}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    pieces = word_pieces(wrapped(tokenizer))
    assert pieces.continues_V.tolist() == [False, False, False, True, True]
    assert pieces.open_V.tolist() == [False, False, False, True, True]


def toy_pieces(vocabulary: int, continuing: float) -> WordPieces:
    draw = torch.Generator().manual_seed(0)
    return WordPieces(torch.rand(vocabulary, generator=draw) < continuing, torch.ones(vocabulary, dtype=torch.bool))


@pytest.mark.parametrize("continuing", [0.3, 0.6, 1.0])
def test_words_are_masked_whole_or_not_at_all(continuing):
    rows, pieces = tiny.batch(rows=256, length=64, padding=9), toy_pieces(320, continuing)
    chosen = selected(rows, mask_whole_words(rows, 0.15, 0, pieces, longest=5))
    for ids, eligible, is_masked in zip(rows.ids, rows.eligible, chosen, strict=True):
        count = max(1, round(0.15 * int(eligible.sum())))
        word: list[bool] = []
        for token, may, got in zip(ids.tolist(), eligible.tolist(), is_masked.tolist(), strict=True):
            goes_on = may and bool(word) and bool(pieces.continues_V[token])
            if goes_on and len(word) < min(5, count):  # longer words are masked in parts
                word.append(got)
                assert word[0] == got
            else:
                word = [got] if may else []


@pytest.mark.parametrize("continuing", [0.3, 0.6, 0.9, 1.0])
def test_whole_words_never_exceed_the_count_and_are_short_by_less_than_a_word(continuing):
    rows, pieces = tiny.batch(rows=512, length=64, vocabulary=3000, padding=9), toy_pieces(3000, continuing)
    chosen = selected(rows, mask_whole_words(rows, 0.15, 0, pieces, longest=5)).sum(1)
    counts = (0.15 * rows.eligible.sum(1).double()).round().clamp(min=1)
    assert (chosen >= 1).all()
    assert (chosen <= counts).all()
    assert (counts - chosen).max() < 5
    if continuing <= 0.3:  # enough words of one token: exact
        assert torch.equal(chosen, counts.long())


def test_a_row_of_one_endless_word_is_masked_in_parts():
    rows, pieces = tiny.batch(rows=8, length=32), toy_pieces(320, 1.1)
    chosen = selected(rows, mask_whole_words(rows, 0.15, 0, pieces, longest=10))
    assert set(chosen.sum(1).tolist()) <= {1, 2, 3, 4}  # round(0.15 · 29) tokens: a part of four, or what is left
    assert chosen.sum(1).double().mean() > 3


@pytest.mark.parametrize(("mean", "longest"), [(1.0, 10), (3.0, 10), (3.8, 10), (5.5, 10), (1.0, 1)])
def test_span_lengths_are_geometric_with_the_mean_that_was_asked_for(mean, longest):
    shares = span_lengths(mean, longest).diff(prepend=torch.zeros(1))
    assert float((shares * torch.arange(1, longest + 1)).sum()) == pytest.approx(mean)
    assert float(shares.sum()) == pytest.approx(1.0)
    if mean == 3.8:  # SpanBERT: p = 0.2, cut at 10
        assert shares[1:] / shares[:-1] == pytest.approx(torch.full((9,), 0.8).numpy(), abs=2e-3)


def test_spans_have_their_lengths_and_none_is_longer_than_the_longest():
    rows = tiny.batch(rows=600, length=256)
    chosen = selected(rows, mask_spans(rows, 0.15, 3, span_lengths(3.0, 6)))
    lengths = torch.tensor([length for row in range(600) for length in runs(chosen[row], rows.eligible[row])])
    shares = lengths.bincount(minlength=8)[1:].double() / len(lengths)
    assert lengths.max() == 6
    # About 13 spans a row, one of them cut: the mean is a little below 3.
    assert 2.8 < lengths.double().mean() < 3.05
    expected = span_lengths(3.0, 6).diff(prepend=torch.zeros(1))
    assert ((shares[:6] - expected).abs() < 0.04).all()


def test_spans_fill_the_count_at_a_rate_that_leaves_no_room_between_them():
    rows = tiny.batch(rows=64, padding=5)
    chosen = selected(rows, mask_spans(rows, 0.9, 0, span_lengths(1.5, 3)))
    assert torch.equal(chosen.sum(1), (0.9 * rows.eligible.sum(1).double()).round().long())


def test_a_row_with_one_token_or_none_is_no_trouble():
    rows = tiny.batch(rows=2, length=32, padding=30)
    rows.eligible[0] = False
    one = int(rows.eligible[1].sum())
    pieces = toy_pieces(320, 0.5)
    for masked in (
        mask_random_tokens(rows, 0.15, 0),
        mask_whole_words(rows, 0.15, 0, pieces, 10),
        mask_spans(rows, 0.15, 0, span_lengths(3.0, 10)),
    ):
        assert masked.valid_BM.sum(1).tolist() == [0, min(1, one)]
        assert all(len(set(row)) == len(row) for row in masked.positions_BM.tolist())


def test_the_configuration_chooses_the_masking(tokenizer):
    rows = tiny.batch(rows=8, length=64, vocabulary=len(tokenizer))
    kinds = ("random", "whole_word", "span")
    found = [Masking.kinds[kind]().masker(tokenizer)(rows, 0).positions_BM for kind in kinds]
    assert torch.equal(found[0], mask_random_tokens(rows, 0.15, 0).positions_BM)
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_mean_that_spans_can_not_have_is_refused():
    with pytest.raises(ValueError, match=r"at most 4 tokens have a mean of 2\.5 or less, not 3; raise span_longest"):
        SpanMasking(span_longest=4)
