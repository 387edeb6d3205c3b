"""From a preset, a YAML file and `section.key=value` to one checked `Config`, or one sentence saying what is wrong.

Overrides win over the file, the file over its `preset`, the preset over the defaults of `tree.py`.
"""

import copy
import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fast_electra import plugins
from fast_electra.config.checking import merge_layers, validate
from fast_electra.config.keys import keys, one_of
from fast_electra.config.phases import Phase
from fast_electra.config.reading import (
    Keys,
    Layer,
    Source,
    layer_of,
    read_named_file,
    read_overrides,
    read_text,
    setting,
)
from fast_electra.config.tree import BUDGETS, Config, move_earlier_keys
from fast_electra.errors import ConfigError

_SHAPE = ("architecture", "layers", "hidden_size", "heads", "intermediate_size")


def preset_names() -> list[str]:
    """The names of the presets that come with the package, sorted."""
    folder = resources.files("fast_electra.config").joinpath("presets")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a preset (by its name) or a YAML file, under `section.key=value` overrides.

    Relative paths stay as they are given: they are relative to the working folder, not to the file.

    Raises:
        ConfigError: anything that can't be, as one sentence with file and line, or the override.
    """
    return _checked(_read(source), overrides)


def resolve(mapping: Mapping[str, Any], overrides: Sequence[str] = (), name: str = "configuration") -> Config:
    """The configuration of a nested mapping (which may name a `preset`), under overrides; `name` is for errors.

    Raises:
        ConfigError: as `load_config`, with `name` in place of file and line.
    """
    return _checked(_on_preset(layer_of(mapping, name)), overrides)


def _checked(layer: Layer, overrides: Sequence[str]) -> Config:
    given = read_overrides(overrides)
    _move_earlier_keys(given)
    layer = merge_layers(layer, given, layer.name, Config)
    _import_plugins(layer)
    _check_phases(layer)
    return validate(layer, Config, _missing)


def _check_phases(layer: Layer) -> None:
    """Check each entry of `phases` as a tree of its own, so that a message names its line and its keys."""
    entries = layer.tree.get("phases")
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        path = ("phases", str(number))

        def place_of(path: Keys, number: int = number) -> str:
            place = layer.place(path)
            return f"{place.split('=')[0] if place.startswith('override ') else place}, phase {number + 2}"

        def without_start(inside: Layer, _: list[Keys]) -> str:
            return f"{inside.name}: start must be given, such as start: 0.9."

        if not isinstance(entry, dict):
            raise ConfigError(f"{place_of(path)}: a phase is a mapping such as {{start: 0.9, data: {{length: 512}}}}.")
        sources = {
            key[2:]: Source(place_of(key), source.text)
            for key, source in layer.sources.items()
            if key[:2] == path and key != path
        }
        validate(Layer(place_of(path), entry, sources), Phase, without_start)


def _on_preset(layer: Layer, visited: tuple[str, ...] = ()) -> Layer:
    if "preset" not in layer.tree:
        return layer
    place, preset = layer.place(("preset",)), layer.tree.pop("preset")
    if preset not in preset_names() or preset in visited:
        raise ConfigError(f"{place}: preset must be {one_of(preset_names(), preset)}.")
    return merge_layers(_read_preset(preset, (*visited, preset)), layer, layer.name, Config)


def _read_preset(name: str, visited: tuple[str, ...] = ()) -> Layer:
    return _on_preset(copy.deepcopy(_preset(name)), visited or (name,))


@functools.cache
def _preset(name: str) -> Layer:
    """The file of a preset; reading it takes 50 ms, and a study reads it for each run."""
    text = resources.files("fast_electra.config").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    return read_text(text, f"preset {name}")


def _read(source: str | Path) -> Layer:
    if isinstance(source, str) and source in preset_names():
        return _read_preset(source)
    layer = read_named_file(source, "neither a preset", preset_names())
    _move_earlier_keys(layer)
    return _on_preset(layer)


def _move_earlier_keys(layer: Layer) -> None:
    for earlier, now in move_earlier_keys(layer.tree):
        layer.sources[now] = layer.sources.pop(earlier)


def _import_plugins(layer: Layer) -> None:
    """Import what the configuration names; what `--plugin` named becomes a part of it."""
    named = layer.tree.get("plugins")
    if isinstance(named, list) and all(isinstance(name, str) for name in named):  # else checking it says what is wrong
        try:
            plugins.load_plugins(named)
        except ConfigError as error:
            raise ConfigError(f"{layer.place(('plugins',))}: {error}") from error
    if plugins.requested:
        layer.tree["plugins"] = list(dict.fromkeys([*(named or []), *plugins.requested]))


def _missing(layer: Layer, paths: list[Keys]) -> str:
    names: list[str] = []
    for path in paths:
        name = ".".join(path)
        below = [key.name for key in keys().values() if key.required and key.name.startswith(name + ".")]
        names += [name] if name in keys() else below or [name]
    if not {*BUDGETS} & {*(layer.tree.get("training") or {})}:
        names.append("training.updates")
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    written = " ".join(setting(key, value) for name in names for key, value in _example(layer, name).items())
    preset = "" if layer.name.startswith("preset ") else ", or `preset: quickstart` in the file"
    return f"{layer.name}: {listed} must be given; write for example {written} on the command line{preset}."


def _example(layer: Layer, name: str) -> dict[str, Any]:
    """Settings for a key or section that is missing: the quickstart's; a generator is the main model, less deep."""
    tree: Any = _read_preset("quickstart").tree
    main = {key: value for key, value in tree["main"].items() if key in _SHAPE}
    if name == "main":
        tree = {"main": main}
    elif name == "objective.generator":
        own = layer.tree.get("main", {})
        shape = main | {key: value for key, value in own.items() if key in _SHAPE}
        widths = {key: value for key, value in own.get("options", {}).items() if key == "embedding_size"}
        shape |= {"layers": max(1, shape["layers"] // 3)} | ({"options": widths} if widths else {})
        tree = {"objective": {"generator": shape}}
    for key in name.split("."):
        tree = tree[key]
    return {f"{name}.{key}": value for key, value in tree.items()} if isinstance(tree, dict) else {name: tree}
