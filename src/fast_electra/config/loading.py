"""From a preset, a YAML file and `section.key=value` to one checked `Config`, or one sentence saying what is wrong.

Notable:
- layers are merged as plain mappings, each value with the place where it was written, and checked once, at the end:
  overrides win over the file, the file over its `preset`, the preset over the defaults of `tree.py`;
- values that only make sense beside another one leave with it: choosing another `kind` drops the settings of the
  former kind, another `main.architecture` drops `main.options`, another budget replaces the former budget;
- YAML is 1.2 (`1e-3` is a number, `on` is text); duplicate keys, tags, anchors and non-finite numbers are refused;
- checking is strict: no text becomes a number, no `true` becomes 1. It runs on JSON because pydantic's strict mode
  takes paths as text there and nowhere else.
"""

import difflib
import json
import math
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path, PurePath
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fast_electra import plugins
from fast_electra.config.tree import Config
from fast_electra.errors import ConfigError
from fast_electra.models.shapes import with_layers
from fast_electra.parts import Part, Section, when_registered

Keys = tuple[str, ...]

BUDGETS = ("updates", "tokens", "flops", "hours")
"""Keys of `training` of which a layer that gives one replaces those of the layers below."""

_SHAPE = ("architecture", "layers", "hidden_size", "heads", "intermediate_size")

SYNONYMS = {
    "accumulation": "training.micro_batch_size",
    "amp": "execution.precision",
    "aux": "auxiliary.model",
    "bf16": "execution.precision",
    "bs": "training.batch_size",
    "corpus": "data.sources",
    "depth": "main.layers",
    "dim": "main.hidden_size",
    "dtype": "execution.precision",
    "epochs": "training.tokens",
    "eval_every": "training.validate_every",
    "eval_steps": "training.validate_every",
    "fp16": "execution.precision",
    "generator": "auxiliary.model",
    "gradient_accumulation_steps": "training.micro_batch_size",
    "iterations": "training.updates",
    "lr": "optimizer.learning_rate",
    "max_grad_norm": "optimizer.clip",
    "max_length": "data.length",
    "max_steps": "training.updates",
    "muon_learning_rate": "optimizer.kind",
    "mlm_probability": "corruption.masking.rate",
    "mask_prob": "corruption.masking.rate",
    "max_seq_length": "data.length",
    "model_type": "main.architecture",
    "num_attention_heads": "main.heads",
    "num_hidden_layers": "main.layers",
    "num_workers": "data.workers",
    "per_device_train_batch_size": "training.micro_batch_size",
    "save_every": "training.checkpoint_every",
    "save_steps": "training.checkpoint_every",
    "seq_len": "data.length",
    "steps": "training.updates",
    "t0": "corruption.schedule.initial",
    "teacher": "auxiliary.model",
    "temperature": "corruption.schedule.initial",
    "train_batch_size": "training.batch_size",
    "vocab_size": "data.tokenizer.vocabulary_size",
    "wd": "optimizer.weight_decay",
    "width": "main.hidden_size",
}
"""What other programs call a key, for the question "did you mean"."""


# Reading: text to plain mappings, each value with its place


@dataclass(frozen=True)
class Source:
    """Where a value was written (`a.yaml, line 7` or `override a.b=1`) and how."""

    place: str
    text: str


@dataclass
class Layer:
    """A plain mapping and the sources of its values, by their path."""

    name: str
    tree: dict[str, Any] = field(default_factory=dict)
    sources: dict[Keys, Source] = field(default_factory=dict)

    def place(self, path: Keys) -> str:
        """The place of the value at `path`, or else of the nearest section above it, or else the layer's name."""
        while path:
            if path in self.sources:
                return self.sources[path].place
            path = path[:-1]
        return self.name

    def shown(self, path: Keys, value: Any) -> str:
        """The value as it was written, shortened; sections and lists as JSON."""
        text = self.sources[path].text if path in self.sources else ""
        text = " ".join(text.split()) or json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 60 else text[:57] + "..."


