"""Golden loss curves: short fixed runs whose losses a refactoring must reproduce. Regenerate: `make golden`."""

import json
import tempfile
from pathlib import Path

from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.metrics import read_metrics
from tests import tiny

FOLDER = Path(__file__).parent
KINDS = ("mlm", "fast_electra", "electra")
GENERATOR = {"layers": 2, "hidden_size": 32, "heads": 2, "intermediate_size": 24}


def curves(folder: Path) -> dict[str, list[float]]:
    """Loss of each of 40 updates, float32 on one thread, for each objective; `folder` is scratch."""
    shards = tiny.make_shards(folder / "shards")
    found = {}
    for kind in KINDS:
        auxiliary = folder / "mlm" if kind == "fast_electra" else None
        changes = {"objective__generator": GENERATOR} if kind == "electra" else {}
        config = tiny.settings(shards, kind, auxiliary, training__updates=40, training__log_every=1, **changes)
        pretrain(config, folder / kind)
        found[kind] = [record["loss"] for record in read_metrics(folder / kind / "metrics.jsonl")]
    return found


def stored(kind: str) -> list[float]:
    """The curve that is kept in the repository."""
    return json.loads((FOLDER / f"{kind}.json").read_text())


def regenerate() -> None:
    """Write the curves of the code as it is."""
    with tempfile.TemporaryDirectory() as folder:
        for kind, curve in curves(Path(folder)).items():
            (FOLDER / f"{kind}.json").write_text(json.dumps(curve, indent=0) + "\n")
            print(f"tests/golden/{kind}.json: {curve[0]:.4f} to {curve[-1]:.4f}")
