"""`fast-electra compare`: compares evaluated models and says whether one is ahead."""

from pathlib import Path

PAGES = (".html", ".svg", ".png")


def compare(
    *models: str,
    page: Path | None = None,
    json: bool = False,
) -> None:
    """Compare the results that evaluate stored for two or more models: one table, and one interval per pair and task.

    A difference is not decided if its interval contains 0 or if it is below the minimal detectable difference.

    Parameters
    ----------
    models
        Two or more models, named as for evaluate, or the folders of their results.
    page
        Write the table, the plot and the conclusions to this HTML page; a name that ends in .svg or .png gives only
        the plot.
    json
        Print one JSON object on standard output instead of text.
    """
    from fast_electra.errors import ConfigError
    from fast_electra.terminal import Terminal, command_given, print_json

    names = list(dict.fromkeys(models))
    if len(names) < 2:
        raise ConfigError("compare needs two models or more: fast-electra compare MODEL MODEL.")
    if page is not None and page.suffix.lower() not in PAGES:
        raise ConfigError(f"--page {page}: give a name that ends in {', '.join(PAGES[:-1])} or {PAGES[-1]}.")
    if page is not None and page.is_dir():
        raise ConfigError(f"--page {page} is a folder; name a file, such as {page / 'compare.html'}.")
    from fast_electra.evaluation.contests import compare_evaluations
    from fast_electra.evaluation.evaluations import find_evaluation
    from fast_electra.evaluation.json_results import comparison_entry

    evaluations = [find_evaluation(model) for model in names]
    folders = [one.folder.resolve() for one in evaluations]
    for name, folder in zip(names, folders, strict=True):
        first = names[folders.index(folder)]
        if first != name:
            raise ConfigError(f"{first} and {name} have the same results, in {folder}: name two models.")
    contests = compare_evaluations(evaluations, names, say=Terminal(stderr=True).say)
    if json:
        print_json({"comparisons": [comparison_entry(contest, names) for contest in contests]})
    if json and page is None:
        return
    from fast_electra.report.evaluation_page import save_comparison
    from fast_electra.report.evaluation_tables import contest_table, verdicts
    from fast_electra.report.text_tables import print_table

    if not json:
        console = Terminal()
        print_table(contest_table(contests, names), console)
        console.print()
        for sentence in verdicts(contests):
            console.say(sentence)
    if page is not None:
        commands = [each for one in evaluations for each in one.commands]
        save_comparison(contests, names, [*commands, command_given()], page)
        Terminal(stderr=True).say(str(page))