def _parse(text: str, name: str, base: Keys = (), place: str | None = None) -> tuple[Any, dict[Keys, Source]]:
    """The plain value of YAML `text` and the source of everything in it; `place` replaces the file's lines."""
    yaml = YAML(typ="safe", pure=True)
    sources: dict[Keys, Source] = {}

    def at(line: int) -> str:
        return place or f"{name}, line {line + 1}"

    def value(node: Node, path: Keys) -> Any:
        if node.anchor is not None:
            raise ConfigError(f"{at(node.start_mark.line)}: anchors and aliases are not read; write the value out.")
        sources[path] = Source(at(node.start_mark.line), "")
        if isinstance(node, MappingNode):
            return mapping(node, path)
        if isinstance(node, SequenceNode):
            items = [value(item, path) for item in node.value]
            sources[path] = Source(at(node.start_mark.line), "")  # not its last item's
            return items
        sources[path] = Source(at(node.start_mark.line), node.value)
        return scalar(node)

    def mapping(node: MappingNode, path: Keys) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line
            if not isinstance(key_node, ScalarNode):
                raise ConfigError(f"{at(line)}: a key must be plain text.")
            key = key_node.value
            if key in result:
                first = "" if place else f", first in line {lines[key] + 1}"
                raise ConfigError(f"{at(line)}: {'.'.join((*path, key))} is given twice{first}; keep one.")
            lines[key] = line
            result[key] = value(value_node, (*path, key))
            # A block value may start lines below its key: name the line where people look.
            sources[(*path, key)] = Source(at(line), sources[(*path, key)].text)
        return result

    def scalar(node: Node) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind not in ("null", "bool", "int", "float"):
            # Text, and what YAML 1.1 would make a date or a merge. JSON escapes a rare character as a pair: join it.
            return node.value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        result = yaml.constructor.construct_object(node)
        if kind == "float" and not math.isfinite(result):
            raise ConfigError(f"{at(node.start_mark.line)}: {node.value} is not a finite number; give a finite one.")
        return result

    try:
        for event in yaml.parse(text):
            if getattr(event, "tag", None) is not None:
                tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
                raise ConfigError(f"{at(event.start_mark.line)}: the tag {tag} is not read; leave it out.")
        root = yaml.compose(text)
    except YAMLError as error:
        problem, where = "unreadable character", place or name
        if isinstance(error, MarkedYAMLError):
            problem = error.problem or error.context or problem
            if error.problem_mark is not None:
                where = at(error.problem_mark.line)
        problem = " ".join(problem.split()).rstrip(".")
        remedy = "mend the line, or put its value in quotes"
        if place:
            opened = text.strip()[:1] in ("[", "{", '"', "'")
            quoted = f"write {_written(place, '.'.join(base), _quoted(text.strip()))}"
            remedy = "close its brackets and quotes" if opened else quoted
        raise ConfigError(f"{where}: not valid YAML ({problem}); {remedy}.") from None
    if root is None:
        return None, {base: Source(at(0), "")}
    return value(root, base), sources


def _read_text(text: str, name: str, visited: tuple[str, ...] = ()) -> Layer:
    """The layer of a YAML document, on top of the preset that it names."""
    tree, sources = _parse(text, name)
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(f"{name}: a configuration is a mapping of sections; write for example `training:` first.")
    return _on_preset(Layer(name, tree or {}, sources), visited)


def _on_preset(layer: Layer, visited: tuple[str, ...] = ()) -> Layer:
    if "preset" not in layer.tree:
        return layer
    place, preset = layer.place(("preset",)), layer.tree.pop("preset")
    if preset not in preset_names() or preset in visited:
        raise ConfigError(f"{place}: preset must be {_one_of(preset_names(), preset)}.")
    return _merge(_read_preset(preset, (*visited, preset)), layer, layer.name)


def _read_preset(name: str, visited: tuple[str, ...] = ()) -> Layer:
    text = resources.files("fast_electra.config").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    return _read_text(text, f"preset {name}", visited or (name,))


def _read(source: str | Path) -> Layer:
    if isinstance(source, str) and source in preset_names():
        return _read_preset(source)
    path = Path(source)
    try:
        return _read_text(path.read_text(encoding="utf-8"), str(source))
    except FileNotFoundError:
        close = difflib.get_close_matches(str(source), preset_names(), n=1)
        remedy = f"did you mean {close[0]}?" if close else "give one of them, or the path of a YAML file."
        listed = ", ".join(preset_names())
        raise ConfigError(f"{source} is neither a preset ({listed}) nor a file; {remedy}") from None
    except IsADirectoryError:
        raise ConfigError(f"{source} is a folder; give a YAML file, for example {path / 'config.yaml'}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: byte {error.start} is not UTF-8; save the file as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{source} can't be read ({error.strerror}); give a readable YAML file.") from None


