"""Small real things that tests share: text, shards, configurations, models."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fast_electra.config.tree import Config
from fast_electra.data.batches import Batch
from fast_electra.data.merging import part_name
from fast_electra.data.shard_building import build_shards
from fast_electra.data.sources import Document
from fast_electra.data.tokenizer_training import train_tokenizer
from fast_electra.training.optimizer import GroupOptimizer

ROOT = Path(__file__).parent.parent
WORDS = ["red", "oak", "moon", "grey", "fox", "ripe", "plum", "lake"]
NAMES = ["value", "total", "count", "items", "index", "left", "right", "name", "limit", "result"]
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


def documents(count: int = 120, seed: int = 0) -> list[Document]:
    """Small Python functions, all different."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        lines = [f"def function_{number}({draw.choice(NAMES)}, {draw.choice(NAMES)}_{number}):"]
        for _ in range(draw.randint(3, 12)):
            a, b, c = (draw.choice(NAMES) for _ in range(3))
            lines.append(f"    {a} = {b} {draw.choice('+-*')} {c} + {draw.randint(0, 99)}")
        lines.append(f"    return {draw.choice(NAMES)}")
        made.append(Document("\n".join(lines) + "\n", f"file_{number}.py"))
    return made


def settings(folder: Path, kind: str = "mlm", auxiliary: Path | None = None, **changes: object) -> Config:
    """A run of seconds: two layers of width 32 on `make_shards(folder)`."""
    tree: dict = {
        "data": {
            "shards": folder,
            "length": 32,
            "tokenizer": {"kind": "code", "vocabulary_size": 320},
            "validation_fraction": 0.1,
        },
        "main": {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 48},
        # [MASK] at every masked position, which most tests look for
        "objective": {"kind": kind, "random": 0.0, "kept": 0.0} if kind == "mlm" else {"kind": kind},
        "auxiliary": {"model": str(auxiliary) if auxiliary else None},
        "optimizer": {"learning_rate": 3e-3},
        "training": {
            "updates": 12,
            "batch_size": 8,
            "log_every": 3,
            "checkpoint_every": 4,
            "validation_sequences": 16,
            "compile": False,  # also on a GPU
        },
        "execution": {"precision": "float32", "threads": 1},
    }
    for key, value in changes.items():
        section, name = key.split("__")
        tree.setdefault(section, {})[name] = value
    return Config.model_validate(tree)


def make_shards(folder: Path, count: int = 120, seed: int = 0) -> Path:
    """Token shards of `documents(count)`."""
    config = settings(folder)
    texts = documents(count, seed)
    tokenizer = train_tokenizer((d.text for d in texts), config.data.tokenizer, config.data.length)
    build_shards(texts, tokenizer, folder, config.data)
    return folder


def make_parts(folder: Path, text: Path) -> None:
    """Two parts of token shards, of two copies of a file of texts, for `data merge`."""
    sources = []
    for number in (1, 2):
        sources.append(text.with_name(f"{number}-{text.name}"))
        sources[-1].write_text(text.read_text().replace("line", f"row {number}"))
    data = settings(folder).data
    config = data.model_copy(update={"sources": sources, "validation_fraction": 0.2, "workers": 1})
    tokenizer = train_tokenizer((d.text for d in documents()), data.tokenizer, data.length)
    for number in (1, 2):
        build_shards(None, tokenizer, folder / part_name((number, 2)), config, share=(number, 2))


def batch(rows: int = 4, length: int = 32, vocabulary: int = 320, padding: int = 0, seed: int = 0) -> Batch:
    """Random rows of two documents each: [CLS] … [SEP] … [SEP], the last row with `padding` padding tokens."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (rows, length), generator=draw)
    ids[:, 0] = SPECIAL["cls"]
    ids[:, [length // 2, -1]] = SPECIAL["sep"]
    documents = torch.zeros_like(ids)
    documents[:, length // 2 + 1 :] = 1
    positions = torch.arange(length).expand(rows, -1).clone()
    positions[:, length // 2 + 1 :] -= length // 2 + 1
    is_padding = torch.zeros(rows, length, dtype=torch.bool)
    if padding:
        is_padding[-1, -padding:] = True
        ids[-1, -padding:] = SPECIAL["pad"]
        ids[-1, -padding - 1] = SPECIAL["sep"]
        documents[-1, -padding:] = -1
    return Batch(
        ids=ids,
        documents=documents,
        positions=positions,
        eligible=ids >= 5,
        padding=is_padding,
        padded=bool(padding),
        epochs=torch.zeros(rows, dtype=torch.int64),
        indices=torch.arange(rows),
        samples=torch.arange(rows),
        documents_in_rows=2 + is_padding.any(1),
    )


def step(optimizer: GroupOptimizer, rate: float, update: int = 0) -> tuple[Tensor, Tensor]:
    """One step by the parameters' gradients: their norm, and 1.0 if they were clipped."""
    norm = optimizer.take_gradients()
    return norm, optimizer.step(rate, update, norm, (~norm.isfinite()).float())


def make_repetitive_shards(folder: Path) -> Path:
    """Shards of 150 texts that say one word again and again: a masked word can be learned within seconds."""
    draw = random.Random(0)
    texts = []
    for number in range(150):
        text = " ".join([draw.choice(WORDS)] * draw.randint(60, 100))
        texts.append(Document(f"{text} {number}", f"text {number}"))
    data = settings(folder).data
    data = data.model_copy(update={"workers": 1, "tokenizer": data.tokenizer.model_copy(update={"kind": "text"})})
    build_shards(texts, train_tokenizer((t.text for t in texts), data.tokenizer, data.length), folder, data)
    return folder


def unsealed_record(run: Path) -> dict:
    """The content of a run's run.json without its digests, as versions before they were added wrote it."""
    record = json.loads((run / "run.json").read_text())
    return {key: value for key, value in record.items() if key not in ("sha256", "config_sha256")}


def unsealed(model: Path) -> Path:
    """A model's folder without its seal, as Transformers or an earlier version wrote it."""
    (model / "manifest.json").unlink()
    return model


def before_execution(run: Path) -> None:
    """Give a run folder's record the shape that it had when device, precision and threads were keys of `training`."""
    record = unsealed_record(run)
    for name in ("requested", "resolved"):
        training, execution = record[name]["training"], record[name].pop("execution")
        training |= {key: execution[key] for key in ("device", "precision", "threads")}
        for key in ("longest_update", "most_skipped"):
            training.pop(key, None)
    (run / "run.json").write_text(json.dumps(record))


def as_version_0_1(run: Path) -> None:
    """Give a run folder's record the shape that version 0.1.0 wrote."""
    record = unsealed_record(run)
    record["environment"]["fast_electra"] = "0.1.0"
    for name in ("requested", "resolved"):
        del record[name]["optimizer"]["kind"]
        record[name]["optimizer"]["muon_learning_rate"] = 0.03
    (run / "run.json").write_text(json.dumps(record))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    later = ("internals", "crc32")
    lines = [json.dumps({key: value for key, value in record.items() if key not in later}) for record in records]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def word_tokenizer(words: list[str], kind: str = "WordLevel") -> PreTrainedTokenizerFast:
    """A tokenizer that knows some words alone; all else is [UNK]."""
    vocabulary = {f"[{name.upper()}]": number for name, number in SPECIAL.items()}
    vocabulary |= {word: len(SPECIAL) + number for number, word in enumerate(words)}
    backend = Tokenizer(getattr(models, kind)(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {f"{name}_token": f"[{name.upper()}]" for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **names)
