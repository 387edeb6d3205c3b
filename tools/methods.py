"""Objectives, curricula and starts at equal updates on the quickstart's data, one table.

    fast-electra quickstart --run runs/quickstart
    python tools/methods.py runs/quickstart runs/methods --updates 200              train what is missing, print
    python tools/methods.py runs/quickstart runs/methods --updates 200 --part 1/2   one of two processes: its half

Every method trains the quickstart's main model (fresh unless said) for the same updates on the same rows. `rtd_auc` is
by one reference auxiliary, the quickstart's, whatever a method trained against. Each run is an ordinary run folder.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fast_electra.config.loading import load_config
from fast_electra.config.tree import Config
from fast_electra.data.files import write_json_atomically
from fast_electra.data.python_corpus import collect
from fast_electra.errors import UserError
from fast_electra.evaluation import bugs
from fast_electra.evaluation.detector import detector_of, masked_prediction
from fast_electra.evaluation.metrics import wins
from fast_electra.models.build import load_model
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.rtd import ReplacedTokenDetector
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.metrics import read_metrics
from fast_electra.training.assembly import assemble, special_ids
from fast_electra.training.precision import choose_execution

GENERATOR = (
    "{layers: 2, hidden_size: 256, heads: 4, intermediate_size: 512, options: {layer_types: [sliding_attention, "
    "full_attention], local_attention: 16, rope_parameters: {sliding_attention: {rope_type: default, rope_theta: "
    "1000.0}, full_attention: {rope_type: default, rope_theta: 1000.0}}}}"
)
SCHEDULE = "corruption.schedule.kind"
METHODS: dict[str, list[str]] = {
    "MLM": ["objective.kind=mlm"],
    "joint ELECTRA, tied": ["objective.kind=electra", f"objective.generator={GENERATOR}", "objective.sharing=tied"],
    "Fast-ELECTRA, exponential": [f"{SCHEDULE}=exponential", "corruption.schedule.tau=0.1"],
    "Fast-ELECTRA, constant 1": [f"{SCHEDULE}=constant", "corruption.schedule.initial=1.0"],
    "Fast-ELECTRA, constant 2": [f"{SCHEDULE}=constant", "corruption.schedule.initial=2.0"],
    "Fast-ELECTRA, adaptive": [f"{SCHEDULE}=adaptive"],
    "unigram": ["auxiliary.kind=unigram", f"{SCHEDULE}=constant"],
    "uniform": ["auxiliary.kind=uniform", f"{SCHEDULE}=constant"],
    "exponential, embeddings copied": ["main.embeddings=copied", "corruption.schedule.tau=0.1"],
    "exponential, auxiliary's plus delta": ["main.embeddings=auxiliary_plus_delta", "corruption.schedule.tau=0.1"],
    "exponential, start from auxiliary": ["main.start=auxiliary", "corruption.schedule.tau=0.1"],
}


def configuration(name: str, quickstart: Path, updates: int, seed: int) -> Config:
    """The quickstart's main model under a method."""
    common = [
        f"data.shards={json.dumps(str(quickstart / 'shards'))}",
        f"training.updates={updates}",
        f"training.seed={seed}",
    ]
    if not any(setting.startswith("main.start=") for setting in METHODS[name]):
        common.append("main.start=fresh")
    if not any(setting.startswith(("objective.kind=", "auxiliary.kind=")) for setting in METHODS[name]):
        common.append(f"auxiliary.model={json.dumps(str(quickstart / 'auxiliary'))}")
    return load_config("quickstart", [*common, *METHODS[name]])


def measure(config: Config, run: Path, quickstart: Path, found: list[bugs.Bug]) -> dict[str, Any]:
    """`rtd_auc` by the reference auxiliary, operator pairs, share of clipped updates, seconds."""
    records = read_metrics(run / "metrics.jsonl")
    measures: dict[str, Any] = {
        "seconds": sum(record["timing"]["seconds"] for record in records),
        "clipped": {key: float(np.mean([r[key] for r in records])) for key in records[-1] if key.startswith("clipped")},
    }
    reference = configuration("Fast-ELECTRA, exponential", quickstart, 1, 0)
    execution = choose_execution(config.training)
    parts = assemble(reference, execution)
    special = special_ids(parts.tokenizer)
    pairs = bugs.encode_bugs([b for b in found if b.kind == "operator"], parts.tokenizer, config.data.length)
    if config.objective.kind == "mlm":
        prediction = masked_prediction(MaskedLM(load_model(run / "model", "mlm")))
        masked = bugs.evaluate_masked(pairs, prediction, mask_id=special["mask"], pad_id=special["pad"], every_token=0)
        return measures | {"pair": float(masked.pair.mean()), "n": len(pairs)}
    objective = parts.objective
    assert isinstance(objective, FastElectra)
    model = load_model(run / "model", "rtd").to(execution.weights_dtype)  # type: ignore[arg-type]
    objective.main = ReplacedTokenDetector(model)
    measures["rtd_auc"] = objective.validate(parts.validation, seed=0)["rtd_auc"]
    scores = bugs.evaluate_bugs(pairs, detector_of(model), pad_id=special["pad"])
    return measures | {"pair": float(wins(scores.first_changed, scores.first_clean).mean()), "n": len(pairs)}


def main() -> int:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quickstart", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--part", default="1/1")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    corpus = collect()
    found = bugs.find_bugs(corpus.held_out, bugs.count_frequencies(corpus.train), seed=0)
    cells = [(name, seed) for seed in arguments.seeds for name in METHODS]
    for number, (name, seed) in enumerate(cells):
        run = arguments.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
        if number % parts != part - 1 or (run / "measures.json").exists():
            continue
        began = time.perf_counter()
        config = configuration(name, arguments.quickstart, arguments.updates, seed)
        pretrain(config, run)
        write_json_atomically(run / "measures.json", measure(config, run, arguments.quickstart, found))
        print(f"{name}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    print(f"| method, {arguments.updates} updates | rtd_auc | operator pair | clipped | seconds |")
    print("| --- | --- | --- | --- | --- |")
    for name in METHODS:
        folders = [arguments.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}" for seed in arguments.seeds]
        rows = [json.loads((f / "measures.json").read_text()) for f in folders if (f / "measures.json").exists()]
        if rows:
            auc = " ".join(f"{row['rtd_auc']:.3f}" if "rtd_auc" in row else "-" for row in rows)
            pair = " ".join(f"{100 * row['pair']:.1f}" for row in rows)
            clipped = ", ".join(f"{100 * np.mean(list(row['clipped'].values())):.0f} %" for row in rows)
            print(f"| {name} | {auc} | {pair} | {clipped} | {' '.join(str(round(row['seconds'])) for row in rows)} |")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print("error:", error, file=sys.stderr)
        sys.exit(2)