def _read_overrides(overrides: Sequence[str]) -> Layer:
    """One layer of all overrides, so that their order means nothing."""
    layer = Layer("overrides")
    for override in overrides:
        place = f"override {override}"
        name, equals, text = override.partition("=")
        path = tuple(name.strip().split("."))
        if not equals or not all(path):
            raise ConfigError(f"{place}: write it as section.key=value, for example training.seed=1.")
        value, sources = _parse(_without_comments(text), place, path, place)
        clash = next((other for other in layer.sources if other[: len(path)] == path[: len(other)]), None)
        if clash is not None:
            raise ConfigError(f"{place}: {name} is given twice, also by {layer.place(clash)}; keep one.")
        section = layer.tree
        for key in path[:-1]:
            section = section.setdefault(key, {})
        section[path[-1]] = value
        layer.sources |= sources
    return layer


def _without_comments(text: str) -> str:
    """The text of an override, in quotes where YAML would take a part of it for a comment: `exp #1`, `#1`."""
    plain = text.strip()[:1] not in ("[", "{", '"', "'")
    return _quoted(text.strip()) if plain and re.search(r"(^|\s)#", text) else text


# The tree's keys, and merging by them


@dataclass(frozen=True)
class Key:
    """A key of the tree that holds a value: what help, comments and suggestions need of it."""

    name: str
    required: bool
    default: Any
    description: str
    choices: tuple[str, ...]
    kinds: tuple[str, ...]
    """the kinds of its section that have it; empty: all"""


def _sections(annotation: Any) -> tuple[type[Section], ...]:
    """The section types that a field may hold: none for a plain value, several where `kind` tells them apart."""
    members = [item for item in get_args(annotation) or (annotation,) if isinstance(item, type)]
    parts = [part for item in members if issubclass(item, Part) for part in item.kinds.values()]
    return tuple(parts or [member for member in members if issubclass(member, Section)])


def _shared(sections: tuple[type[Section], ...]) -> set[str]:
    """The keys that every kind of a union has."""
    contracts = [base for base in sections[0].__mro__ if Part in base.__bases__]
    return set(contracts[0].model_fields) if contracts else set()


def _kind(section: type[Section]) -> str:
    return section.model_fields["kind"].default


def _choices(annotation: Any) -> tuple[str, ...]:
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def _fields(sections: tuple[type[Section], ...], tree: Any = None) -> dict[str, FieldInfo]:
    """The fields of a section; of a union, those of the kind that `tree` names, or of all kinds when it names none."""
    if len(sections) > 1 and isinstance(tree, Mapping):
        sections = tuple(section for section in sections if _kind(section) == tree.get("kind")) or sections
    fields: dict[str, FieldInfo] = {}
    for section in sections:
        fields = section.model_fields | fields
    return fields


@cache
def keys() -> dict[str, Key]:
    """Every key by its dotted name, in the order of the tree."""
    found: dict[str, Key] = {}

    def collect(sections: tuple[type[Section], ...], prefix: str, chosen: Any = None, optional: bool = False) -> None:
        for name, info in _fields(sections).items():
            if inner := _sections(info.annotation):
                collect(inner, f"{prefix}{name}.", info.default, optional or info.default is None)
                continue
            default, choices, kinds = info.get_default(), _choices(info.annotation), ()
            if len(sections) > 1 and name == "kind":
                default = chosen.kind if isinstance(chosen, Section) else sections[0].default_kind  # type: ignore[attr-defined]
                choices = tuple(map(_kind, sections))
            elif len(sections) > 1:
                kinds = tuple(_kind(section) for section in sections if name in section.model_fields)
                kinds = kinds if len(kinds) < len(sections) else ()
            if optional and info.is_required():
                default = None
            description = info.description or ""
            found[prefix + name] = Key(
                prefix + name, info.is_required() and not optional, default, description, choices, kinds
            )

    collect((Config,), "")
    return found


when_registered.append(keys.cache_clear)


