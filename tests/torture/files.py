"""Files that are damaged: flips in files with digests, mutations of all that is parsed, and hostile content."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from fast_electra.config.loading import load_config
from fast_electra.corruption.cache import open_cache
from fast_electra.data.files import read_kept_json, read_sealed_json, write_sealed_json
from fast_electra.data.seals import refuse_broken_seal
from fast_electra.data.shards import open_shards
from fast_electra.data.tokenizer import load_tokenizer
from fast_electra.errors import DataError
from fast_electra.evaluation.evaluations import find_evaluation
from fast_electra.models.loading import load_model
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.checkpoints import newest_checkpoint
from fast_electra.runs.folder import load_run
from fast_electra.runs.metrics import read_metrics
from tests import tiny
from tests.torture.inputs import READERS, Input, attempt, trials
from tests.torture.mutations import flip, mutated
from tests.torture.trial import FAILED, Trial, some

FLIPS, MUTATED = 200, 2000


def _said(read: Callable[[Callable[[str], None]], object]) -> object:
    """What a reader returns; what it says about damage counts as a refusal, since the damage was found."""
    said: list[str] = []
    found = read(said.append)
    if said:
        raise DataError(said[0])
    return found


def _sealed(path: str) -> object:
    found = read_sealed_json(Path(path))
    if found is None:
        raise DataError(f"{path} is computed again")
    return found


def _newest() -> object:
    found = _said(lambda say: newest_checkpoint(Path("run/checkpoints"), say))
    return found.update, found.scalars  # type: ignore[union-attr]


def _config() -> object:
    config = tiny.settings(Path("shards"))
    return _said(lambda say: [pretrain(config, Path("run"), say=lambda said: "finished" in said or say(said)), None][1])


FLIPPED = {
    "run/run.json": lambda: load_run(Path("run")),
    "run/config.yaml": _config,
    "run/metrics.jsonl": lambda: _said(lambda say: read_metrics(Path("run/metrics.jsonl"), say)),
    "run/checkpoints/00000012/**/*": _newest,
    "run/model/*": lambda: refuse_broken_seal("run/model"),
    "shards/**/*": lambda: open_shards("shards").fingerprint,
    "cache/*": lambda: open_cache("cache").about,
    "one/results.json": lambda: find_evaluation("one"),
    "one/cells/*": None,
    "quick/stages.json": lambda: read_kept_json(Path("quick/stages.json"), "x"),
    "quick/report.json": lambda: read_kept_json(Path("quick/report.json"), "x"),
    "study/calibration.json": lambda: read_kept_json(Path("study/calibration.json"), "x"),
}
"""files that the program writes and seals, with what reads them"""
PARSED = {
    "configuration (YAML)": ("main.yaml", lambda: load_config("main.yaml")),
    "recipe (YAML)": ("recipe.yaml", "recipe"),
    "run.json": ("run/run.json", FLIPPED["run/run.json"]),
    "metrics.jsonl": ("run/metrics.jsonl", lambda: read_metrics(Path("run/metrics.jsonl"), lambda _: None)),
    "manifest of shards": ("shards/manifest.json", FLIPPED["shards/**/*"]),
    "tokenizer.json": ("model/tokenizer.json", lambda: len(load_tokenizer("model"))),
    "config.json": ("model/config.json", lambda: bool(load_model("model", "mlm"))),
    "header of safetensors": ("model/model.safetensors", lambda: bool(load_model("model", "mlm"))),
    "index of safetensors": ("sharded/*.index.json", lambda: bool(load_model("sharded", "mlm"))),
    "results.json": ("one/results.json", FLIPPED["one/results.json"]),
    "JSON lines": ("own.jsonl", "own.jsonl"),
    "CSV": ("own.csv", "own.csv"),
    "TSV": ("own.tsv", "own.tsv"),
    "CoNLL": ("own.conll", "own.conll"),
    "GLUE": ("GLUE/RTE/*.tsv", "GLUE"),
    "minimal pairs": ("pairs.jsonl", "pairs"),
}
"""everything that is parsed: files, and what reads them"""


def _flipped(content: bytes, seed: int) -> tuple[str, bytes]:
    import random

    return "flip", flip(content, random.Random(seed))


def _header(content: bytes, seed: int) -> tuple[str, bytes]:
    """A mutation of the header alone: its length and its JSON."""
    end = 8 + int.from_bytes(content[:8], "little")
    if seed % 4 == 0:
        name, header = mutated(content[:8], seed)
        return name, header + content[8:]
    name, header = mutated(content[8:end], seed)
    return name, len(header).to_bytes(8, "little") + header + content[end:]


def flips(scale: float) -> Iterator[Trial]:
    """Change one bit of every file that the program writes and reads again."""
    for folder, name in (("quick", "stages.json"), ("quick", "report.json"), ("study", "calibration.json")):
        Path(folder).mkdir(exist_ok=True)
        record = {"corpus": {"seconds": 1.25, "found": "120 documents"}, "rates": {"joint": [6.0, 7.5]}, "title": "x"}
        write_sealed_json(Path(folder, name), record)
    for pattern, read in FLIPPED.items():
        files = [path for path in sorted(Path().glob(pattern)) if path.is_file() and path.stat().st_size]
        for file in files:
            if file.name.startswith(".") or file.name == "README.md":  # the card is for people
                continue
            READERS["flip"] = read or (lambda file=file: _sealed(str(file)))
            one = Input(str(file), str(file), "flip", checked=True)
            for did, outcome, said in trials(one, some(FLIPS, scale), damage=_flipped):
                yield Trial(did, {"refused": "found", "accepted": "harmless"}.get(outcome, outcome), said)


def mutations(scale: float) -> Iterator[Trial]:
    """Damage everything that is parsed in nine ways."""
    for name, (pattern, read) in PARSED.items():
        if callable(read):
            READERS["parse"] = read
        one = Input(name, pattern, "parse" if callable(read) else read)
        damage = _header if name.startswith("header") else mutated
        for did, outcome, said in trials(one, some(MUTATED, scale), damage=damage):
            yield Trial(f"{name}: {did}", {"refused": "one sentence"}.get(outcome, outcome), said)


# --- Hostile content --------------------------------------------------------------------------------------------------


class Ran:
    """Writes a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("RAN",)


