"""Tokenizers of every script: whole characters, words with their marks, no sentence as one token, a round trip."""

import json
import random
import unicodedata
from itertools import pairwise

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from fast_electra.data import tokenizer_training
from fast_electra.data.settings import TokenizerConfig
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.data.tokenizer_facts import Sample, tokenizer_facts
from fast_electra.data.tokenizer_training import LONGEST_SPACELESS, SPECIAL_TOKENS, train_tokenizer
from tests import tiny

SENTENCES = {
    "German": [
        "Die größte Schwierigkeit für Übersetzer sind natürlich zusammengesetzte Wörter.",
        "Später öffnete der müde Bäcker die Tür, und süße Düfte zogen über die Straße.",
        "Wir möchten Ihnen für Ihre Unterstützung während des ganzen Jahres herzlich danken.",
    ],
    "Japanese": [
        "昨日は友達と一緒に映画を見に行きましたが、とても面白かったです。",
        "この論文では、新しい言語モデルの学習方法について説明します。",
        "コンピューターのデータベースに登録された情報を検索することができます。",
    ],
    "Chinese": [
        "我们提出了一种新的语言模型训练方法，可以在普通计算机上运行。",
        "昨天下午他和朋友们一起去公园散步，天气非常好。",
        "中华人民共和国的首都是北京，那里有许多历史悠久的建筑。",
    ],
    "Thai": [
        "เมื่อวานนี้ฉันไปดูหนังกับเพื่อนและสนุกมาก",
        "บทความนี้อธิบายวิธีการฝึกแบบจำลองภาษาใหม่ ไม่สามารถเปิดแฟ้มได้",
        "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    ],
    "Hindi": [
        "कल मैं अपने दोस्तों के साथ फ़िल्म देखने गया था और बहुत मज़ा आया।",
        "इस लेख में हम भाषा मॉडल को प्रशिक्षित करने की नई विधि बताते हैं।",
        "नई दिल्ली भारत की राजधानी है और यहाँ कई ऐतिहासिक इमारतें हैं।",
    ],
    "Arabic": [
        "ذَهَبْتُ أمس مع أصدقائي إلى السينما وكان الفيلم رائعا جدا.",
        "نقدم في هذا البحث طريقة جديدة لتدريب نماذج اللغة على حواسيب عادية.",
        "القاهرة هي عاصمة جمهورية مصر العربية وفيها مبان تاريخية كثيرة.",
    ],
}
LANGUAGES = pytest.mark.parametrize("language", SENTENCES)
BPE = tokenizer_training._bpe


def corpus(language: str, count: int = 400) -> list[str]:
    """Texts of the language's sentences in random order, with something of other scripts in some of them."""
    draw, sentences = random.Random(0), SENTENCES[language]
    between = "" if language in ("Japanese", "Chinese") else " "
    texts = [between.join(draw.choices(sentences, k=draw.randint(1, 4))) for _ in range(count)]
    return [f"{text} (version {n}, {n * 37}%)\n" if n % 5 == 0 else text for n, text in enumerate(texts)]


def train(language: str, kind: str = "text", size: int = 600):
    return train_tokenizer(corpus(language), TokenizerConfig(kind=kind, vocabulary_size=size), 64, whole=False)


@LANGUAGES
@pytest.mark.parametrize("kind", ["text", "unigram"])
def test_characters_survive_a_round_trip_exactly(language, kind, tmp_path):
    tokenizer = train(language, kind)
    tokenizer.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    odd = ["𝔘 😀\n\t  x  [MASK] <0x41> 한국어 ελληνικά \u200d", " " * 99 + "." * 99]
    for text in [*corpus(language, 50), *odd, *(text for sentences in SENTENCES.values() for text in sentences)]:
        text = unicodedata.normalize("NFC", text)
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) == text


@LANGUAGES
def test_no_token_of_the_corpus_cuts_a_character(language):
    tokenizer = train(language)
    for text in corpus(language, 50):
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(tokenizer.decode([token]) for token in tokens)
    broken = [token for token in range(261, len(tokenizer)) if "\N{REPLACEMENT CHARACTER}" in tokenizer.decode([token])]
    # The beginnings of characters, from which their tokens are merged: no token has an end of one and another's start.
    for token in broken:
        spelled = bytes_of(tokenizer.convert_ids_to_tokens(token))
        assert spelled[0] >= 0xC0
        assert all(0x80 <= byte < 0xC0 for byte in spelled[1:])


def bytes_of(token: str) -> bytes:
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # All bytes that UTF-8 has, by spelling characters that have them.
    table = {}
    for code in (*range(0x80), *range(0xA0, 0x800), *range(0x800, 0x10000, 64), *range(0x10000, 0x110000, 4096)):
        if not 0xD800 <= code < 0xE000:
            text = chr(code)
            table.update(zip(spell.pre_tokenize_str(text)[0][0], text.encode(), strict=True))
    return bytes(table[sign] for sign in token)