def _merge(below: Layer, above: Layer, name: str) -> Layer:
    """A layer called `name`: `above` over `below`, whose tree is changed."""

    def merge(low: dict[str, Any], high: dict[str, Any], sections: tuple[type[Section], ...], path: Keys) -> None:
        if len(sections) > 1 and "kind" in high and high["kind"] != low.get("kind", _default_kind(path)):
            for name in low.keys() - _shared(sections):
                del low[name]
        if path == ("training",) and any(high.get(name) is not None for name in BUDGETS):
            for name in BUDGETS:
                low.pop(name, None)
        if path == ("main",) and "architecture" in high and high["architecture"] != low.get("architecture"):
            low.pop("options", None)
        if isinstance(layers := high.get("layers"), int) and layers > 0 and isinstance(low.get("options"), dict):
            low["options"] = with_layers(low["options"], low.get("layers"), layers)
        fields = _fields(sections)
        for name, value in high.items():
            inner = _sections(fields[name].annotation) if name in fields else ()
            if isinstance(value, dict) and isinstance(low.get(name), dict):
                merge(low[name], value, inner, (*path, name))
            elif not (inner and value is None and name in low):  # an empty section changes nothing
                low[name] = value

    merge(below.tree, above.tree, (Config,), ())
    return Layer(name, below.tree, below.sources | above.sources)


def _default_kind(path: Keys) -> str:
    return keys()[".".join((*path, "kind"))].default


# Checking


def _validate(layer: Layer) -> Config:
    _import_plugins(layer)
    _check_names(layer, layer.tree, (Config,), ())
    try:
        return Config.model_validate_json(json.dumps(layer.tree, default=_path_as_text), strict=True)
    except ValidationError as error:
        raise ConfigError(_sentence(layer, error)) from None


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


def _plain(value: Any) -> Any:
    """A copy as JSON holds it, paths as text."""
    return json.loads(json.dumps(value, default=_path_as_text))


def _path_as_text(value: Any) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise ConfigError(f"{value!r} is of type {type(value).__name__}, which YAML doesn't have; give text or a number.")


def _check_names(layer: Layer, tree: dict[str, Any], sections: tuple[type[Section], ...], path: Keys) -> None:
    """Refuses unknown keys, and fills in what a person may leave out: empty sections and default kinds."""
    if len(sections) > 1:
        tree.setdefault("kind", _default_kind(path))
        if tree["kind"] not in map(_kind, sections):
            return  # pydantic's list of kinds says it better
    fields = _fields(sections, tree)
    for name, value in tree.items():
        here = (*path, name)
        if name not in fields:
            raise ConfigError(_unknown(layer, tree, here, value))
        if inner := _sections(fields[name].annotation):
            if value is None and fields[name].default is not None:  # None: a section that may be left out
                tree[name] = value = {}
            if isinstance(value, dict):
                _check_names(layer, value, inner, here)


def _unknown(layer: Layer, tree: dict[str, Any], path: Keys, value: Any) -> str:
    name = ".".join(path)
    if name in keys():  # of another kind
        kinds, kind = keys()[name].kinds, (*path[:-1], "kind")
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
    suggestion = nearest_key(name)
    remedy = f"did you mean {suggestion}?" if suggestion else f"the sections are {', '.join(_section_names())}."
    return f"{layer.place(path)}: unknown key {name}; {remedy}"


def _section_names() -> list[str]:
    return [name for name, info in Config.model_fields.items() if _sections(info.annotation)]


def nearest_key(name: str) -> str | None:
    """The key that someone who wrote `name` most likely meant, anywhere in the tree; None if nothing is near."""
    section, _, last = name.lower().replace("-", "_").rpartition(".")
    if last in SYNONYMS:
        return SYNONYMS[last]

    def likeness(key: str) -> float:
        key_section, _, key_last = key.rpartition(".")
        by_parts = 0.75 * _ratio(last, key_last) + 0.25 * _ratio(section, key_section)
        return max(by_parts, _ratio(name, key))

    best = max(keys(), key=likeness)
    return best if likeness(best) >= 0.6 else None


