"""`fast-electra evaluate`: fine-tunes a model on tasks and compares its scores with baselines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from fast_electra.evaluation.results import Result
    from fast_electra.terminal import Terminal

Flag = Annotated[bool, Parameter(negative="")]


def evaluate(
    model: str,
    /,
    *,
    tasks: str | None = None,
    data: Annotated[list[Path] | None, Parameter(negative="")] = None,
    pairs: int | None = None,
    train: Path | None = None,
    dev: Path | None = None,
    test: Path | None = None,
    text: str | None = None,
    label: str | None = None,
    recipe: str | None = None,
    learning_rates: str | None = None,
    examples: str | None = None,
    seeds: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    probe: Flag = False,
    start: str | None = None,
    overlap: Path | None = None,
    drop_overlap: Flag = False,
    predictions: Path | None = None,
    save: Flag = False,
    workers: int | None = None,
    out: Path | None = None,
    json: Flag = False,
) -> int:
    """Fine-tune a model on tasks with several seeds each, and compare its scores with baselines.

    The command keeps finished results. If it is stopped, the same command continues; if all is finished, it only prints
    the tables. Nothing is chosen on dev.

    Parameters
    ----------
    model
        A run, a checkpoint of a run (RUN/checkpoints/UPDATE), a model folder or a hub name.
    tasks
        Names separated by commas: GLUE tasks (cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli), bugs and blimp.
    data
        For GLUE, a folder in the layout of the GLUE download; default: load the tasks from the hub with datasets. For
        blimp, a file (.jsonl, also .gz and .xz) with one JSON object per line that has sentence_good and sentence_bad.
        You can give this option twice, once for each.
    pairs
        Number of pairs of each set that blimp uses; default: all; for a masked language model about 6,700 in total.
    train
        Training examples of your own task: TSV, CSV, JSON lines or Parquet, or named entities as CoNLL with one word
        and its tag per line.
    dev
        Examples of your task to score; default: a tenth of --train.
    test
        The test set of your task; its scores are reported separately, before those of --dev.
    text
        The column with the text, or two columns separated by a comma; not for CoNLL.
    label
        The column to predict; not for CoNLL.
    recipe
        Fine-tuning hyper-parameters: electra, bert, small or fast; default: small for encoders of width up to 512,
        otherwise electra.
    learning_rates
        Learning rates, separated by commas, instead of the recipe's. Of several, each task uses the rate with the best
        score on a part of train.
    examples
        Number of training examples, the same examples for the model and its baselines; several numbers, separated by
        commas, give a curve.
    seeds
        The number of seeds, or two or more seeds; default: 3.
    probe
        Instead of fine-tuning, fit a linear model on each layer of the frozen encoder; for pairs of texts with numbers
        also measure the cosine of the two texts' mean vectors.
    start
        Start from the encoder of this fine-tuned folder instead of the model's (intermediate task).
    overlap
        Token shards or text of pre-training: count how many of the tasks' texts also occur there.
    drop_overlap
        Exclude dev and test examples from the scores if their texts are also in train.
    predictions
        A folder for predictions of the test sets, in the format of GLUE's server.
    save
        Keep the fine-tuned model of the first seed of each task, under models/ in the folder of the results.
    workers
        Number of processes that fine-tune in parallel and share the cores; default: one per CUDA device, or else one.
    out
        The folder of the results; default: evaluation/ in the run, or evaluations/NAME in the current folder for other
        models.
    json
        Print one JSON object on standard output instead of text.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from fast_electra.cli.data_option import folder_and_pairs
    from fast_electra.errors import ConfigError
    from fast_electra.pipelines.evaluate import REPORT_FILE, Request, evaluate_model
    from fast_electra.terminal import Terminal, print_json

    folder, pairs_file = folder_and_pairs(data, "--data")
    given = {
        **{"--tasks": tasks, "--data": data, "--pairs": pairs, "--train": train, "--dev": dev, "--test": test},
        **{"--text": text, "--label": label, "--recipe": recipe, "--learning-rates": learning_rates},
        **{"--examples": examples, "--start": start, "--overlap": overlap},
        **{"--predictions": predictions, "--out": out},
    }
    if probe and seeds is not None:
        raise ConfigError("--seeds is about fine-tuning, and --probe has one score: leave one of them out.")
    request = Request(
        model=model,
        tasks=_words(tasks),
        data=folder,
        pairs=pairs_file,
        pairs_per_set=pairs,
        train=train,
        dev=dev,
        test=test,
        text=_words(text),
        label=label,
        recipe=recipe,
        learning_rates=_rates(learning_rates),
        examples=_numbers(examples),
        seeds=_seeds(seeds),
        probe=probe,
        start=start,
        overlap=overlap,
        drop_overlap=drop_overlap,
        predictions=predictions,
        save=save,
        workers=workers,
        out=out,
        command=_command(model, given, seeds, {"--probe": probe, "--save": save, "--drop-overlap": drop_overlap}),
    )
    if seeds is not None and request.tasks == ("blimp",) and train is None:
        raise ConfigError("--seeds is for tasks with training examples: leave it out, or add such a task.")
    console = Terminal(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        bar = display.add_task("", total=None, visible=False)
        evaluation, results = evaluate_model(
            request,
            console.say,
            lambda done, total, doing: display.update(
                bar, completed=done, total=total, description=doing, visible=True
            ),
        )
    if json:
        from fast_electra.evaluation.results import averages_of, entries

        averages = [average._asdict() for average in averages_of(results)]
        print_json({"tasks": entries(results), "averages": averages})
        return 0
    _print(results, Terminal())
    console.say(f"results  {evaluation.folder / 'results.json'}\nreport   {evaluation.folder / REPORT_FILE}")
    return 0


def _print(results: "list[Result]", console: "Terminal") -> None:
    from fast_electra.report.evaluation_page import (
        data_table,
        group_tables,
        layer_tables,
        notes,
        print_table,
        score_tables,
    )

    for table in [*score_tables(results), *layer_tables(results), *group_tables(results), data_table(results)]:
        print_table(table, console)
        console.print()
    for sentence in notes(results):
        console.say(sentence)


def _words(given: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in given.split(",") if word.strip()) if given else ()


def _rates(given: str | None) -> tuple[float, ...]:
    from fast_electra.errors import ConfigError

    rates: list[float] = []
    for word in _words(given):
        try:
            rates.append(float(word))
        except ValueError:
            rates.append(0.0)
        if not 0 < rates[-1] < 1:
            raise ConfigError(f"--learning-rates: {word} is not a learning rate; give numbers such as 1e-4,3e-4.")
    if given and not rates:
        raise ConfigError(f"--learning-rates {given}: give numbers such as 1e-4,3e-4.")
    return tuple(dict.fromkeys(rates))


def _numbers(given: str | None) -> tuple[int, ...]:
    from fast_electra.errors import ConfigError

    words = _words(given)
    if given is not None and not (words and all(word.isdecimal() and int(word) for word in words)):
        raise ConfigError(f"--examples {given}: give whole numbers from 1, such as 100,300,1000.")
    return tuple(sorted({int(word) for word in words}))


def _seeds(given: list[int] | None) -> tuple[int, ...]:
    """Return the seeds: one number is the number of seeds (from 0 on), several numbers are the seeds."""
    from fast_electra.errors import ConfigError

    given = given or [3]
    if len(given) == 1:
        if not 1 <= given[0] <= 1000:
            raise ConfigError(f"--seeds {given[0]} is not a number of seeds: give 1 to 1000, or two or more seeds.")
        return tuple(range(given[0]))
    if len(set(given)) < len(given) or not all(0 <= seed < 2**32 for seed in given):
        raise ConfigError(f"--seeds {' '.join(map(str, given))}: give different whole numbers from 0 to 4,294,967,295.")
    return tuple(given)


def _command(model: str, given: dict[str, object], seeds: list[int] | None, flags: dict[str, bool]) -> str:
    """Return the command line that repeats this one."""
    from fast_electra.terminal import command

    words = ["evaluate", model]
    for option, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            words += [] if one is None else [option, str(one)]
    words += ["--seeds", *map(str, seeds)] if seeds else []
    return command(*words, *(flag for flag, is_set in flags.items() if is_set))
