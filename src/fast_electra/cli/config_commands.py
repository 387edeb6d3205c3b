"""`fast-electra config`: shows a resolved configuration, its curves, and its schema."""

from pathlib import Path

from fast_electra.config import config_schema, dump_config, load_config
from fast_electra.errors import ConfigError
from fast_electra.terminal import Terminal, print_json

# Shares of a run at which `plot` without a file prints the curves: close together where schedules fall fast.
_PRINTED = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def show(config: str, /, *overrides: str, json: bool = False) -> None:
    """Print a resolved configuration.

    Parameters
    ----------
    config
        A preset's name or a YAML file.
    overrides
        Settings, each as section.key=value.
    json
        Print one JSON object instead of commented YAML.
    """
    resolved = load_config(config, overrides)
    if json:
        print_json(resolved.model_dump(mode="json"), indent=2)
    else:
        Terminal().say(dump_config(resolved).removesuffix("\n"))


def plot(
    config: str,
    /,
    *overrides: str,
    beside: list[str] | None = None,
    run: Path | None = None,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Draw the temperature (or strength) and the learning rate over the updates, or print them as a table.

    Parameters
    ----------
    config
        A preset's name or a YAML file.
    overrides
        Settings, each as section.key=value.
    beside
        Draw a second curve with this setting changed (put several settings in quotes); you can give this option several
        times.
    run
        Also draw the temperature and the difficulty that this run recorded.
    out
        The picture, a file that ends in .svg or .png; default: print a table.
    json
        Print the table as one JSON object.
    """
    configs = {Path(config).stem: load_config(config, overrides)}
    for settings in beside or []:
        changed = settings.split()
        name = ", ".join(setting.removeprefix("corruption.schedule.") for setting in changed)
        configs[name] = load_config(config, (*overrides, *changed))
    if out is None and (beside or run):
        raise ConfigError("--beside and --run need a picture: give --out FILE.svg or FILE.png.")
    if out is not None and out.suffix not in (".svg", ".png"):
        raise ConfigError(f"--out {out} must end in .svg or .png.")
    for name, each in configs.items():
        if each.objective.uses_auxiliary and each.corruption.schedule.is_automatic:
            Terminal(stderr=True).say(
                f"{name}: the temperature is not shown, because corruption.schedule.initial=auto is chosen when the "
                "run starts; the run's config.yaml has the number."
            )
    from fast_electra.report.curves import planned, schedule_chart

    if out is None:
        _print_curves(planned(next(iter(configs.values())), _PRINTED), json)
        return
    from fast_electra.report.plots import save_png, save_svg
    from fast_electra.runs.folder import load_run

    chart = schedule_chart(configs, load_run(run).metrics() if run else ())
    (save_svg if out.suffix == ".svg" else save_png)(chart, out)
    Terminal().say(str(out))


def schema() -> None:
    """Print the JSON Schema of a configuration file."""
    print_json(config_schema(), indent=2)


def _print_curves(records: list[dict[str, float]], as_json: bool) -> None:
    """Print one row per update and one column per quantity, or one JSON object."""
    if as_json:
        print_json({"curves": records})
        return
    from rich.table import Table

    names = list(records[0])
    table = Table(box=None)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for record in records:
        table.add_row(*(f"{record[name]:,.0f}" if name == "update" else f"{record[name]:.4g}" for name in names))
    Terminal().print(table)
