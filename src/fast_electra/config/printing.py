"""A tree of sections as text for people and editors: commented YAML, JSON Schema, and the list of its keys."""

import textwrap
from collections.abc import Sequence
from typing import Any

from fast_electra.config.keys import Key, keys
from fast_electra.config.loading import preset_names
from fast_electra.config.reading import to_plain, yaml_value
from fast_electra.config.tree import Config
from fast_electra.parts import Section


def dump_config(config: Config) -> str:
    """YAML of every value with its description behind it; `load_config` of it gives an equal configuration."""
    text: list[str] = []

    def add(section: Section, prefix: str, indent: str) -> None:
        for name, info in type(section).model_fields.items():
            value, key, comment = getattr(section, name), keys().get(prefix + name), info.description or ""
            text.extend([""] if not indent and text else [])
            if isinstance(value, Section):
                comment = comment or (type(value).__doc__ or "").split("\n")[0]
                text.append(f"{indent}{name}:  # {comment}" if comment else f"{indent}{name}:")
                add(value, f"{prefix}{name}.", indent + "  ")
            elif name == "phases" and value:
                text.append(f"{'phases:':<28}  # {comment}")
                text.extend(
                    f"  - {yaml_value(_given(phase.model_dump(mode='json', exclude_none=True)))}" for phase in value
                )
            else:  # a value, or a section that may be left out and is
                comment = _comment(key) if key else comment
                # Comments of values are aligned; long values push theirs to the right.
                code = f"{f'{indent}{name}: {yaml_value(to_plain(value))}'.rstrip():<28}"
                text.append(f"{code}  # {comment}" if comment else code.rstrip())

    add(config, "", "")
    return "\n".join(text) + "\n"


def _given(tree: dict[str, Any]) -> dict[str, Any]:
    """A mapping without its empty sections."""
    inner = {name: _given(value) if isinstance(value, dict) else value for name, value in tree.items()}
    return {name: value for name, value in inner.items() if value != {}}


def _comment(key: Key) -> str:
    """The description, with the choices in front where it doesn't name them."""
    if len(key.choices) < 2 or all(choice in key.description for choice in key.choices):
        return key.description
    joint = "; " if key.description.partition(":")[0] in key.choices else ": "
    return joint.join(part for part in (" | ".join(key.choices), key.description) if part)


def config_schema() -> dict[str, Any]:
    """JSON Schema of a YAML file, for completion in editors; nothing is required, since a preset may give it."""

    def relax(node: Any) -> Any:
        if isinstance(node, list):
            return [relax(item) for item in node]
        if not isinstance(node, dict):
            return node
        return {key: relax(value) for key, value in node.items() if key != "required" or not isinstance(value, list)}

    schema = relax(Config.model_json_schema())
    preset = {"enum": preset_names(), "description": "the preset that this file starts from"}
    schema["properties"] = {"preset": preset} | schema["properties"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "fast-electra configuration"}


def help_for_keys(
    width: int = 120, root: type[Section] = Config, sections: Sequence[str] = (), within: str = ""
) -> str:
    """All keys with their defaults and descriptions, wrapped to `width`, a blank line between sections.

    Args:
        width: of the text.
        root: the tree.
        sections: only the keys of these sections, without their defaults.
        within: only the keys of this section, which may lie in another (`corruption.schedule`).
    """
    lines: list[str] = []
    section = sections[0] if sections else "plugins"
    for name, key in keys(root).items():
        if sections and name.partition(".")[0] not in sections:
            continue
        if within and not name.startswith(f"{within}."):
            continue
        if not name.startswith(f"{section}."):
            section = name.partition(".")[0]
            lines.append("")
        code = name if key.required or sections else f"{name}={yaml_value(to_plain(key.default))}"
        kinds = f"only with kind {' or '.join(key.kinds)}" if key.kinds else ""
        notes = "; ".join(filter(None, ("required" if key.required else "", _comment(key), kinds)))
        indent = " " * 40
        lines += textwrap.wrap(f"{code:<38}  {notes}", max(width, 72), subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines)
