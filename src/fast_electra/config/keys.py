"""The keys of a tree of sections, found from its types: for help, comments, suggestions, merging and checking."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from fast_electra.config.tree import Config
from fast_electra.parts import Part, Section, when_registered


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


def sections_of(annotation: Any) -> tuple[type[Section], ...]:
    """The section types that a field may hold: none for a value or a list, several where `kind` tells them apart."""
    if get_origin(annotation) is list:
        return ()
    members = [item for item in get_args(annotation) or (annotation,) if isinstance(item, type)]
    parts = [part for item in members if issubclass(item, Part) for part in item.kinds.values()]
    return tuple(parts or [member for member in members if issubclass(member, Section)])


def shared_keys(sections: tuple[type[Section], ...]) -> set[str]:
    """The keys that every kind of a union has."""
    contracts = [base for base in sections[0].__mro__ if Part in base.__bases__]
    return set(contracts[0].model_fields) if contracts else set()


def kind_of(section: type[Section]) -> str:
    """The kind of a part."""
    return section.model_fields["kind"].default


def _choices(annotation: Any) -> tuple[str, ...]:
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def fields_of(sections: tuple[type[Section], ...], tree: Any = None) -> dict[str, FieldInfo]:
    """The fields of a section; of a union, those of the kind that `tree` names, or of all kinds when it names none."""
    if len(sections) > 1 and isinstance(tree, Mapping):
        sections = tuple(section for section in sections if kind_of(section) == tree.get("kind")) or sections
    fields: dict[str, FieldInfo] = {}
    for section in sections:
        fields = section.model_fields | fields
    return fields


@cache
def keys(root: type[Section] = Config) -> dict[str, Key]:
    """Every key of a tree by its dotted name, in the order of the tree."""
    found: dict[str, Key] = {}

    def collect(sections: tuple[type[Section], ...], prefix: str, chosen: Any = None, optional: bool = False) -> None:
        for name, info in fields_of(sections).items():
            if inner := sections_of(info.annotation):
                collect(inner, f"{prefix}{name}.", info.default, optional or info.default is None)
                continue
            default, choices, kinds = info.get_default(call_default_factory=True), _choices(info.annotation), ()
            if len(sections) > 1 and name == "kind":
                default = chosen.kind if isinstance(chosen, Section) else sections[0].default_kind  # type: ignore[attr-defined]
                choices = tuple(map(kind_of, sections))
            elif len(sections) > 1:
                kinds = tuple(kind_of(section) for section in sections if name in section.model_fields)
                kinds = kinds if len(kinds) < len(sections) else ()
            if optional and info.is_required():
                default = None
            description = info.description or ""
            found[prefix + name] = Key(
                prefix + name, info.is_required() and not optional, default, description, choices, kinds
            )

    collect((root,), "")
    return found


when_registered.append(keys.cache_clear)


def nearest_key(name: str, root: type[Section] = Config) -> str | None:
    """The key that someone who wrote `name` most likely meant, anywhere in the tree; None if nothing is near."""
    section, _, last = name.lower().replace("-", "_").rpartition(".")
    if last in root.synonyms:
        return root.synonyms[last]

    def likeness(key: str) -> float:
        key_section, _, key_last = key.rpartition(".")
        by_parts = 0.75 * _ratio(last, key_last) + 0.25 * _ratio(section, key_section)
        return max(by_parts, _ratio(name, key))

    best = max(keys(root), key=likeness)
    return best if likeness(best) >= 0.6 else None


def _ratio(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()


def one_of(choices: Sequence[str], value: Any) -> str:
    """What a value must be, and the choice that it is nearest to."""
    close = difflib.get_close_matches(str(value), choices, n=1)
    listed = f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    return f"{listed}, not {value}" + (f" (did you mean {close[0]}?)" if close else "")
