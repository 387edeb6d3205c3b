"""The configuration: one checked tree (`tree.py`), read from presets, YAML files and overrides (`loading.py`)."""

from fast_electra.config.loading import load_config, preset_names, resolve
from fast_electra.config.printing import config_schema, dump_config, help_for_keys
from fast_electra.config.tree import Config

__all__ = [
    "Config",
    "config_schema",
    "dump_config",
    "help_for_keys",
    "load_config",
    "preset_names",
    "resolve",
]
