"""The model card of an export: the method, the data, the settings, the cost, and how to load the model.

Notable:
- the card gives two figures of computation: that of the run, and the sum with the training of the models that the run
  started from or used, which papers leave out. If that is not known, the card says so;
- of a path on this machine the card has only the last name, because cards are published.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from huggingface_hub import ModelCard
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fast_electra.config.phases import Phase
from fast_electra.config.printing import dump_config
from fast_electra.config.tree import Config
from fast_electra.models.export import longest_export
from fast_electra.models.inputs import longest_row, positions_of
from fast_electra.runs.folder import RunFolder

_LOADING = {
    "mlm": """from transformers import pipeline

pipeline("fill-mask", model="FOLDER")""",
    "electra": """import torch
from transformers import AutoTokenizer, ElectraForPreTraining

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = ElectraForPreTraining.from_pretrained("FOLDER")
inputs = tokenizer("The quick brown fox ate over the lazy dog", truncation=True, return_tensors="pt")
replaced = torch.sigmoid(model(**inputs).logits)  # for each token, the probability that it was replaced

# Do not use pipeline("token-classification"): its head for ELECTRA is another one, with random weights.""",
    "classifier": """from transformers import pipeline

pipeline("token-classification", model="FOLDER")  # labels each token original or replaced""",
    "onnx": """import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
session = onnxruntime.InferenceSession("FOLDER/model.onnx")
inputs = tokenizer(["one text", "another text"], padding=True, truncation=True, return_tensors="np")
*_, states = session.run(None, {name: inputs[name].astype("int64") for name in ("input_ids", "attention_mask")})
# states: (texts, tokens, width); before them, if the model has a head, its logits""",
    "sentence-transformers": """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("FOLDER")
vectors = model.encode(["one text", "another text"])  # (texts, width), each of length 1
# Fine-tune it on pairs of texts first: pre-training alone does not make the vectors of similar texts similar.""",
}
_MEASURES = {
    "loss": "mean loss of a token, in nats",
    "masked_accuracy": "share of masked tokens whose most likely prediction is the original",
    "unigram_accuracy": "the same for the most frequent token of the vocabulary, for comparison",
    "replaced_fraction": "share of masked positions where the sampled token differs from the original",
    "rtd_auc": "area under the ROC curve of the logit for replaced, over all tokens; chance is 0.5",
    "rtd_auc_masked": "the same over masked positions only",
}
"""what a measure of the validation text is, for the card; docs/method.md defines all of them"""
_CITATION = """@inproceedings{dong2024fastelectra,
  title     = {Fast-{ELECTRA} for Efficient Pre-training},
  author    = {Dong, Chengyu and Liu, Liyuan and Cheng, Hao and Shang, Jingbo and Gao, Jianfeng and Liu, Xiaodong},
  booktitle = {International Conference on Learning Representations},
  year      = {2024}
}"""


def training_flops(source: str, update: int | None = None) -> int | None:
    """FLOPs of a model's training, including that of the models that it used; None if they are not known.

    Args:
        source: a run, a folder inside a run, another folder or a hub name.
        update: update of the checkpoint in use; None: the run's end.
    """
    run = RunFolder.of_model(source)
    if run is None or not run.is_finished:
        return None
    own = run.result["flops"] * (update or run.updates) // run.updates
    return None if None in run.earlier_flops.values() else own + sum(filter(None, run.earlier_flops.values()))


def earlier_flops(config: Config) -> dict[str, int | None]:
    """FLOPs of the computation before a run that the run depends on; the value is None if they are not known.

    `main`: the training of the model that the run continues; `auxiliary`: the training of its auxiliary; `cache`: the
    auxiliary's forward pass over the rows that the run reads from a corruption cache.
    """
    found = {"main": training_flops(config.main.model)} if config.main.model else {}
    if config.objective.uses_auxiliary and config.corruption.cache:
        about = json.loads((config.corruption.cache / "cache.json").read_text())["auxiliary"]
        read = {cast(Path, phase.config.corruption.cache): phase.end for phase in config.planned_phases()}
        costs = [json.loads((cache / "cache.json").read_text())["auxiliary"]["flops_per_row"] for cache in read]
        rows = zip(costs, read.values(), strict=True)
        found |= {"auxiliary": about["training_flops"], "cache": sum(cost * count for cost, count in rows)}
    elif config.objective.uses_auxiliary and config.auxiliary.model:
        found["auxiliary"] = training_flops(config.auxiliary.model, config.auxiliary.checkpoint)
    return found


def text_length(
    config: Config, part: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, update: int
) -> int:
    """The largest number of tokens that an exported model should read: the longest `data.length` of its phases so far.

    A continued model may have been trained on longer texts before. Then it is what the model and its tokenizer accept.

    Args:
        config: of the run.
        part: see `model_card`.
        model: the exported model.
        tokenizer: of the run.
        update: number of updates that the model was trained for.
    """
    begun = [phase for phase in config.planned_phases() if phase.start < update]
    trained = max((phase.config.data.length for phase in begun), default=config.data.length)
    return max(trained, longest_export(model.config, tokenizer)) if _source(config, part) else trained


