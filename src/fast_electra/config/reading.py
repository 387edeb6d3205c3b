"""Text to plain mappings in which each value has its place: YAML files, and `section.key=value` from the command line.

Notable:
- YAML is 1.2 (`1e-3` is a number, `on` is text); duplicate keys, tags, anchors and non-finite numbers are refused;
- the other way, `yaml_value` writes a value so that it is read as the same value again.
"""

import difflib
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fast_electra.errors import ConfigError

Keys = tuple[str, ...]
_DEEPEST = 30
"""lists and mappings inside each other"""
_LONGEST_NUMBER = 100
"""characters"""


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


def parse(text: str, name: str, base: Keys = (), place: str | None = None) -> tuple[Any, dict[Keys, Source]]:
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
            return [value(item, (*path, str(number))) for number, item in enumerate(node.value)]
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
        if kind in ("int", "float") and len(node.value) > _LONGEST_NUMBER:
            raise ConfigError(
                f"{at(node.start_mark.line)}: a number of {len(node.value):,} characters is too long; shorten it."
            )
        result = yaml.constructor.construct_object(node)
        if kind == "float" and not math.isfinite(result):
            raise ConfigError(f"{at(node.start_mark.line)}: {node.value} is not a finite number; give a finite one.")
        return result

    depth = 0
    try:
        for event in yaml.parse(text):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > _DEEPEST:
                raise ConfigError(
                    f"{at(event.start_mark.line)}: lists and mappings are nested more than {_DEEPEST} deep; no setting "
                    "is."
                )
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
            in_quotes = f"write {as_written(place, '.'.join(base), quoted(text.strip()))}"
            remedy = "close its brackets and quotes" if opened else in_quotes
        raise ConfigError(f"{where}: not valid YAML ({problem}); {remedy}.") from None
    if root is None:
        return None, {base: Source(at(0), "")}
    return value(root, base), sources


def read_named_file(source: str | Path, what: str, names: Sequence[str], base: Keys = ()) -> Layer:
    """The mapping of a YAML file, which is given where one of `names` may stand.

    Args:
        source: the file.
        what: it is not where the file is not there either: "neither a preset".
        names: that may stand there.
        base: the path of the section that the file holds; (): the whole tree.

    Raises:
        ConfigError: the file is not there, can't be read, or is no mapping.
    """
    path = Path(source)
    try:
        return read_text(path.read_text(encoding="utf-8"), str(source), base)
    except FileNotFoundError:
        close = difflib.get_close_matches(str(source), names, n=1)
        remedy = f"did you mean {close[0]}?" if close else "give one of them, or the path of a YAML file."
        raise ConfigError(f"{source} is {what} ({', '.join(names)}) nor a file; {remedy}") from None
    except IsADirectoryError:
        example = "" if base or not (path / "config.yaml").exists() else f", for example {path / 'config.yaml'}"
        raise ConfigError(f"{source or 'an empty name'} is a folder; give a YAML file{example}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: byte {error.start} is not UTF-8; save the file as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{source} can't be read ({error.strerror}); give a readable YAML file.") from None


def read_text(text: str, name: str, base: Keys = ()) -> Layer:
    """The mapping of a YAML text, as the section at `base`; `name` is for errors."""
    tree, sources = parse(text, name, base)
    if tree is not None and not isinstance(tree, dict):
        what = "a configuration is a mapping of sections; write for example `training:` first"
        if base:
            what = f"a {base[0]} is a mapping of settings, one a line, such as `key: value`"
        raise ConfigError(f"{name}: {what}.")
    tree = tree or {}
    for key in reversed(base):
        tree = {key: tree}
    return Layer(name, tree, sources)


def layer_of(mapping: Mapping[str, Any], name: str) -> Layer:
    """A mapping as a layer, whose place is `name` everywhere."""
    tree = to_plain(mapping)
    return Layer(name, tree, {path: Source(name, "") for path in paths(tree)})


def read_overrides(overrides: Sequence[str]) -> Layer:
    """One layer of all overrides, so that their order means nothing."""
    layer = Layer("overrides")
    for override in [overrides] if isinstance(overrides, str) else overrides:
        place = f"override {override}"
        name, equals, text = override.partition("=")
        path = tuple(name.strip().split("."))
        if not equals or not all(path):
            raise ConfigError(f"{place}: write it as section.key=value, for example training.seed=1.")
        value, sources = parse(_without_comments(text), place, path, place)
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
    return quoted(text.strip()) if plain and re.search(r"(^|\s)#", text) else text


# Plain mappings to text


def setting(key: str, value: Any) -> str:
    """An override as a shell takes it: `data.shards=shards`, or quoted where the shell or YAML would change it."""
    return shlex.quote(f"{key}={yaml_value(to_plain(value), inside=True)}")


def yaml_value(value: Any, inside: bool = False) -> str:
    """A value on one line; empty for None, unless it stands inside a list or mapping."""
    if value is None:
        return "null" if inside else ""
    if isinstance(value, str):
        return value if _is_plain(value) else quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(yaml_value(item, inside=True) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)}: {yaml_value(item, inside=True)}" for key, item in value.items()) + "}"
    return json.dumps(value)


@lru_cache(1024)  # a configuration has the same few dozen names again and again; the parser needs a millisecond each
def _is_plain(text: str) -> bool:
    """Whether YAML without quotes is read as this text."""
    return re.fullmatch(r"[A-Za-z_./~][\w./+-]*", text, re.ASCII) is not None and parse(text, "")[0] == text


def quoted(text: str) -> str:
    """Double-quoted YAML, everything that isn't printable as an escape."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def as_written(place: str, name: str, value: str) -> str:
    """How YAML of a value is written at a place: as it is in a file, quoted for the shell on the command line."""
    return shlex.quote(f"{name}={value}") if place.startswith("override ") else value


def to_plain(value: Any) -> Any:
    """A copy as JSON holds it, paths as text."""
    return json.loads(json.dumps(value, default=path_as_text))


def path_as_text(value: Any) -> str:
    """A path as JSON holds it."""
    if isinstance(value, PurePath):
        return str(value)
    raise ConfigError(f"{value!r} is of type {type(value).__name__}, which YAML doesn't have; give text or a number.")


def flat(tree: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """The values of nested mappings under joined names; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= {f"{key}{separator}{name}": inner for name, inner in flat(value, separator).items()}
        else:
            found[key] = value
    return found


def paths(tree: Any, above: Keys = ()) -> Iterator[Keys]:
    """The paths of all values in a mapping."""
    for name, value in tree.items() if isinstance(tree, dict) else ():
        yield (*above, name)
        yield from paths(value, (*above, name))
