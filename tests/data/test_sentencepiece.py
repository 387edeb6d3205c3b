"""A SentencePiece model alone as the tokenizer. `make test-extras` installs what reads it."""

import io
import sys

import pytest

from fast_electra.data.settings import DataConfig
from fast_electra.data.shard_building import build_shards
from fast_electra.data.shards import open_shards
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.errors import DataError
from tests import tiny

TEXTS = ["a value is a count", "naïve  totals left\nright", "the index of items", "zebra"]


def train(folder, **settings):
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(d.text for d in tiny.documents()), model_writer=written, minloglevel=2, **settings
    )
    folder.mkdir()
    (folder / "spiece.model").write_bytes(written.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_spiece_model_alone_gives_the_ids_of_sentencepiece_and_the_special_tokens_of_an_encoder(kind, tmp_path):
    original = train(tmp_path / "tokenizer", vocab_size=150, model_type=kind)
    tokenizer = load_tokenizer(tmp_path / "tokenizer" / "spiece.model")
    for text in TEXTS:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == original.encode(text)
    names = [
        tokenizer.convert_ids_to_tokens(getattr(tokenizer, f"{n}_token_id")) for n in ("pad", "cls", "sep", "mask")
    ]
    assert names == ["[PAD]", "<s>", "</s>", "[MASK]"]
    assert tokenizer.pad_token_id >= original.vocab_size()
    settings = DataConfig(length=32, workers=1, validation_fraction=0.2)
    build_shards(tiny.documents(), load_tokenizer(tmp_path / "tokenizer"), tmp_path / "shards", settings)
    assert open_shards(tmp_path / "shards").vocabulary_size == original.vocab_size() + 2


def test_special_tokens_that_the_model_has_are_used(tmp_path):
    train(
        tmp_path / "tokenizer",
        vocab_size=150,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        pad_id=3,
        pad_piece="<pad>",
    )
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert [tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token] == ["[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.pad_token_id == 3
    assert len(tokenizer) == 150


def test_without_what_reads_it_a_sentence_says_so(tmp_path, monkeypatch):
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(
        DataError, match=r"spiece\.model is a SentencePiece model, and reading it needs sentencepiece and"
    ):
        load_tokenizer(tmp_path / "spiece.model")


def test_a_damaged_model_is_refused_in_a_sentence(tmp_path):
    pytest.importorskip("sentencepiece")
    (tmp_path / "spiece.model").write_bytes(b"not a model")
    with pytest.raises(DataError, match=r"spiece\.model can't be converted \(.*\): name a folder"):
        load_tokenizer(tmp_path / "spiece.model")
