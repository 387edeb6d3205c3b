"""`fast-electra evaluate`: fine-tunes a model on tasks and compares its scores with baselines."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from fast_electra.evaluation.settings import EvaluationConfig

if TYPE_CHECKING:
    from fast_electra.evaluation.results import Result
    from fast_electra.terminal import Terminal


def evaluate(
    model: str,
    /,
    *overrides: str,
    time_limit: str | None = None,
    json: bool = False,
    **options: Any,
) -> None:
    """Fine-tune a model on tasks with several seeds each, and compare its scores with baselines.

    The command keeps finished results. If it is stopped, the same command continues; if all is finished, it only prints
    the tables. Nothing is chosen on dev.

    Parameters
    ----------
    model
        A run, a checkpoint of a run (RUN/checkpoints/UPDATE), a model folder or a hub name.
    overrides
        Settings of the recipe and of the execution, each as section.key=value.
    time_limit
        Stop before this time has passed, such as 2h, 90m or 5400 (seconds); the exit status is then 75, and the same
        command continues.
    json
        Print one JSON object on standard output instead of text.
    options
        The other fields of `EvaluationConfig`.
    """
    from fast_electra.pipelines.evaluate import REPORT_FILE, evaluate_model
    from fast_electra.stopping import limit_time
    from fast_electra.terminal import Terminal, command_given, print_json, shown_progress

    limit_time(time_limit)
    if len(seeds := options.get("seeds", [])) == 1:
        options["seeds"] = seeds[0]
    config = EvaluationConfig.of({"model": model, **options}, overrides)
    console = Terminal(stderr=True)
    with shown_progress(console) as progress:
        evaluation, results = evaluate_model(config, console.say, progress, command_given())
    if json:
        from fast_electra.evaluation.json_results import entries
        from fast_electra.evaluation.remarks import averages_of

        averages = [average._asdict() for average in averages_of(results)]
        print_json({"tasks": entries(results), "averages": averages})
        return
    _print(results, Terminal())
    console.say(f"results  {evaluation.folder / 'results.json'}\nreport   {evaluation.folder / REPORT_FILE}")


def _print(results: "list[Result]", console: "Terminal") -> None:
    from fast_electra.report.evaluation_tables import data_table, group_tables, layer_tables, notes, score_tables
    from fast_electra.report.text_tables import print_table

    for table in [*score_tables(results), *layer_tables(results), *group_tables(results), data_table(results)]:
        print_table(table, console)
        console.print()
    for sentence in notes(results):
        console.say(sentence)


_TYPES: dict[str, Any] = {"data": list[Path], "seeds": list[int], "recipe": str}
"""of options that are no text where the field is a list, and of the recipe"""


def _signature() -> inspect.Signature:
    """The parameters of the command, with the fields of the settings as its options, in their order and words."""
    *own, limit, json, _ = inspect.signature(evaluate).parameters.values()
    options: list[inspect.Parameter] = []
    for name, field in EvaluationConfig.model_fields.items():
        if name in ("model", "execution"):
            continue
        kind = _TYPES.get(name, str if isinstance(field.default, list) else field.annotation)
        about = Parameter(
            help=" ".join(str(field.description).split()),
            show_default=False,
            consume_multiple=name == "seeds",
        )
        annotation = Annotated[kind | None, about]
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return inspect.Signature([*own, *options, limit, json], return_annotation=None)


evaluate.__signature__ = _signature()  # type: ignore[attr-defined]