@LANGUAGES
@pytest.mark.parametrize("kind", ["text", "unigram"])
def test_no_sentence_and_no_long_run_is_one_token(language, kind):
    tokenizer = train(language, kind)
    longest = max((tokenizer.decode([token]) for token in range(5, len(tokenizer))), key=len)
    spaced = language in ("German", "Hindi", "Arabic")
    assert len(longest) <= (tokenizer_training.LONGEST_RUN if spaced else LONGEST_SPACELESS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("私はカナを書く。", ["私", "は", "カナ", "を", "書", "く", "。"]),
        ("データベース v2.0", ["データベース", " v", "2", ".", "0"]),
        ("हिन्दी की", ["हिन्दी", " की"]),
        ("ذَهَبْتُ أمس", ["ذَهَبْتُ", " أمس"]),
        ("ภาษาไทย abc", ["ภาษาไทย", " abc"]),
        ("it's ‘naïve’", ["it", "'s", " ‘", "naïve", "’"]),
    ],
)
def test_text_is_split_by_script_and_words_keep_their_marks(text, words):
    split = pre_tokenizers.Split(Regex(tokenizer_training._SCRIPTS), behavior="isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == words


# --- English and code stay as they were -------------------------------------------------------------------------------


def as_before(texts, kind, size):
    """The tokenizer that earlier versions trained, written out."""
    tokenizer = Tokenizer(models.BPE())
    runs = pre_tokenizers.Split(Regex(r"\s{32}(?=\s)|[^\s\p{L}\p{N}]{32}"), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "text")
    code = pre_tokenizers.Split(Regex(tokenizer_training._CODE), behavior="isolated")
    tokenizer.normalizer = normalizers.NFC() if kind == "text" else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*([code] if kind == "code" else []), runs, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        iter(texts),
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIAL_TOKENS.values()),
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer.to_str()


ENGLISH = [
    f"The {'naïve café’s' if n % 10 == 0 else 'old'} “menu” number {n} isn't long; it has {n * n} items.\n"
    for n in range(300)
]


@pytest.mark.parametrize(
    ("kind", "texts"),
    [("text", ENGLISH), ("text", ["中文", *ENGLISH]), ("code", [document.text for document in tiny.documents()])],
)
def test_tokenizers_of_english_and_code_are_byte_for_byte_as_before(kind, texts):
    found = train_tokenizer(texts, TokenizerConfig(kind=kind, vocabulary_size=400), 64)
    assert found.backend_tokenizer.to_str() == as_before(texts, kind, 400)


# --- Other kinds ------------------------------------------------------------------------------------------------------


def test_the_vocabulary_has_its_size_and_special_tokens_first():
    for kind in ("text", "unigram", "wordpiece"):
        tokenizer = train("German", kind, 500 if kind != "wordpiece" else 300)
        assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == list(SPECIAL_TOKENS.values())
        assert len(set(tokenizer.get_vocab().values())) == len(tokenizer)
    assert len(train("German", "text", 500)) == 500
    assert json.loads(train("German", "unigram", 500).backend_tokenizer.to_str())["model"]["type"] == "Unigram"


def test_wordpiece_keeps_the_words():
    tokenizer = train("German", "wordpiece")
    text = SENTENCES["German"][0]
    assert (
        tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]).split()
        == (text.removesuffix(".").replace(",", " ,") + " .").split()
    )


def test_bpe_is_another_name_of_text():
    assert TokenizerConfig.model_validate({"kind": "bpe"}).kind == "text"


# --- Figures ----------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_tokenizer_are_those_of_its_text():
    tokenizer = train_tokenizer(["aaa bbb " * 50, "ccc"], TokenizerConfig(vocabulary_size=262), 64, whole=False)
    found = tokenizer_facts(tokenizer, ["aaa aaa ccc"])
    counts = [len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) for word in ("aaa", "aaa", "ccc")]
    assert found["tokens_per_word"] == sum(counts) / 3
    assert found["tokens_per_character"] == sum(counts) / 9
    assert found["words_in_one_token"] == counts.count(1) / 3
    assert len(found["longest_tokens"]) == 10
    assert len(found["longest_tokens"][0]) >= len(found["longest_tokens"][-1])


def test_the_figures_do_not_count_the_padding_that_a_published_tokenizer_asks_for():
    tokenizer = train_tokenizer(["aaa bbb " * 50, "ccc"], TokenizerConfig(vocabulary_size=262), 64, whole=False)
    found = tokenizer_facts(tokenizer, ["aaa aaa ccc"])
    tokenizer.backend_tokenizer.enable_padding(length=128)
    tokenizer.backend_tokenizer.enable_truncation(1)
    padded = tokenizer.backend_tokenizer.to_str()
    assert tokenizer_facts(tokenizer, ["aaa aaa ccc"]) == found
    assert tokenizer.backend_tokenizer.to_str() == padded


def test_a_sample_is_spread_evenly_and_bounded():
    sample = Sample()
    for number in range(10_000):
        sample.add(str(number))
    places = [int(text) for text in sample.texts]
    assert 64 <= len(places) <= 129
    assert len({later - earlier for earlier, later in pairwise(places)}) == 1
    assert places[-1] > 9_000
