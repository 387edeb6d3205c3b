"""Layers of settings to one checked section, or one sentence that says what is wrong, where, and what to do.

Notable:
- layers are merged as plain mappings, each value with the place where it was written, and checked once, at the end;
- changing a `kind` drops the settings of the old kind; sections drop further values (`Section.make_room`);
- checking is strict: no text becomes a number, no `true` becomes 1. It runs on JSON because pydantic's strict mode
  takes paths as text there and nowhere else.
"""

import json
import re
import shlex
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from fast_electra.config.keys import fields_of, keys, kind_of, nearest_key, one_of, sections_of, shared_keys
from fast_electra.config.reading import (
    Keys,
    Layer,
    as_written,
    parse,
    path_as_text,
    paths,
    quoted,
    to_plain,
    yaml_value,
)
from fast_electra.config.tree import Config
from fast_electra.errors import ConfigError
from fast_electra.parts import Section

_S = TypeVar("_S", bound=Section)
_Missing = Callable[[Layer, list[Keys]], str]


def merge_layers(below: Layer, above: Layer, name: str, root: type[Section]) -> Layer:
    """A layer called `name`: `above` over `below`, whose tree is changed; both are of the section `root`."""

    def merge(low: dict[str, Any], high: dict[str, Any], sections: tuple[type[Section], ...], path: Keys) -> None:
        if len(sections) > 1 and "kind" in high and high["kind"] != low.get("kind", _default_kind(path, root)):
            for name in low.keys() - shared_keys(sections):
                del low[name]
        if len(sections) == 1:
            sections[0].make_room(low, high)
        fields = fields_of(sections)
        for name, value in high.items():
            inner = sections_of(fields[name].annotation) if name in fields else ()
            if isinstance(value, dict) and isinstance(low.get(name), dict):
                merge(low[name], value, inner, (*path, name))
            elif not (inner and value is None and name in low):  # an empty section changes nothing
                low[name] = value

    merge(below.tree, above.tree, (root,), ())
    return Layer(name, below.tree, below.sources | above.sources)


def validate(layer: Layer, root: type[_S], missing: _Missing | None = None) -> _S:
    """The section that a layer describes.

    Args:
        layer: all settings; its tree is filled in.
        root: the type of the section.
        missing: the sentence for keys that must be given, by the layer and their paths.

    Raises:
        ConfigError: anything that can't be, as one sentence.
    """
    _check_names(layer, layer.tree, (root,), (), root)
    try:
        return root.model_validate_json(json.dumps(layer.tree, default=path_as_text), strict=True)
    except ValidationError as error:
        raise ConfigError(_sentence(layer, error, root, missing)) from None


def _default_kind(path: Keys, root: type[Section]) -> str:
    return keys(root)[".".join((*path, "kind"))].default


def _check_names(
    layer: Layer, tree: dict[str, Any], sections: tuple[type[Section], ...], path: Keys, root: type[Section]
) -> None:
    """Refuses unknown keys, and fills in what a person may leave out: empty sections and default kinds."""
    if len(sections) > 1:
        tree.setdefault("kind", _default_kind(path, root))
        if tree["kind"] not in map(kind_of, sections):
            return  # pydantic's list of kinds says it better
    fields = fields_of(sections, tree)
    for name, value in tree.items():
        here = (*path, name)
        if name not in fields:
            raise ConfigError(_unknown(layer, tree, here, value, root))
        if inner := sections_of(fields[name].annotation):
            if value is None and fields[name].default is not None:  # None: a section that may be left out
                tree[name] = value = {}
            if isinstance(value, dict):
                _check_names(layer, value, inner, here, root)


def _unknown(layer: Layer, tree: dict[str, Any], path: Keys, value: Any, root: type[Section]) -> str:
    name = ".".join(path)
    if "." in path[-1]:  # in a file, where sections are mappings
        section, _, key = path[-1].rpartition(".")
        return f"{layer.place(path)}: {path[-1]} is no key of YAML; write `{section}:`, and `{key}:` indented below it."
    if name in keys(root):  # of another kind
        kinds, kind = keys(root)[name].kinds, (*path[:-1], "kind")
        reason = f" ({layer.place(kind)})" if kind in layer.sources else ""
        return (
            f"{layer.place(path)}: {name} belongs to kind {' or '.join(kinds)}, and kind is {tree['kind']}{reason}; "
            f"leave {path[-1]} out, or change {'.'.join(kind)}."
        )
    while isinstance(value, dict) and value:  # a misspelt section: its first key says more
        key, value = next(iter(value.items()))
        path = (*path, key)
    name = ".".join(path)
    if path == ("preset",):
        return f"{layer.place(path)}: a preset isn't set by an override; give it as the configuration, or in the file."
    suggestion = nearest_key(name, root)
    sections = [field for field, info in root.model_fields.items() if sections_of(info.annotation)]
    known = f"the sections are {', '.join(sections)}." if sections else f"the keys are {', '.join(keys(root))}."
    remedy = f"did you mean {suggestion}?" if suggestion else known
    return f"{layer.place(path)}: unknown key {name}; {remedy}"


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "dict_type": "a mapping",
    "greater_than": "greater than {}",
    "greater_than_equal": "at least {}",
    "less_than": "less than {}",
    "less_than_equal": "at most {}",
}


