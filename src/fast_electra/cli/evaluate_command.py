"""`fast-electra evaluate`: fine-tune a model on tasks and score it beside baselines."""

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
    """Fine-tune a model on tasks, several seeds each, and score it beside baselines.

    What is finished is kept and never done again: the same command goes on where a stopped one left off, and then only
    prints its tables. Nothing is selected on dev.

    Parameters
    ----------
    model
        A run, a checkpoint of one (RUN/checkpoints/UPDATE), a folder or a hub name.
    tasks
        Tasks of GLUE by name (cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli), bugs and blimp, separated by commas.
    data
        A folder in the layout of the GLUE download; left out: the hub, by datasets. A file for blimp (.jsonl, also .gz
        and .xz): a JSON object a line with sentence_good and sentence_bad. May be given twice, once for each.
    pairs
        Pairs of each set that blimp takes; default: all, for a masked language model about 6,700 in all.
    train
        A task of your own: TSV, CSV, JSON lines or Parquet; or named entities as CoNLL, a word and its tag a line.
    dev
        Its examples to score; left out: a tenth of --train.
    test
        Its test set: scored and reported as such, before --dev.
    text
        Its column of text, or two, separated by a comma; not for CoNLL.
    label
        Its column to predict; not for CoNLL.
    recipe
        electra, bert, small or fast; default: small for encoders of a width up to 512, else electra.
    learning_rates
        In place of the recipe's; of several, separated by commas, each task takes the best on a part of train.
    examples
        Train on this many examples, the same ones for the model and its baselines; several, separated by commas, draw a
        curve.
    seeds
        A number of seeds, or the seeds themselves; default: 3.
    probe
        A linear model on each layer of the frozen encoder instead of fine-tuning; for pairs with numbers also the
        cosine of the two texts' mean vectors.
    start
        A fine-tuned folder whose encoder is taken in place of the model's (intermediate task).
    overlap
        Token shards or text of pre-training: count the tasks' texts that occur there.
    drop_overlap
        Leave dev examples whose texts are also in train out of the scores.
    predictions
        A folder for predictions of the test sets, as GLUE's server takes them.
    save
        Keep the fine-tuned model of the first seed of each task, under models/ of the results' folder.
    workers
        Processes that fine-tune side by side and share the cores; default: one for each CUDA device, otherwise one.
    out
        The results' folder; default: evaluation/ in the run, else evaluations/NAME here.
    json
        Print one JSON object on standard output instead.
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
            raise ConfigError(f"--learning-rates: {word} is no learning rate; give numbers such as 1e-4,3e-4.")
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
    """One number is how many, several are the seeds."""
    from fast_electra.errors import ConfigError

    given = given or [3]
    if len(given) == 1:
        if not 1 <= given[0] <= 1000:
            raise ConfigError(f"--seeds {given[0]} is no number of seeds: give 1 to 1000, or two or more seeds.")
        return tuple(range(given[0]))
    if len(set(given)) < len(given) or not all(0 <= seed < 2**32 for seed in given):
        raise ConfigError(f"--seeds {' '.join(map(str, given))}: give different whole numbers from 0 to 4,294,967,295.")
    return tuple(given)


def _command(model: str, given: dict[str, object], seeds: list[int] | None, flags: dict[str, bool]) -> str:
    """The command that repeats this one."""
    from fast_electra.terminal import command

    words = ["evaluate", model]
    for option, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            words += [] if one is None else [option, str(one)]
    words += ["--seeds", *map(str, seeds)] if seeds else []
    return command(*words, *(flag for flag, is_set in flags.items() if is_set))
