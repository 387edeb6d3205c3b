"""The option `--shard i/n` of commands whose work several processes share."""

import re

from fast_electra.errors import ConfigError


def share_of(shard: str) -> tuple[int, int]:
    """(i, n) of "i/n"."""
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard {shard} is not i/n with i from 1 to n: for three processes give 1/3, 2/3 and 3/3.")
    return int(found[1]), int(found[2])