def _sentence(layer: Layer, error: ValidationError, root: type[Section], missing: _Missing | None) -> str:
    """The first error of pydantic's list, as one sentence; missing keys last, since they are often a consequence."""
    errors = error.errors(include_url=False)
    # What is missing from a list of fixed length is an item, and the list is wrong.
    first = next((item for item in errors if item["type"] != "missing" or isinstance(item["loc"][-1], int)), None)
    if first is None:
        absent = [_path(item["loc"], root) for item in errors]
        return missing(layer, absent) if missing else f"{layer.name}: {'.'.join(absent[0])} must be given."
    path, kind, context, value = _path(first["loc"], root), first["type"], first.get("ctx", {}), first["input"]
    if kind == "value_error":  # a combination: name the places of all keys that its message names
        words = set(re.findall(r"\w+(?:\.\w+)*", str(context["error"])))
        places = [layer.place((*path, *name)) for name in paths(value) if ".".join(name) in words]
        where = "; ".join(dict.fromkeys(places)) or layer.place(path)
        return ": ".join(filter(None, (where, ".".join(path), f"{context['error']}.")))
    if kind == "union_tag_invalid":
        path, value = (*path, "kind"), value["kind"]
    name, place = ".".join(path), layer.place(path)
    given = "empty" if value is None else layer.shown(path, value)
    if name not in keys(root) and not isinstance(value, dict):  # the tree's own shape
        first_key = next(key for key in keys(root) if key.startswith(f"{name}."))
        return f"{place}: {name} must be a section, not {given}; give its keys, such as {first_key}."
    if kind in ("missing", "too_long", "tuple_type"):
        example = yaml_value(to_plain(keys(root)[name].default))
        given = layer.shown(path, _at(layer.tree, path))
        return (
            f"{place}: {name} must be a list such as {example}, not {given}; write {as_written(place, name, example)}."
        )
    if choices := (keys(root)[name].choices if name in keys(root) else ()):
        return f"{place}: {name} must be {one_of(choices, given)}{_grid_hint(root, place, name, value)}."
    name += "".join(f"[{part}]" for part in first["loc"][-1:] if isinstance(part, int))
    if kind not in _EXPECTED:
        return f"{place}: {name}={given} is not valid ({first['msg'][:1].lower() + first['msg'][1:]})."
    words = [item.get("ctx", {})["expected"].replace("'", "") for item in errors if item["type"] == "literal_error"]
    expected = _EXPECTED[kind].format(*(f"{limit:g}" for limit in context.values() if isinstance(limit, int | float)))
    expected = " or ".join((expected, *words))
    written = ""
    if expected == "a whole number" and isinstance(value, float) and value.is_integer():
        written = str(int(value))
    elif expected in ("text", "a path") and isinstance(first["loc"][-1], int) and not isinstance(value, list | dict):
        written = yaml_value(
            [one if isinstance(one, str | list | dict) else json.dumps(one) for one in _at(layer.tree, path)]
        )
    elif expected in ("text", "a path") and not isinstance(first["loc"][-1], int):
        override = place.removeprefix(f"override {name}=")
        written = quoted(
            override if override != place else yaml_value(value) if isinstance(value, list | dict) else given
        )
    elif expected == "a list" and isinstance(value, str):
        written = f"[{yaml_value(value)}]"
    hint = f"; write {as_written(place, '.'.join(path), written)}" if written else ""
    return f"{place}: {name} must be {expected}, not {given}{hint or _grid_hint(root, place, name, value)}."


def _grid_hint(root: type[Section], place: str, name: str, value: Any) -> str:
    """How to train a run with each of several values, given as a list or as numbers with commas between them."""
    if isinstance(value, str) and re.fullmatch(r"[\d.eE+-]+(\s*,\s*[\d.eE+-]+)+", value):
        value = [parse(number, "")[0] for number in value.split(",")]
    is_list = isinstance(value, list) and all(isinstance(each, int | float | str) for each in value)
    if not value or not is_list or root is not Config or not place.startswith("override "):
        return ""
    return f"; to train a run with each value, write --grid {shlex.quote(f'{name}={yaml_value(value)}')}"


def _at(tree: dict[str, Any], path: Keys) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _path(location: tuple[int | str, ...], root: type[Section]) -> Keys:
    """The path of a pydantic location, without the tags of unions and the indices of lists."""
    path: list[str] = []
    sections: tuple[type[Section], ...] = (root,)
    for part in location:
        if len(sections) > 1:
            sections = tuple(section for section in sections if kind_of(section) == part)
        elif isinstance(part, str) and sections:  # behind a value stand the types that it might have had
            path.append(part)
            fields = fields_of(sections)
            sections = sections_of(fields[part].annotation) if part in fields else ()
    return tuple(path)
