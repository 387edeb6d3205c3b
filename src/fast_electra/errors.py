"""The errors that a user can mend, each one clear sentence that names the file, line or key and the way out.

The command line prints the sentence alone and exits with status 2 (`UserError`) or 1 (anything else).
"""


class UserError(Exception):
    """Wrong input or wrong use: the message is one sentence for a person, and no traceback is shown."""


class ConfigError(UserError):
    """A configuration that can't be: unknown key, wrong type, impossible combination."""


class DataError(UserError):
    """Text, tokenizer or token shards that can't be used."""


class ModelError(UserError):
    """A model that can't be built, loaded or used for what was asked."""


class CheckpointError(UserError):
    """A run folder or checkpoint that is damaged, foreign or in the way."""


class TrainingError(UserError):
    """A run that can't go on: a loss or gradient that is not finite."""
