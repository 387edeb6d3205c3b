"""Contents of a quickstart's report besides its curves: found bugs, costs, examples, environment and the summary."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import transformers

import fast_electra
from fast_electra.config.tree import Config
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.masking import masked_tokens
from fast_electra.evaluation.bugs.scoring import BugScores
from fast_electra.evaluation.bugs.tokens import Pair
from fast_electra.evaluation.detector import detector_of
from fast_electra.objectives.fast_electra import FastElectra
from fast_electra.pipelines.pretrain import RunResult
from fast_electra.report.tokens import decode_pieces
from fast_electra.runs.metrics import Record
from fast_electra.training.assembly import Assembled
from fast_electra.training.flops import count_flops


def bug_examples(pairs: Sequence[Pair], scores: BugScores, each: int = 3) -> list[dict[str, Any]]:
    """Short functions at fixed quantiles of the score, so found and missed bugs, with every token's suspicion."""
    short = [
        index for index, pair in enumerate(pairs) if len(pair.changed) <= 90 and pair.bug.changed.count("\n") <= 14
    ]
    ranked = sorted(short, key=lambda index: float(scores.first_changed[index] - scores.first_clean[index]))
    examples = []
    for quantile in (0.95, 0.75, 0.25)[:each]:
        if not ranked:
            break
        index = ranked[min(len(ranked) - 1, int(quantile * len(ranked)))]
        pair = pairs[index]
        probabilities = torch.from_numpy(scores.changed_logits[index]).float().sigmoid().tolist()
        tokens = [
            {
                "text": pair.bug.changed[start:end],
                "suspicion": probability,
                "changed": pair.first <= place < pair.changed_end,
            }
            for place, ((start, end), probability) in enumerate(zip(pair.offsets, probabilities, strict=True))
            if end > start
        ]
        bug = pair.bug
        examples.append(
            {
                "kind": bug.kind,
                "source": bug.source,
                "original": bug.original,
                "replacement": bug.replacement,
                "tokens": tokens,
            }
        )
    return examples


def summary_of(
    auxiliary: RunResult,
    main: RunResult,
    downstream: Mapping[str, Any],
    config: Config,
    records: Mapping[str, list[Record]],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The content of summary.json, without the user's task."""
    schedule = config.corruption.schedule
    return {
        "auxiliary": auxiliary.validation | {"updates": auxiliary.updates, "tokens": auxiliary.tokens},
        "main": main.validation | {"updates": main.updates, "tokens": main.tokens},
        "downstream": downstream,
        "temperature": {
            "first": schedule.temperature(0.0),
            "last": schedule.temperature((main.updates - 1) / main.updates),
        },
        "timing": {
            "seconds": dict(seconds),
            "tokens_per_second": {name: _tokens_per_second(records[name]) for name in ("auxiliary", "main")},
        },
    }


def _tokens_per_second(records: Sequence[Record]) -> float:
    """Tokens of the run per second of its updates, without validation and checkpoints."""
    seconds = sum(record["timing"]["seconds"] for record in records)
    return records[-1]["tokens"] / seconds if records else 0.0


def cost_of(
    auxiliary: RunResult, main: RunResult, parts: Assembled, seconds: Mapping[str, float], config: Config
) -> list[dict[str, Any]]:
    """FLOPs and seconds of each part, including the training of the auxiliary."""
    objective = cast(FastElectra, parts.objective)
    batch = parts.schedule.at(0).split(2)[0]
    prepared = objective.prepare(batch, seed=0)
    forward = count_flops(lambda: objective.source.corrupt(prepared.batch, prepared.masked, Difficulty(1.0), 0))
    corruption = forward * config.training.batch_size // batch.ids.shape[0] * main.updates
    return [
        {"part": "auxiliary: training", "flops": auxiliary.flops, "seconds": seconds.get("auxiliary")},
        {"part": "auxiliary: corruption, on the fly", "flops": corruption, "seconds": None},
        {"part": "main model: training", "flops": main.flops - corruption, "seconds": seconds.get("main")},
    ]


def snippets(parts: Assembled, model: Any, count: int = 4, tokens: int = 90) -> list[dict[str, Any]]:
    """Validation rows corrupted at T = 1, with the main model's probability of "replaced" for each token."""
    objective = cast(FastElectra, parts.objective)
    prepared = parts.validation[len(parts.validation) // 2]
    prepared = prepared.split(count)[0]
    corrupted = objective.source.corrupt(prepared.batch, prepared.masked, Difficulty(1.0), 0)
    probabilities = detector_of(model)(corrupted.ids_BS, prepared.batch.padding).sigmoid()
    masked_BS = masked_tokens(prepared.batch, prepared.masked)

    def decode(ids: list[int]) -> str:
        return str(parts.tokenizer.decode(ids))

    found = []
    for row in range(min(count, len(corrupted.ids_BS))):
        shown = slice(1, 1 + tokens)
        pieces = decode_pieces(corrupted.ids_BS[row, shown].tolist(), decode)
        originals = prepared.batch.ids[row, shown].tolist()
        entries = zip(
            pieces,
            originals,
            masked_BS[row, shown].tolist(),
            corrupted.replaced_BS[row, shown].tolist(),
            probabilities[row, shown].tolist(),
            prepared.batch.eligible[row, shown].tolist(),
            strict=True,
        )
        found.append(
            {
                "tokens": [
                    {
                        "text": piece,
                        "masked": was_masked,
                        "replaced": replaced,
                        "original": decode([original]) if replaced else None,
                        "probability": probability if eligible else None,
                    }
                    for piece, original, was_masked, replaced, probability, eligible in entries
                ]
            }
        )
    return found


def environment_of(config: Config, precision: str, threads: int) -> dict[str, Any]:
    """The versions, the processor and the settings that the page shows."""
    return {
        "fast-electra": fast_electra.__version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "Transformers": transformers.__version__,
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "precision": precision,
        "threads": threads,
        "seed": config.training.seed,
        "main model": f"{config.main.architecture}, {config.main.layers} layers × {config.main.hidden_size}",
        "updates": config.training.updates,
    }