def model_card(run: RunFolder, result: Mapping[str, Any], part: str, model: PreTrainedModel, length: int) -> str:
    """The text of README.md for one of a run's models.

    Args:
        run: the model's run.
        result: `updates`, `tokens`, `flops` and `validation` at these weights.
        part: `main`, `generator` of joint ELECTRA, or `masked_lm`, the main model's encoder with its vocabulary head.
        model: the exported model.
        length: the result of `text_length`.
    """
    config, shape = run.config, model.config
    head = config.objective.head_of(part)
    predicts_tokens = head == "mlm"
    loading = _LOADING["mlm" if predicts_tokens else "electra" if shape.model_type == "electra" else "classifier"]
    size = sum(parameter.numel() for parameter in model.parameters())
    rows = {
        "method": config.objective.title(part),
        "architecture": f"{shape.model_type}, {shape.num_hidden_layers} layers of width {shape.hidden_size}, "
        f"{size:,} parameters",
        "start": f"continued from {_last(config.main.model)}" if config.main.model else "fresh weights",
        **_auxiliary(config, run.digest("auxiliary")),
        "masking": f"{config.corruption.masking.kind}, {config.corruption.masking.rate:.0%} of a row's tokens",
        "learning rate": f"{config.optimizer.schedule}, {config.optimizer.learning_rate:g} at its peak, warm-up "
        f"{config.optimizer.warmup:.0%} of the run",
        "data": f"token shards with fingerprint `{str(run.digest('data'))[:16]}`, tokenizer "
        f"`{str(run.digest('tokenizer'))[:16]}`",
        "longest text": _longest(length, config, part, model),
        "updates": f"{result['updates']:,} of {config.training.updates:,}{_rows(config)}{_segments(run)}",
        "tokens seen": f"{result['tokens']:,}",
        "computation": _computation(run.earlier_flops, result["flops"]),
        "seed": str(config.training.seed),
    }
    pipeline = "fill-mask" if predicts_tokens else None if shape.model_type == "electra" else "token-classification"
    measures = "\n".join(
        f"| `{name}` | {value:.4f} | {_MEASURES.get(name, '')} |" for name, value in result["validation"].items()
    )
    before = _source(config, part)
    base = before if before and not Path(before).exists() else None
    return f"""---
library_name: transformers
{f"pipeline_tag: {pipeline}" if pipeline else "# no pipeline loads the head of this class"}
tags: [fast-electra, {shape.model_type}]{f"{chr(10)}base_model: {base}" if base else ""}
---

# {"A masked language model" if predicts_tokens else "A text encoder"} pre-trained with fast-electra

{_table(rows)}

The row "computation" counts the matrix products of every part of a training step, forward and backward.

## Measures on validation text

{"| measure | value | |" if measures else "There are no measures at this update."}
{"| --- | ---: | --- |" if measures else ""}
{measures}

## Loading

```python
{loading}
```

`AutoModel.from_pretrained("FOLDER")` gives the encoder without its head, for fine-tuning.

## Settings

```yaml
{dump_config(_without_folders(config))}```

## Citation

```bibtex
{_CITATION}
```
"""


def card_for_library(card: str, library: str) -> str:
    """A model card for an export in the format of another library.

    Args:
        card: the card of the Transformers model; may be empty.
        library: `onnx` or `sentence-transformers`.
    """
    made = ModelCard(
        card or "---\nlibrary_name: transformers\n---\n\n# A text encoder\n\n## Loading\n\n```python\n```\n"
    )
    task = "sentence-similarity" if library == "sentence-transformers" else "feature-extraction"
    for key, value in (("library_name", library), ("pipeline_tag", task)):
        setattr(made.data, key, value)
    made.text = re.sub(
        r"(?s)(?<=## Loading\n\n```python\n).*?```\n(.*?from_pretrained.*?\n)?",
        lambda _: f"{_LOADING[library]}\n```\n",
        made.text,
        count=1,
    )
    return str(made)


def describe(
    folder: Path,
    name: str | None = None,
    license_name: str | None = None,
    languages: Sequence[str] = (),
    datasets: Sequence[str] = (),
) -> None:
    """Write to an export's model cards what the program cannot know.

    Args:
        folder: of the export; its card, and those of the models in its folders, are changed.
        name: hub name, which replaces FOLDER in the code that loads the model.
        license_name: identifier of a licence as the hub uses it, such as apache-2.0.
        languages: language codes, such as de.
        datasets: names of data sets.
    """
    known = {"license": license_name, "language": list(languages), "datasets": list(datasets)}
    for file in sorted(folder.rglob("README.md")):
        card = ModelCard.load(file)
        before = card.text
        if name and file.parent == folder:
            card.text = card.text.replace("FOLDER", name)
        elif name and file.parent.parent == folder and file.parent.name.startswith("step-"):
            card.text = card.text.replace("FOLDER", f'{name}", revision="{file.parent.name}')
        for key, value in known.items():
            if value:
                setattr(card.data, key, value)
        if card.text != before or any(known.values()):
            card.save(file)