def _ratio(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()


def _one_of(choices: Sequence[str], value: Any) -> str:
    close = difflib.get_close_matches(str(value), choices, n=1)
    listed = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    return f"{listed}, not {value}" + (f" (did you mean {close[0]}?)" if close else "")


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


def _sentence(layer: Layer, error: ValidationError) -> str:
    """The first error of pydantic's list, as one sentence; missing keys last, since they are often a consequence."""
    errors = error.errors(include_url=False)
    # What is missing from a list of fixed length is an item, and the list is wrong.
    first = next((item for item in errors if item["type"] != "missing" or isinstance(item["loc"][-1], int)), None)
    if first is None:
        return _missing(layer, [_path(item["loc"]) for item in errors])
    path, kind, context, value = _path(first["loc"]), first["type"], first.get("ctx", {}), first["input"]
    if kind == "value_error":  # a combination: name the places of all keys that its message names
        words = set(re.findall(r"\w+(?:\.\w+)*", str(context["error"])))
        places = [layer.place((*path, *name)) for name in _paths(value) if ".".join(name) in words]
        where = "; ".join(dict.fromkeys(places)) or layer.place(path)
        return ": ".join(filter(None, (where, ".".join(path), f"{context['error']}.")))
    if kind == "union_tag_invalid":
        path, value = (*path, "kind"), value["kind"]
    name, place = ".".join(path), layer.place(path)
    given = "empty" if value is None else layer.shown(path, value)
    if name not in keys() and not isinstance(value, dict):  # the tree's own shape
        first_key = next(key for key in keys() if key.startswith(f"{name}."))
        return f"{place}: {name} must be a section, not {given}; give its keys, such as {first_key}."
    if kind in ("missing", "too_long", "tuple_type"):
        example = _yaml(_plain(keys()[name].default))
        given = layer.shown(path, _at(layer.tree, path))
        return f"{place}: {name} must be a list such as {example}, not {given}; write {_written(place, name, example)}."
    if choices := (keys()[name].choices if name in keys() else ()):
        return f"{place}: {name} must be {_one_of(choices, given)}."
    name += "".join(f"[{part}]" for part in first["loc"][-1:] if isinstance(part, int))
    if kind not in _EXPECTED:
        return f"{place}: {name}={given} is not valid ({first['msg'][:1].lower() + first['msg'][1:]})."
    words = [item.get("ctx", {})["expected"].strip("'") for item in errors if item["type"] == "literal_error"]
    expected = _EXPECTED[kind].format(*(f"{limit:g}" for limit in context.values() if isinstance(limit, int | float)))
    expected = " or ".join((expected, *words))
    written = ""
    if expected == "a whole number" and isinstance(value, float) and value.is_integer():
        written = str(int(value))
    elif expected in ("text", "a path") and isinstance(first["loc"][-1], int) and not isinstance(value, list | dict):
        written = _yaml(
            [one if isinstance(one, str | list | dict) else json.dumps(one) for one in _at(layer.tree, path)]
        )
    elif expected in ("text", "a path") and not isinstance(first["loc"][-1], int):
        override = place.removeprefix(f"override {name}=")
        written = _quoted(override if override != place else _yaml(value) if isinstance(value, list | dict) else given)
    elif expected == "a list" and isinstance(value, str):
        written = f"[{_yaml(value)}]"
    hint = f"; write {_written(place, '.'.join(path), written)}" if written else ""
    return f"{place}: {name} must be {expected}, not {given}{hint}."


def _written(place: str, name: str, value: str) -> str:
    """How YAML of a value is written at a place: as it is in a file, quoted for the shell on the command line."""
    return shlex.quote(f"{name}={value}") if place.startswith("override ") else value


def _at(tree: dict[str, Any], path: Keys) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _paths(tree: Any, above: Keys = ()) -> Iterator[Keys]:
    """The paths of all values in a mapping."""
    for name, value in tree.items() if isinstance(tree, dict) else ():
        yield (*above, name)
        yield from _paths(value, (*above, name))


def _path(location: tuple[int | str, ...]) -> Keys:
    """The path of a pydantic location, without the tags of unions and the indices of lists."""
    path: list[str] = []
    sections: tuple[type[Section], ...] = (Config,)
    for part in location:
        if len(sections) > 1:
            sections = tuple(section for section in sections if _kind(section) == part)
        elif isinstance(part, str) and sections:  # behind a value stand the types that it might have had
            path.append(part)
            fields = _fields(sections)
            sections = _sections(fields[part].annotation) if part in fields else ()
    return tuple(path)


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


# The public functions


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
    layer = _read(source)
    return _validate(_merge(layer, _read_overrides(overrides), layer.name))


def resolve(mapping: Mapping[str, Any], overrides: Sequence[str] = (), name: str = "configuration") -> Config:
    """The configuration of a nested mapping (which may name a `preset`), under overrides; `name` is for errors.

    Raises:
        ConfigError: as `load_config`, with `name` in place of file and line.
    """
    layer = Layer(name, _plain(mapping))
    layer.sources = {path: Source(name, "") for path in _paths(layer.tree)}
    layer = _on_preset(layer)
    return _validate(_merge(layer, _read_overrides(overrides), layer.name))


def setting(key: str, value: Any) -> str:
    """An override as a shell takes it: `data.shards=shards`, or quoted where the shell or YAML would change it."""
    return shlex.quote(f"{key}={_yaml(_plain(value), inside=True)}")


def dump_config(config: Config) -> str:
    """YAML of every value with its description behind it; `load_config` of it gives an equal configuration."""
    text: list[str] = []
    for line in _lines(config):
        code = f"{'  ' * line.depth}{line.name}: {_yaml(line.value)}".rstrip()
        # Comments of values are aligned; long values push theirs to the right.
        code = f"{code:<28}" if line.key else code
        text += [""] if not line.depth and text else []
        text.append(f"{code}  # {line.comment}" if line.comment else code.rstrip())
    return "\n".join(text) + "\n"


@dataclass(frozen=True)
class _Line:
    depth: int
    name: str
    key: str
    """dotted name; empty for a section"""
    value: Any
    comment: str


def _lines(config: Config) -> Iterator[_Line]:
    def walk(section: Section, prefix: str, depth: int) -> Iterator[_Line]:
        for name, info in type(section).model_fields.items():
            value = getattr(section, name)
            if isinstance(value, Section):
                yield _Line(depth, name, "", None, info.description or (type(value).__doc__ or "").split("\n")[0])
                yield from walk(value, f"{prefix}{name}.", depth + 1)
            else:  # a value, or a section that may be left out and is
                key = keys().get(prefix + name)
                yield _Line(depth, name, prefix + name, _plain(value), _comment(key) if key else info.description or "")

    yield from walk(config, "", 0)


def _comment(key: Key) -> str:
    """The description, with the choices in front where it doesn't name them."""
    if len(key.choices) < 2 or all(choice in key.description for choice in key.choices):
        return key.description
    joint = "; " if key.description.partition(":")[0] in key.choices else ": "
    return joint.join(part for part in (" | ".join(key.choices), key.description) if part)


def _yaml(value: Any, inside: bool = False) -> str:
    """A value on one line; empty for None, unless it stands inside a list or mapping."""
    if value is None:
        return "null" if inside else ""
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_./~][\w./+-]*", value, re.ASCII) and _parse(value, "")[0] == value
        return value if plain else _quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(_yaml(item, inside=True) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(key)}: {_yaml(item, inside=True)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Double-quoted YAML, everything that isn't printable as an escape."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def config_schema() -> dict[str, Any]:
    """JSON Schema of a YAML file, for completion in editors; nothing is required, since a preset may give it."""

    def relax(node: Any) -> Any:
        if isinstance(node, dict):
            return {
                name: relax(value)
                for name, value in node.items()
                if not (name == "required" and isinstance(value, list))
            }
        return [relax(item) for item in node] if isinstance(node, list) else node

    schema = relax(Config.model_json_schema())
    preset = {"enum": preset_names(), "description": "the preset that this file starts from"}
    schema["properties"] = {"preset": preset} | schema["properties"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "fast-electra configuration"}


def help_for_keys(width: int = 120) -> str:
    """All keys with their defaults and descriptions, wrapped to `width`, a blank line between sections."""
    lines: list[str] = []
    section = "plugins"
    for name, key in keys().items():
        if not name.startswith(f"{section}."):
            section = name.partition(".")[0]
            lines.append("")
        code = name if key.required else f"{name}={_yaml(_plain(key.default))}"
        kinds = f"only with kind {' or '.join(key.kinds)}" if key.kinds else ""
        notes = "; ".join(filter(None, ("required" if key.required else "", _comment(key), kinds)))
        indent = " " * 40
        lines += textwrap.wrap(f"{code:<38}  {notes}", max(width, 72), subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines)
