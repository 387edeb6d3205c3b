"""Every kind of file that a command reads, each with a command that reads it, in a folder of tiny real ones.

`python -m tests.torture.inputs COUNT [NAME …]` damages each file COUNT times, and prints what was refused, what was
accepted, and every failure: a traceback, or an error that is not one sentence.
"""

import contextlib
import io
import json
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fast_electra.cli.main import main
from fast_electra.config.printing import dump_config
from fast_electra.errors import UserError
from fast_electra.evaluation.glue import load_glue
from fast_electra.evaluation.minimal_pairs import read_minimal_pairs
from fast_electra.evaluation.own_files import load_own
from fast_electra.evaluation.settings import EvaluationConfig
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.pipelines.pretrain import pretrain
from tests import task_files, tiny
from tests.torture.mutations import mutated

_TRAIN = "pretrain main.yaml training.updates=1 --run OUT"
_ENTITIES = "Ada B-PER\nmet O\nBob B-PER\n\nshe O\nleft O\n\n" * 8
READERS: dict[str, Callable[[], object]] = {
    "GLUE": lambda: load_glue("rte", Path("GLUE")),
    "own.csv": lambda: load_own(Path("own.csv"), None, ["text"], "label"),
    "own.tsv": lambda: load_own(Path("own.tsv"), None, ["text"], "label"),
    "own.jsonl": lambda: load_own(Path("own.jsonl"), None, ["text"], "label"),
    "own.conll": lambda: load_own(Path("own.conll"), None, [], None),
    "recipe": lambda: EvaluationConfig.of(
        {"model": "run", "train": Path("own.csv"), "text": ["text"], "label": "label", "recipe": "recipe.yaml"}, ()
    ),
    "pairs": lambda: read_minimal_pairs(Path("pairs.jsonl")),
}


@dataclass(frozen=True)
class Input:
    """A file, or the files that a pattern finds, and what reads them."""

    name: str
    pattern: str
    reads: str
    """a command, in which OUT is a new folder; or a name of `READERS`"""
    checked: bool = False
    """whether the file carries a digest: a changed one is refused, or changes no output"""


INPUTS = [
    Input("configuration", "main.yaml", "config show main.yaml"),
    Input("corpus, text", "text.txt", "build data.sources=[text.txt]"),
    Input("corpus, JSON lines", "text.jsonl", "build data.sources=[text.jsonl]"),
    Input("corpus, packed", "text.txt.gz", "build data.sources=[text.txt.gz]"),
    Input("corpus, Zstandard", "text.txt.zst", "build data.sources=[text.txt.zst]"),
    Input("corpus, Parquet", "text.parquet", "build data.sources=[text.parquet]"),
    Input("corpus, Arrow", "text.arrow", "build data.sources=[text.arrow]"),
    Input("tokenizer to use", "model/tokenizer*.json", "build data.sources=[text.txt] data.tokenizer.path=model"),
    Input("shards", "shards/**/*", _TRAIN, checked=True),
    Input("auxiliary's config.json", "model/config.json", _TRAIN),
    Input("auxiliary's tokenizer", "model/tokenizer*.json", _TRAIN),
    Input("auxiliary's weights", "model/model.safetensors", _TRAIN),
    Input("index of shards", "sharded/*.index.json", f"{_TRAIN} auxiliary.model=sharded"),
    Input("cache", "cache/*", f"{_TRAIN} corruption.cache=cache", checked=True),
    Input("run.json and config.yaml", "run/*.[jy][sa]*", "report run --out OUT/page.html"),
    Input("metrics", "run/metrics.jsonl", "report run --out OUT/page.html"),
    Input("metrics, doctor", "run/metrics.jsonl", "doctor run"),
    Input("checkpoint", "run/checkpoints/00000012/**/*", "export run OUT --checkpoint 12", checked=True),
    Input("run's model", "run/model/*", "export run OUT"),
    Input("model to inspect", "main/model/config.json", "inspect main text.txt"),
    Input("text to inspect", "text.txt", "inspect main text.txt"),
    Input("results", "one/results.json", "compare one two"),
    Input("cells", "one/cells/*", "compare one two"),
    Input("cells to reuse", "one/*/*.json", "evaluate run --tasks blimp --data pairs.jsonl --out one"),
    Input("GLUE", "GLUE/RTE/*.tsv", "GLUE"),
    *(Input(name, name, name) for name in ("own.csv", "own.tsv", "own.jsonl", "own.conll")),
    Input("recipe", "recipe.yaml", "recipe"),
    Input("minimal pairs", "pairs.jsonl", "pairs"),
]


