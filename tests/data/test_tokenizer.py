import copy
import json
import subprocess
import sys

import pytest
from transformers import AutoConfig, PreTrainedTokenizerFast

from fast_electra.data.settings import TokenizerConfig
from fast_electra.data.tokenizer import (
    fingerprint,
    load_any_tokenizer,
    load_tokenizer,
    pieces,
    unknown_note,
    vocabulary_size,
)
from fast_electra.data.tokenizer_training import LONGEST_RUN, train_tokenizer
from fast_electra.errors import ConfigError, DataError
from tests import tiny

CODE = '''def total(values, not_in=None):
    """Sum of values."""
    count = 0
    for value in values:
        if value != 12345 and value not in (1, 2):
            count += value ** 2 // 3 - values[-1]


    return {"total": count}  # done
'''
TEXT = "The naïve café’s “menu” – it's 12,345 items long.\n\nThe second paragraph isn't."


@pytest.fixture(scope="module")
def code_tokenizer():
    return train_tokenizer([CODE] * 20, TokenizerConfig(kind="code", vocabulary_size=310), 64)


@pytest.fixture(scope="module")
def text_tokenizer():
    return train_tokenizer([TEXT] * 20, TokenizerConfig(vocabulary_size=300), 64)


def words(tokenizer, text):
    """The pieces that no token crosses."""
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [text[start:end] for _, (start, end) in split]


def test_special_tokens_have_the_first_ids(code_tokenizer):
    assert code_tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(code_tokenizer) == vocabulary_size(code_tokenizer) == 310
    assert code_tokenizer("x")["input_ids"][0] == 2
    assert code_tokenizer("x")["input_ids"][-1] == 3
    assert code_tokenizer.model_max_length == 64
    assert set(code_tokenizer("x")) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        TEXT,
        "\t\r\n x\x00\x0b\ufeff  \n\n   ",
        "e\u0301 \u00e9 中文 😀",
        "x--y ===== a[::2] 'it''s' \\n $$ #!",
        "[MASK] [CLS]",
    ],
)
def test_code_round_trips_byte_for_byte(code_tokenizer, text):
    ids = code_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert code_tokenizer.decode(ids) == text


def test_text_round_trips(text_tokenizer):
    assert text_tokenizer.decode(text_tokenizer(TEXT)["input_ids"], skip_special_tokens=True) == TEXT


def test_offsets_cover_the_text(code_tokenizer):
    found = code_tokenizer(CODE, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    assert "".join(CODE[start:end] for start, end in found) == CODE


def test_code_is_split_as_programmers_read(code_tokenizer):
    assert words(code_tokenizer, "if x != 12345:\n\n        return self.value_2 not in (a*-b)  # y\n") == [
        *(
            "if",
            " x",
            " ",
            "!=",
            " ",
            "123",
            "45",
            ":",
            "\n\n        ",
            "return",
            " self",
            ".",
            "value_2",
            " not",
            " in",
        ),
        *(" ", "(", "a", "*", "-", "b", ")", "  ", "#", " y", "\n"),
    ]
    assert words(code_tokenizer, "a//=b**c->d<=e# ------") == [
        *("a", "//=", "b", "**", "c", "->", "d", "<=", "e", "#", " ", "------"),
    ]


def test_a_line_break_with_its_indentation_is_one_token(code_tokenizer):
    assert code_tokenizer.tokenize("\n    ") == ["ĊĠĠĠĠ"]


def test_the_same_texts_give_the_same_tokenizer_in_any_process(code_tokenizer):
    program = f"""
from fast_electra.data.settings import TokenizerConfig
from fast_electra.data.tokenizer import fingerprint
from fast_electra.data.tokenizer_training import train_tokenizer
if __name__ == "__main__":
    print(fingerprint(train_tokenizer([{CODE!r}] * 20, TokenizerConfig(kind="code", vocabulary_size=310), 64)))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == fingerprint(code_tokenizer)


def test_auto_tokenizer_loads_it_without_this_package(code_tokenizer, tmp_path):
    code_tokenizer.save_pretrained(tmp_path)
    program = f"""
import sys
sys.modules["fast_electra"] = None
from transformers import AutoTokenizer
import json
t = AutoTokenizer.from_pretrained({str(tmp_path)!r})
print(json.dumps([t({CODE!r})["input_ids"], t.model_max_length, t.mask_token_id]))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout.splitlines()[-1]) == [code_tokenizer(CODE)["input_ids"], 64, 4]


def test_saving_and_loading_keeps_the_fingerprint(code_tokenizer, text_tokenizer, tmp_path):
    for tokenizer in (code_tokenizer, text_tokenizer):
        tokenizer.save_pretrained(tmp_path)
        assert fingerprint(load_tokenizer(tmp_path)) == fingerprint(tokenizer)


def test_a_permuted_vocabulary_of_the_same_size_has_another_fingerprint(text_tokenizer):
    content = json.loads(text_tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    one, other = (next(token for token, number in vocabulary.items() if number == n) for n in (20, 21))
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    from tokenizers import Tokenizer

    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    permuted = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), **names)
    assert len(permuted) == len(text_tokenizer)
    assert fingerprint(permuted) != fingerprint(text_tokenizer)


