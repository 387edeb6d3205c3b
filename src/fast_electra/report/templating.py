"""Templates of the pages, and the files that they embed."""

import functools
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fast_electra.report.figures import MISSING, decimal, duration, interval, percent, power


@functools.cache
def templates() -> Environment:
    """Return the environment of the templates, with the number formats as filters; all text is escaped."""
    environment = Environment(
        loader=PackageLoader("fast_electra.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "decimal": decimal, "duration": duration, "power": power}
    environment.globals |= {"asset": asset, "interval": interval, "missing": MISSING}
    # JSON has no NaN: one NaN would break the whole script.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":"), "sort_keys": False}
    return environment


@functools.cache
def asset(name: str) -> Markup:
    """Return a style sheet or script of the pages without escaping."""
    return Markup(resources.files("fast_electra.report").joinpath("templates", name).read_text(encoding="utf-8"))
