"""Prints the table of scripts of docs/own-language.md, from the message catalogues of a Debian machine.

python tools/script_table.py de ja zh_CN th hi ar
"""

import contextlib
import gettext
import random
import sys
import unicodedata
from pathlib import Path
from typing import Any

from fast_electra.data.settings import TokenizerConfig
from fast_electra.data.tokenizer_facts import tokenizer_facts
from fast_electra.data.tokenizer_training import train_tokenizer

CATALOGUES = Path("/usr/share/locale")
BYTES = 600_000


def texts(language: str) -> list[str]:
    """Messages of a language in random order, 50 to a text."""
    found: list[str] = []
    for path in sorted((CATALOGUES / language / "LC_MESSAGES").glob("*.mo")):
        messages: dict[Any, Any] = {}
        with path.open("rb") as file, contextlib.suppress(UnicodeDecodeError):  # some have another encoding than UTF-8
            messages = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        found += [text for key, text in messages.items() if key and isinstance(text, str) and text]
    random.Random(0).shuffle(found)
    size, chosen = 0, []
    for text in found:
        size += len(text.encode())
        chosen.append(text)
        if size > BYTES:
            break
    return ["\n".join(chosen[start : start + 50]) for start in range(0, len(chosen), 50)]


for language in sys.argv[1:]:
    corpus = [unicodedata.normalize("NFC", text) for text in texts(language)]
    tokenizer = train_tokenizer(corpus, TokenizerConfig(vocabulary_size=8192), 128, whole=False)
    ids = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in corpus]
    size = sum(len(text.encode()) for text in corpus)
    exact = sum(tokenizer.decode(row) == text for row, text in zip(ids, corpus, strict=True))
    facts = tokenizer_facts(tokenizer, corpus)
    print(
        f"| {language} | {size / 1e6:.1f} MB | {size / sum(map(len, ids)):.2f} | {facts['tokens_per_word']:.2f} | "
        f"{facts['tokens_per_character']:.2f} | {facts['words_in_one_token']:.0%} | {exact} of {len(corpus)} |"
    )