def test_the_fingerprint_sees_special_tokens_and_pre_tokenisation_but_not_padding(
    text_tokenizer, code_tokenizer, tmp_path
):
    text_tokenizer.save_pretrained(tmp_path)
    other = load_tokenizer(tmp_path)
    other(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert fingerprint(other) == fingerprint(text_tokenizer)
    other.sep_token = "[CLS]"
    assert fingerprint(other) != fingerprint(text_tokenizer)
    other = load_tokenizer(tmp_path)
    other.backend_tokenizer.pre_tokenizer = code_tokenizer.backend_tokenizer.pre_tokenizer
    assert fingerprint(other) != fingerprint(text_tokenizer)


def test_a_vocabulary_larger_than_the_corpus_supports_says_how_many_it_supports():
    with pytest.raises(
        DataError, match=r"vocabulary_size is 5000, but the corpus supports (\d+) tokens only"
    ) as caught:
        train_tokenizer([TEXT], TokenizerConfig(vocabulary_size=5000), 64)
    supported = int(str(caught.value).split("supports ")[1].split()[0])
    assert vocabulary_size(train_tokenizer([TEXT], TokenizerConfig(vocabulary_size=supported), 64)) == supported


def test_impossible_tokenizers_are_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="at least 261"):
        train_tokenizer([TEXT], TokenizerConfig(vocabulary_size=100), 64)
    with pytest.raises(DataError, match="no text to train"):
        train_tokenizer([], TokenizerConfig(vocabulary_size=300), 64)
    with pytest.raises(DataError, match="can't be loaded"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_tokenizer_without_a_mask_token_is_refused(text_tokenizer, tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=text_tokenizer.backend_tokenizer, pad_token="[PAD]").save_pretrained(
        tmp_path
    )
    with pytest.raises(DataError, match="has no cls and no sep and no mask token"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "architecture", ["bert", "roberta", "deberta-v2", "mpnet", "xlm-roberta", "t5", "gpt2", "modernbert", "big_bird"]
)
def test_a_model_without_tokenizer_files_has_no_tokenizer(tmp_path, architecture):
    # Transformers makes one up for most classes, and it knows nothing but its special tokens.
    AutoConfig.for_model(architecture).save_pretrained(tmp_path / "model")
    for load in (load_any_tokenizer, load_tokenizer):
        with pytest.raises(DataError, match=r"model holds no tokenizer: save the one that belongs to its model there"):
            load(tmp_path / "model")


def test_added_tokens_alone_are_no_tokenizer(text_tokenizer, tmp_path):
    text_tokenizer = copy.deepcopy(text_tokenizer)
    text_tokenizer.add_tokens(["gene1", "gene2"])
    text_tokenizer.save_pretrained(tmp_path)
    AutoConfig.for_model("bert").save_pretrained(tmp_path)
    load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "BertTokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_pointer_in_place_of_a_tokenizer_says_how_to_get_it(text_tokenizer, tmp_path):
    text_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match=r"tokenizer\.json is a pointer of Git LFS.* `git lfs pull`"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "trunc')
    with pytest.raises(DataError, match="can't be loaded"):
        load_tokenizer(tmp_path)


def test_text_that_a_tokenizer_does_not_know_is_noted(text_tokenizer):
    known = tiny.word_tokenizer(["a", "b"])
    assert unknown_note(known, ["a b " * 100, "a b"], "x") is None
    assert "50% of the tokens of x are [UNK]" in str(unknown_note(known, ["a c b d"], "x"))
    assert unknown_note(text_tokenizer, ["แมวนั่งบนเสื่อ"], "x") is None  # bytes


@pytest.mark.parametrize("text", ["", "a", "a\n" * 100, "a" * 100, "\n" * 100, "word " * 50, CODE * 3])
def test_pieces_join_to_the_text(text):
    found = list(pieces(text, 10))
    assert "".join(found) == text
    assert all(found) or text == ""


def test_cutting_at_line_breaks_changes_no_token(code_tokenizer):
    text = CODE * 5
    cut = [token for piece in pieces(text, 40) for token in code_tokenizer.tokenize(piece)]
    assert cut == code_tokenizer.tokenize(text)


RUNS = {
    "spaces": "x" + " " * 185 + "word  y\n",
    "indentation": "if x:\n" + "\n" * 50 + " " * 185 + "return y\n",
    "tabs": "a" + "\t" * 100 + "b",
    "one sign": "# " + "-" * 79 + "\n" + "=" * 300 + "\n",
    "signs": "x" + "!?" * 100 + "y" + "…" * 70,
    "exactly": "a" + " " * LONGEST_RUN + "b" + "-" * LONGEST_RUN + "\n" + " " * (LONGEST_RUN - 1) + "c",
}


@pytest.mark.parametrize("kind", ["text", "code"])
def test_no_token_holds_a_long_run_of_white_space_or_punctuation(kind):
    texts = [text * 3 for text in RUNS.values()] * 20
    tokenizer = train_tokenizer([*texts, CODE, TEXT], TokenizerConfig(kind=kind, vocabulary_size=330), 64)
    tokens = [tokenizer.decode([number]) for number in range(5, len(tokenizer))]
    for token in tokens:
        assert len(token) - len(token.strip()) <= LONGEST_RUN
        assert sum(not (c.isalnum() or c.isspace()) for c in token) <= LONGEST_RUN
    assert " " * LONGEST_RUN in tokens  # and shorter runs are still tokens
    assert "-" * LONGEST_RUN in tokens
    for text in (*RUNS.values(), CODE):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_a_space_goes_with_the_word_behind_it_however_long_the_run(text_tokenizer):
    for length in (1, 2, LONGEST_RUN, LONGEST_RUN + 1, 2 * LONGEST_RUN, 100):
        assert words(text_tokenizer, "x" + " " * length + "y")[-1] == " y"
