"""`fast-electra config`: show a resolved configuration, and its schema."""

import json
from typing import Annotated

from cyclopts import Parameter

from fast_electra.config import config_schema, dump_config, load_config


def show(config: str, /, *overrides: str, json_output: Annotated[bool, Parameter("--json")] = False) -> None:
    """Print a resolved configuration.

    Parameters
    ----------
    config
        A preset's name or a YAML file.
    overrides
        Settings as section.key=value.
    json_output
        One JSON object instead of commented YAML.
    """
    resolved = load_config(config, overrides)
    if json_output:
        print(json.dumps(resolved.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        print(dump_config(resolved), end="")


def schema() -> None:
    """Print the JSON Schema of a configuration file."""
    print(json.dumps(config_schema(), indent=2, ensure_ascii=False))
