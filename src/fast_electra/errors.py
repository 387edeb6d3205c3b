"""Errors that a user can correct. Each message is one sentence with the file, line or key, and what to do.

The command line prints only the sentence and exits with status 2 (`UserError`); other errors have status 1.
"""


class UserError(Exception):
    """Wrong input or wrong use; the command line shows the message without a traceback."""


class ConfigError(UserError):
    """A wrong configuration: unknown key, wrong type or impossible combination."""


class DataError(UserError):
    """Text, a tokenizer or token shards that cannot be used."""


class ModelError(UserError):
    """A model that cannot be built, loaded or used for the purpose."""


class CheckpointError(UserError):
    """A run folder or checkpoint that is damaged, belongs to another run or exists already."""


class TrainingError(UserError):
    """A run that cannot continue, since a loss or gradient is not finite."""
