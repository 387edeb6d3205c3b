"""Files of tasks for tests: GLUE's and the user's own."""

import csv
import json
from pathlib import Path

import numpy as np

from fast_electra.evaluation.glue import GLUE
from fast_electra.evaluation.tasks import Split, Task, make_task

PREMISE = ("premise 0", "premise 1")


def write(path: Path, *rows: tuple[object, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(name: str, split: str, count: int) -> list[tuple[str, ...]]:
    """Texts with what breaks careless readers: quotes, outer spaces, characters that splitlines takes for line ends."""
    sides = range(len(GLUE[name].texts))
    return [tuple(f' "{name} {split} {i}\x85 side {side} ' for side in sides) for i in range(count)]


def glue_folder(folder: Path, name: str) -> dict[str, dict[str, list]]:
    """Write a task as the GLUE download does; gives the same examples as the hub does."""
    task = GLUE[name]
    hub: dict[str, dict[str, list]] = {}
    classes = len(task.labels)
    for role, hub_role, count in (("train", "train", 6), ("dev", "validation", 3), ("test", "test", 2)):
        for ending in task.splits.values() if task.splits and role != "train" else [""]:
            pairs = texts(name, role + ending, count)
            numbers = [i % classes for i in range(count)] if classes else [0.4, 3.8, 5.0, 1.2, 2.6, 0.0][:count]
            written = [str(n) if task.numbered else task.labels[n] for n in numbers] if classes else numbers
            if not classes:
                written = [f"{n:.3f}" for n in numbers]
                numbers = [float(np.float32(n)) for n in numbers]  # 3.8 is 3.799999952316284 there
            if role == "test":
                numbers = [-1] * count
            columns = [list(side) for side in zip(*pairs, strict=True)]
            named = dict(zip(task.hub_texts or task.texts, columns, strict=True))
            hub[hub_role + ending] = {**named, "label": numbers, "idx": list(range(count))}
            path = folder / task.folder / f"{role}{ending}.tsv"
            if name == "cola" and role != "test":
                write(path, *(("gj04", label, "", text) for label, (text,) in zip(written, pairs, strict=True)))
                continue
            header = ["index", "genre", *task.texts] + ([task.label] if role != "test" else [])
            rows = [
                [i, "fiction", *pair] + ([label] if role != "test" else [])
                for i, (pair, label) in enumerate(zip(pairs, written, strict=True))
            ]
            write(path, header, *rows)
    return hub


def own(folder: Path, name: str, rows: list[dict]) -> Path:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            quoting = {"quoting": csv.QUOTE_NONE, "delimiter": "\t"} if path.suffix == ".tsv" else {}
            writer = csv.DictWriter(file, rows[0].keys(), **quoting)
            writer.writeheader()
            writer.writerows(rows)
    return path


def sentiment(count: int = 40) -> list[dict]:
    words = ["good", "bad"]
    return [{"text": f"film {i} is {words[i % 2]} indeed", "label": ["pos", "neg"][i % 2]} for i in range(count)]


def task_of(train: Split, dev: Split, kind="classification", labels=("a", "b"), metrics=("accuracy",)) -> Task:
    return make_task("toy", kind, labels, train, {"dev": dev}, {}, metrics)