def card_of_revisions(newest: str, name: str, updates: Collection[int]) -> str:
    """The card of a hub repository whose revisions are checkpoints.

    Args:
        newest: the card of the newest checkpoint, whose model the repository has without a revision.
        name: of the repository.
        updates: of all checkpoints.
    """
    text = re.sub(r'", revision="step-\d+', "", newest).rstrip()
    revisions = ", ".join(f"`step-{update}`" for update in sorted(updates))
    return (
        f"{text}\n\n## Checkpoints\n\n"
        f"The revisions of this repository are checkpoints of the run: {revisions}. Load one by "
        f'`from_pretrained("{name}", revision="step-{min(updates)}")`.\n'
    )


def _source(config: Config, part: str) -> str | None:
    """The model that one of a run's models continues; None if it started from new weights."""
    generator = config.objective.generator_shape
    if part == "generator" and generator is not None:
        return generator.model
    return config.main.model


def _longest(length: int, config: Config, part: str, model: PreTrainedModel) -> str:
    text = f"{length:,} tokens, " + ("as it was before" if _source(config, part) else "as in training")
    if positions_of(model.config).table:
        return f"{text}; its table of positions ends at {longest_row(model.config):,}"
    return f"{text}; it has no table of positions, so it also reads longer texts, but was not trained on them"


def _auxiliary(config: Config, weights: str | None) -> dict[str, str]:
    """The table's rows about the auxiliary and the curriculum; empty if the run has none."""
    if not config.objective.uses_auxiliary:
        return {}
    schedule = config.corruption.schedule
    settings = ", ".join(f"{name} {value}" for name, value in schedule.model_dump().items() if name != "kind")
    named = config.auxiliary.model
    digest = f", weights `{weights[:16]}`" if weights else ""
    table = "that of a corruption cache" if config.corruption.cache else f"{config.auxiliary.kind} table of the corpus"
    return {
        "auxiliary": f"{_last(named) if named else table}{digest}",
        "schedule": f"{config.corruption.augmentation.kind}, {schedule.kind}: {settings}",
    }


def _rows(config: Config) -> str:
    """The rows of an update, in each phase."""
    if not config.phases:
        return f", each of {config.training.batch_size} rows of {config.data.length} tokens"
    return "".join(
        f"; from update {p.start + 1:,} on {p.config.training.batch_size} rows of {p.config.data.length} tokens"
        for p in config.planned_phases()
    )


def _segments(run: RunFolder) -> str:
    later = run.segments[1:]
    return "".join(f"; extended at {segment['from']:,} to {segment['updates']:,}" for segment in later)


def _computation(earlier: Mapping[str, int | None], flops: int) -> str:
    text = f"{flops:.2e} FLOPs"
    known = {name: value for name, value in earlier.items() if value is not None}
    if known:
        names = {"main": "the earlier training", "auxiliary": "the auxiliary's own training", "cache": "its cache"}
        text += f"; {flops + sum(known.values()):.2e} with {' and '.join(names[name] for name in known)}"
    for name in earlier.keys() - known.keys():
        what = "the auxiliary" if name == "auxiliary" else "the model that it continues"
        text += f"; the cost of training {what} is unknown"
    return text


def _table(rows: Mapping[str, str]) -> str:
    escaped = {name: text.replace("|", "\\|") for name, text in rows.items()}
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {text} |" for name, text in escaped.items())


def _last(name: str | None) -> str:
    return Path(name).name if name and Path(name).exists() else str(name)


def _without_folder(entry: str | dict[str, Any]) -> str | dict[str, Any]:
    if isinstance(entry, dict):
        return entry | {"path": _without_folder(entry["path"])}
    return entry if entry.startswith("hf://") and not entry.startswith("hf:///") else _last(entry)


def _without_folders(config: Config) -> Config:
    data: dict[str, Any] = {"sources": [_without_folder(source) for source in config.data.sources]}
    data["shards"] = Path(config.data.shards.name) if config.data.shards else None  # type: ignore[assignment]
    path = config.data.tokenizer.path
    data["tokenizer"] = config.data.tokenizer.model_copy(update={"path": _last(path) if path else None})  # type: ignore[assignment]
    main, auxiliary, cache = config.main.model, config.auxiliary.model, config.corruption.cache
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=data),
            "corruption": config.corruption.model_copy(update={"cache": Path(cache.name) if cache else None}),
            "main": config.main.model_copy(update={"model": _last(main) if main else None}),
            "auxiliary": config.auxiliary.model_copy(update={"model": _last(auxiliary) if auxiliary else None}),
            "phases": [_without_its_folders(phase) for phase in config.phases],
        }
    )


def _without_its_folders(phase: Phase) -> Phase:
    shards, cache = phase.data.shards, phase.corruption.cache
    return phase.model_copy(
        update={
            "data": phase.data.model_copy(update={"shards": Path(shards.name) if shards else None}),
            "corruption": phase.corruption.model_copy(update={"cache": Path(cache.name) if cache else None}),
        }
    )
