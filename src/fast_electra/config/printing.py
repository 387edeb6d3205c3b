"""A tree of sections as text for people and editors: commented YAML, JSON Schema, and the list of its keys."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fast_electra.config.keys import Key, keys
from fast_electra.config.loading import preset_names
from fast_electra.config.reading import to_plain, yaml_value
from fast_electra.config.tree import Config
from fast_electra.parts import Section


def dump_config(config: Config) -> str:
    """YAML of every value with its description behind it; `load_config` of it gives an equal configuration."""
    text: list[str] = []
    for line in _lines(config):
        code = f"{'  ' * line.depth}{line.name}: {yaml_value(line.value)}".rstrip()
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
                yield _Line(
                    depth, name, prefix + name, to_plain(value), _comment(key) if key else info.description or ""
                )

    yield from walk(config, "", 0)


def _comment(key: Key) -> str:
    """The description, with the choices in front where it doesn't name them."""
    if len(key.choices) < 2 or all(choice in key.description for choice in key.choices):
        return key.description
    joint = "; " if key.description.partition(":")[0] in key.choices else ": "
    return joint.join(part for part in (" | ".join(key.choices), key.description) if part)


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
        code = name if key.required else f"{name}={yaml_value(to_plain(key.default))}"
        kinds = f"only with kind {' or '.join(key.kinds)}" if key.kinds else ""
        notes = "; ".join(filter(None, ("required" if key.required else "", _comment(key), kinds)))
        indent = " " * 40
        lines += textwrap.wrap(f"{code:<38}  {notes}", max(width, 72), subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines)
