"""Compares fine-tuning by this program and by Transformers' Trainer, with the same settings and data: scores and speed.

    python tools/trainer_peer.py MODEL --tasks rte,mrpc --data GLUE --seeds 0 1 2     compare the scores
    python tools/trainer_peer.py MODEL --tasks rte --data GLUE --speed                 compare examples per second

MODEL is a run, a folder or a hub name; GLUE is a folder in the layout of the GLUE download. You need `accelerate`
(pip install 'fast-electra[bench]'). Both programs use the recipe's batch, epochs, warm-up, decay, dropout, clipping and
AdamW; the Trainer also uses `bf16`, `DataCollatorWithPadding` and `group_by_length`, and otherwise its defaults. Some
differences stay: the Trainer decays embeddings, rounds under autocast, and draws other heads and orders from a seed.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from fast_electra.config.tree import ExecutionConfig
from fast_electra.errors import UserError
from fast_electra.evaluation.fine_tuning import fine_tune, training_task
from fast_electra.evaluation.glue import load_glue
from fast_electra.evaluation.recipes import RECIPES, Recipe, recipe_for
from fast_electra.evaluation.scores import score
from fast_electra.evaluation.tasks import Split, Task
from fast_electra.models.build import set_dropout
from fast_electra.models.classifier import load_task_tokenizer, longest_text
from fast_electra.models.loading import stored_config
from fast_electra.runs.models import resolve_model
from fast_electra.training.precision import Execution, choose_execution

_RATE = "examples/s"


def by_trainer(
    source: str, task: Task, recipe: Recipe, seed: int, execution: Execution
) -> tuple[dict[str, dict[str, float]], float]:
    """Fine-tune with Transformers' Trainer; return the scores by dev split and metric, and examples per second."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    torch.set_num_threads(execution.threads)
    torch.use_deterministic_algorithms(False)
    name = resolve_model(source)
    tokenizer = load_task_tokenizer(source)
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    longest = longest_text(config, tokenizer, recipe.length)

    class Rows(torch.utils.data.Dataset[dict[str, Any]]):
        """A split as a data set for the Trainer."""

        def __init__(self, split: Split) -> None:
            columns = [list(column) for column in zip(*split.texts, strict=True)]
            second = columns[1] if len(columns) > 1 else None
            self.encoded = tokenizer(columns[0], second, truncation=True, max_length=longest)
            self.labels = split.labels
            self.lengths = [len(ids) for ids in self.encoded["input_ids"]]

        def __len__(self) -> int:
            return len(self.lengths)

        def __getitem__(self, row: int) -> dict[str, Any]:
            return {name: values[row] for name, values in self.encoded.items()} | {"labels": self.labels[row]}

    config.num_labels = max(1, len(task.labels))
    set_dropout(config, recipe.dropout)

    def fresh() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            name, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )

    examples = training_task(task, recipe).train
    with tempfile.TemporaryDirectory() as folder:
        grouped: dict[str, Any] = {"group_by_length": True}
        if "group_by_length" not in TrainingArguments.__dataclass_fields__:
            grouped = {"train_sampling_strategy": "group_by_length"}
        trainer = Trainer(
            model_init=fresh,
            args=TrainingArguments(
                output_dir=folder,
                seed=seed,
                learning_rate=recipe.rates[0],
                num_train_epochs=recipe.epochs_of(task.name, -(-len(examples) // recipe.batch_size)),
                per_device_train_batch_size=recipe.batch_size,
                per_device_eval_batch_size=64,
                warmup_steps=recipe.warmup,
                lr_scheduler_type="linear",
                weight_decay=recipe.weight_decay,
                adam_beta2=recipe.beta2,
                adam_epsilon=recipe.epsilon,
                max_grad_norm=recipe.clip,
                bf16=execution.precision != "float32",
                use_cpu=execution.device.type == "cpu",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                **grouped,
            ),
            train_dataset=Rows(examples),
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )
        result = trainer.train()
        scores: dict[str, dict[str, float]] = {}
        for split, dev in task.dev.items():
            # With `group_by_length`, predictions are in the order of lengths, so only the labels from `predict` fit.
            outputs, labels, _ = trainer.predict(Rows(dev))
            assert isinstance(outputs, np.ndarray)
            assert isinstance(labels, np.ndarray)
            found = outputs[:, 0] if task.kind == "regression" else outputs.argmax(1)
            scores[split] = {metric: score(metric, labels, found) for metric in task.metrics}
    return scores, result.metrics["train_samples_per_second"]


def main() -> int:
    """Run both programs, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tasks", default="rte,mrpc,cola,sst2")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", choices=RECIPES, default="bert")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, help="largest number of examples to train on")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--speed", action="store_true", help="train one epoch per seed, and measure only the speed")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    execution = choose_execution(ExecutionConfig(threads=arguments.threads))
    recipe = recipe_for(arguments.recipe, stored_config(resolve_model(arguments.model)).hidden_size)
    # Neither program uses what the Trainer has no setting for.
    changes: dict[str, Any] = {"layerwise_decay": 1.0, "warmup_multiplies": False, "bias_correction": True}
    epochs = 1 if arguments.speed else arguments.epochs
    if epochs:
        changes |= {"epochs": epochs, "epochs_by_task": {}}
    if arguments.examples:
        changes["train_examples"] = arguments.examples
    recipe = recipe.model_copy(update=changes)
    table = Table("task", "measure", "seed", "this program", "Trainer", "ratio" if arguments.speed else "difference")
    for name in arguments.tasks.split(","):
        task = load_glue(name, arguments.data)
        if arguments.speed:
            task = replace(task, dev={}, test={})
        rows: dict[str, list[tuple[float, float]]] = {}
        for seed in arguments.seeds:
            cell = fine_tune(resolve_model(arguments.model), task, recipe, seed, execution)
            scores, speed = by_trainer(arguments.model, task, recipe, seed, execution)
            ours = {f"{split} {key}": value for split, found in cell.scores.items() for key, value in found.items()}
            theirs = {f"{split} {key}": value for split, found in scores.items() for key, value in found.items()}
            measured = {} if arguments.speed else {key: (100 * ours[key], 100 * theirs[key]) for key in ours}
            measured[_RATE] = cell.timing["examples_per_second"], speed
            for key, pair in measured.items():
                rows.setdefault(key, []).append(pair)
                cells = [name, key, str(seed), *(f"{value:.1f}" for value in pair), _against(key, *pair)]
                table.add_row(*cells)
                print("  ".join(cells), file=sys.stderr, flush=True)
        for key, pairs in rows.items():
            means = tuple(np.mean(pairs, axis=0).tolist())
            table.add_row(name, key, "mean", *(f"{value:.1f}" for value in means), _against(key, *means), style="bold")
    Console().print(table)
    print(f"{arguments.model}, {execution.device.type}, {execution.precision}, {execution.threads} threads; {recipe}")
    return 0


def _against(key: str, ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f} ×" if key == _RATE else f"{ours - theirs:+.1f}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print("error:", error, file=sys.stderr)
        sys.exit(2)