def hostile(scale: float) -> Iterator[Trial]:
    """Give content that would run code, read or write elsewhere, or fill the memory."""
    del scale
    for name, (make, reads) in _HOSTILE.items():
        home, shelf = Path.cwd(), Path("hostile").absolute()
        shutil.copytree(home, shelf, symlinks=True)
        os.chdir(shelf)
        try:
            make()
            before = set(home.iterdir())
            outcome, said = attempt(reads)
            if Path("RAN").exists() or Path("../RAN").exists() or set(home.iterdir()) != before:
                outcome, said = FAILED, "the content ran, or wrote elsewhere"
            yield Trial(name, {"refused": "refused", "accepted": "harmless"}.get(outcome, outcome), said)
        finally:
            os.chdir(home)
            shutil.rmtree(shelf)


def _edit(file: str, **changes: object) -> Callable[[], None]:
    def edit() -> None:
        path = Path(file)
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _pickled_weights() -> None:
    Path("model/model.safetensors").unlink()
    torch.save({"x": Ran()}, "model/pytorch_model.bin")


def _index(target: str) -> Callable[[], None]:
    def write() -> None:
        index = Path("sharded/model.safetensors.index.json")
        torch.save({"x": Ran()}, "sharded/w.bin")
        shutil.copy("sharded/a.safetensors", "../outside.safetensors" if target.startswith("..") else "sharded/b")
        content = json.loads(index.read_text())
        content["weight_map"] = dict.fromkeys(content["weight_map"], target)
        index.write_text(json.dumps(content))

    return write


def _pickled_checkpoint() -> None:
    for file in Path("run/checkpoints").rglob("*"):
        if file.name in (".metadata", "scalars.json"):
            file.write_bytes(pickle.dumps(Ran()))
    Path("run/checkpoints/00000012/.metadata").write_bytes(pickle.dumps(Ran()))


def _manifest(folder: str, name: str) -> Callable[[], None]:
    def write() -> None:
        path = Path(folder, "manifest.json")
        content = json.loads(path.read_text())
        content["files"][name] = next(iter(content["files"].values()))
        path.write_text(json.dumps(content))

    return write


def _link(place: str, target: str) -> Callable[[], None]:
    def write() -> None:
        shutil.rmtree(place) if Path(place).is_dir() else Path(place).unlink()
        Path(place).symlink_to(target)

    return write


