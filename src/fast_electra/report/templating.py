"""The pages' templates and the files that they embed."""

import functools
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fast_electra.report import MISSING, decimal, duration, interval, percent, power


@functools.cache
def templates() -> Environment:
    """The templates, with the figures' formats as filters; all text is escaped."""
    environment = Environment(
        loader=PackageLoader("fast_electra.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "decimal": decimal, "duration": duration, "power": power}
    environment.globals |= {"interval": interval, "missing": MISSING}
    # JSON has no NaN: a value that is none would end the whole script.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":"), "sort_keys": False}
    return environment


@functools.cache
def asset(name: str) -> Markup:
    """A style sheet or script of the pages, as it is."""
    return Markup(resources.files("fast_electra.report").joinpath("templates", name).read_text(encoding="utf-8"))