def make_inputs(folder: Path, shards: Path, auxiliary: Path) -> None:
    """Write every input to a folder, which becomes the working folder."""
    shutil.copytree(shards, folder / "shards")
    shutil.copytree(auxiliary, folder / "run")
    os.chdir(folder)
    shutil.copytree("run/model", "model")
    for name in ("manifest.json", "README.md"):
        Path("model", name).unlink(missing_ok=True)
    shutil.copytree("model", "sharded")
    _shard(Path("sharded"))
    settings = {"training__updates": 4, "training__validation_sequences": 8}
    config = tiny.settings(Path("shards"), "fast_electra", Path("model"), **settings)
    Path("main.yaml").write_text(dump_config(config))
    pretrain(config, Path("main"))
    build_cache(config, Path("cache"))
    text = "".join(f"a line {n} of text\n\n" for n in range(60))
    Path("text.txt").write_text(text)
    tiny.make_parts(Path("parts"), Path("text.txt"))
    Path("text.jsonl").write_text("".join(json.dumps({"text": f"a line {n}"}) + "\n" for n in range(60)))
    import gzip

    Path("text.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    _columns(text)
    pairs = [{"sentence_good": f"a {n}", "sentence_bad": f"b {n}", "UID": "x"} for n in range(6)]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    task_files.glue_folder(Path("GLUE"), "rte")
    for name in ("own.csv", "own.tsv", "own.jsonl"):
        task_files.own(Path(), name, task_files.sentiment())
    Path("own.conll").write_text(_ENTITIES)
    Path("recipe.yaml").write_text("name: small\nepochs: 3\nlearning_rate: [1e-4, 3e-4]\nbatch_size: 16\n")
    study = {
        "title": "x",
        "base": "main.yaml",
        "methods": {"x": {}, "y": {"corruption.schedule.tau": 0.5}},
        "seeds": [0],
    }
    Path("study.yaml").write_text(json.dumps(study | {"budget": {"updates": 4}}))
    Path("texts").mkdir()
    for number in range(40):
        Path("texts", f"{number}.txt").write_text(f"line {number} of a text\n" * 8)
    for out in ("one", "two"):
        assert _command(f"evaluate run --tasks blimp --data pairs.jsonl --out {out}")[0] == 0


def _columns(text: str) -> None:
    import pyarrow
    from pyarrow import ipc, parquet

    from fast_electra.data.text_files import zstd_module

    Path("text.txt.zst").write_bytes(zstd_module().compress(text.encode()))
    table = pyarrow.table({"text": text.split("\n\n")})
    parquet.write_table(table, "text.parquet")
    with ipc.new_stream("text.arrow", table.schema) as opened:
        opened.write_table(table)


def _shard(model: Path) -> None:
    from safetensors.torch import load_file

    names = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "a.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "a.safetensors")}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def _command(words: str) -> tuple[int, str, str]:
    """The exit status, the output and the messages of a command in this process."""
    build = "data build electra-small data.tokenizer.vocabulary_size=261 data.length=32 data.validation_fraction=0.2 "
    if words.startswith("build "):
        words = words.replace("build ", build + "data.workers=1 --out OUT ", 1)
    output, messages = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(messages):
        status = main(shlex.split(words))
    return status, output.getvalue(), messages.getvalue()


def attempt(reads: str) -> tuple[str, str]:
    """Read the inputs: "accepted" with the output, or "refused" with the sentence, or "FAILED" with the reason."""
    try:
        if reads in READERS:
            return "accepted", repr(READERS[reads]())
        status, output, messages = _command(reads)
    except UserError as error:
        return ("FAILED", f"several lines: {error}") if "\n" in str(error) else ("refused", str(error))
    except Exception:
        return "FAILED", traceback.format_exc()
    finally:
        shutil.rmtree("OUT", ignore_errors=True)
    said = messages.splitlines()
    if "Traceback" in messages or status not in (0, 1, 2):
        return "FAILED", f"status {status}: {messages}"
    if status == 2 or (status == 1 and not reads.startswith("doctor")):
        is_sentence = bool(said) and said[-1].startswith("error: ") and len(said[-1]) < 1500
        return ("refused", said[-1]) if is_sentence else ("FAILED", f"status {status} without a sentence: {messages}")
    return "accepted", output


def trials(
    one: Input, count: int, first: int = 0, damage: Callable[[bytes, int], tuple[str, bytes]] = mutated
) -> Iterator[tuple[str, str, str]]:
    """Damage the files of an input `count` times; gives what was done, the outcome, and what was said."""
    files = sorted(path for path in Path().glob(one.pattern) if path.is_file() and path.stat().st_size)
    files = [path for path in files if not path.name.startswith(".")]
    assert files, one
    contents = {file: file.read_bytes() for file in files}
    expected = attempt(one.reads)
    assert expected[0] == "accepted", (one, expected)
    for seed in range(first, first + count):
        file = random.Random(-seed - 1).choice(files)
        name, damaged = damage(contents[file], seed)
        try:
            file.write_bytes(damaged)
            outcome, said = attempt(one.reads)
        finally:
            for path, content in contents.items():  # a command may restore another file
                path.write_bytes(content)
        if outcome == "accepted" and one.checked and said != expected[1] and damaged != contents[file]:
            outcome = "FAILED"
        yield f"{file}, {name}, seed {seed}", outcome, said


def report(count: int, names: list[str]) -> int:
    """Print a table of all inputs, and every failure; returns the number of failures."""
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = tiny.make_shards(folder / "made")
        pretrain(tiny.settings(shards), folder / "auxiliary")
        (folder / "home").mkdir()
        make_inputs(folder / "home", shards, folder / "auxiliary")
        for one in INPUTS:
            if names and one.name not in names:
                continue
            began, outcomes = time.monotonic(), Counter[str]()
            for did, outcome, said in trials(one, count):
                outcomes[outcome] += 1
                if outcome == "FAILED":
                    print(f"--- {one.name}: {did}\n{said[-1500:]}", flush=True)
            failures += outcomes["FAILED"]
            print(f"{one.name}: {count} trials, {dict(outcomes)}, {time.monotonic() - began:.0f} s", flush=True)
        os.chdir("/")
    return failures


if __name__ == "__main__":
    sys.exit(min(1, report(int(sys.argv[1]), sys.argv[2:])))