def _yaml(text: str, file: str = "main.yaml") -> Callable[[], None]:
    return lambda: _text(file, f"{text}\n{Path(file).read_text()}")()


def _text(file: str, text: str) -> Callable[[], None]:
    def write() -> None:
        Path(file).write_text(text)

    return write


_CODE = {"AutoModel": "code.Model", "AutoConfig": "code.Config", "AutoTokenizer": ["code.T", None]}
_SHOW, _TRAIN = "config show main.yaml", "pretrain main.yaml training.updates=1 --run OUT"
_EXPORT = "export run OUT --checkpoint 12"
_LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
_HOSTILE: dict[str, tuple[Callable[[], None], str]] = {
    "weights that are a pickle": (_pickled_weights, _TRAIN),
    "an index that names a pickle": (_index("w.bin"), f"{_TRAIN} auxiliary.model=sharded"),
    "an index that names a file elsewhere": (_index("../../outside.safetensors"), f"{_TRAIN} auxiliary.model=sharded"),
    "an index with an absolute path": (_index("/etc/hostname"), f"{_TRAIN} auxiliary.model=sharded"),
    "a checkpoint with pickles": (_pickled_checkpoint, _EXPORT),
    "auto_map in config.json": (_edit("model/config.json", auto_map=_CODE), _TRAIN),
    "auto_map of a repository": (_edit("model/config.json", auto_map={"AutoModel": "evil/repo--code.M"}), _TRAIN),
    "a custom model_type": (_edit("model/config.json", model_type="evil", auto_map=_CODE), _TRAIN),
    "a tokenizer class with auto_map": (
        _edit("model/tokenizer_config.json", auto_map=_CODE, tokenizer_class="T"),
        _TRAIN,
    ),
    "an attention implementation on the hub": (
        _edit("model/config.json", _attn_implementation_internal="evil/kernel"),
        _TRAIN,
    ),
    "a quantised model": (_edit("model/config.json", quantization_config={"quant_method": "x"}), _TRAIN),
    "a manifest of shards with ..": (_manifest("shards", "../../../etc/hostname"), _TRAIN),
    "a manifest of shards with an absolute path": (_manifest("shards", "/etc/hostname"), _TRAIN),
    "a manifest of a cache with ..": (_manifest("cache", "../main.yaml"), f"{_TRAIN} corruption.cache=cache"),
    "a manifest of a checkpoint with ..": (
        _manifest("run/checkpoints/00000012", "../../run.json"),
        "export run OUT --checkpoint 12",
    ),
    "a manifest of a model with ..": (_manifest("run/model", "../run.json"), "export run OUT"),
    "a link to a device in a corpus": (_link("text.txt", "/dev/zero"), "build data.sources=[text.txt]"),
    "a link to itself in a corpus": (_link("text.txt", "text.txt"), "build data.sources=[text.txt]"),
    "a model that is a link": (_link("run/model", "../model"), "export run OUT"),
    "shards that are a link to themselves": (_link("shards", "shards"), _TRAIN),
    "YAML: an object": (_yaml("x: !!python/object/apply:os.mkdir [RAN]"), _SHOW),
    "YAML: a name": (_yaml("x: !!python/name:os.system"), _SHOW),
    "YAML: a module": (_yaml("x: !!python/module:antigravity"), _SHOW),
    "YAML: an unknown tag": (_yaml("x: !evil {a: 1}"), _SHOW),
    "YAML: anchors that grow": (_yaml(_LAUGHS), _SHOW),
    "YAML: an anchor in itself": (_yaml("x: &x [*x]"), _SHOW),
    "YAML: 5,000 lists": (_yaml("x: " + "[" * 5000), _SHOW),
    "YAML: a recipe with an object": (_yaml("x: !!python/object/apply:os.mkdir [RAN]", "recipe.yaml"), "recipe"),
    "a number of 5,000 digits in JSON": (
        lambda: Path("model/config.json").write_text('{"hidden_size": ' + "9" * 5000 + "}") and None,
        _TRAIN,
    ),
    "JSON of 100,000 lists": (_text("run/run.json", "[" * 100_000), "export run OUT"),
    "a script in a text": (
        lambda: Path("text.txt").write_text("<script>alert(1)</script> {{ 7*7 }} \x1b[2J\n" * 60) and None,
        "inspect main text.txt",
    ),
}
