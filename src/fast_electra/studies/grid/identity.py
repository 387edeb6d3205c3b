"""What a run of a study depends on: its configuration without paths, and a digest of it.

Notable: a value that equals its default is left out, so a new setting of a later version changes no digest.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fast_electra.config.loading import load_config, preset_names
from fast_electra.config.reading import to_plain, yaml_value
from fast_electra.config.tree import BUDGETS, Config
from fast_electra.data.files import canonical_digest
from fast_electra.errors import ConfigError
from fast_electra.parts import Section
from fast_electra.report.figures import look_up
from fast_electra.studies.grid.settings import Settings

_PACE = ("seed", *BUDGETS)
"""keys of `training` that change no speed"""


def configuration(label: str, base: str, settings: Settings) -> Config:
    """The configuration of a preset or file with settings.

    Raises:
        ConfigError: a setting can't be; the sentence begins with `label`.
    """
    try:
        return _loaded(base, tuple(f"{key}={yaml_value(value, inside=True)}" for key, value in settings.items()))
    except ConfigError as error:
        if base not in preset_names() and not Path(base).is_file():
            raise ConfigError(f"{label}: base {error}") from error
        raise ConfigError(f"{label}: {str(error).removeprefix('override ')}") from error


@functools.lru_cache(4096)
def _loaded(base: str, overrides: tuple[str, ...]) -> Config:
    """A configuration; a plan asks for those of stages many times."""
    return load_config(base, overrides)


def changed(section: Section) -> dict[str, Any]:
    """The settings of a section that differ from their defaults, and every kind; `execution` is left out."""
    found: dict[str, Any] = {}
    for name, field_ in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            if name != "execution" and (inner := changed(value)):
                found[name] = inner
        elif name == "kind" or value != field_.get_default(call_default_factory=True):
            several = isinstance(value, list)
            found[name] = (
                [changed(v) if isinstance(v, Section) else to_plain(v) for v in value] if several else to_plain(value)
            )
    return found


def paths_of(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The settings of a configuration that are paths, or names of models."""
    for key in ("data.shards", "auxiliary.model", "main.model", "corruption.cache", "objective.generator.model"):
        if isinstance(value := look_up(tree, key), str):
            yield key, value


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key."""
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[last] = value


def without_pace(tree: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what changes no speed."""
    tree = {section: dict(values) if isinstance(values, dict) else values for section, values in tree.items()}
    tree["training"] = {k: v for k, v in tree["training"].items() if k not in _PACE}
    tree.get("corruption", {}).pop("schedule", None)
    tree["optimizer"] = {"kind": tree["optimizer"].get("kind")}
    return tree


def digest_of(tree: dict[str, Any], stages: Mapping[str, str], flag: bool) -> str:
    """The digest of a configuration; `stages` are the digests of what settings name, by key."""
    tree = {section: dict(values) if isinstance(values, dict) else values for section, values in tree.items()}
    for key in stages:
        put(tree, key, None)
    if stages:
        tree.get("data", {}).pop("sources", None)
    return canonical_digest([tree, dict(stages), flag])[:10]


def source_name(source: Any) -> Any:
    """An entry of `data.sources` without the folder."""
    if isinstance(source, dict):
        return source | {"path": source_name(source["path"])}
    return source if "://" in source else Path(source).name
