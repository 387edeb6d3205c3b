"""Errors that a user can correct. Each message is one sentence with the file, line or key, and what to do.

The command line prints only the sentence, and exits with the error's `status`. For any other exception Python prints a
traceback and exits with 1.
"""


class UserError(Exception):
    """Wrong input or wrong use; the command line shows the message without a traceback."""

    status = 2
    """the exit status: 2 if the input was refused, 1 if the work failed"""


class ConfigError(UserError):
    """A wrong configuration: unknown key, wrong type or impossible combination."""


class DataError(UserError):
    """Text, a tokenizer or token shards that cannot be used."""


class LockedError(DataError):
    """A folder that another process writes."""


class ModelError(UserError):
    """A model that cannot be built, loaded or used for the purpose."""


class CheckpointError(UserError):
    """A run folder or checkpoint that is damaged, belongs to another run or exists already."""


class TrainingError(UserError):
    """A run that cannot continue, for example since a loss or gradient is not finite."""

    status = 1


class ResourceError(UserError):
    """Not enough of the machine: a disk that is full or cannot be written, memory, a process that ended."""

    def __init__(self, message: str, status: int = 1):
        """Store the message and the exit status: 2 if a path is wrong in itself."""
        super().__init__(message)
        self.status = status


class OtherProcessError(UserError):
    """Another process of the same command failed; its message is the reason."""

    def __init__(self, message: str, status: int):
        """Store the message and the other process's exit status."""
        super().__init__(message)
        self.status = status


def first_line(error: Exception) -> str:
    """The first line of an error's message that says something, shortened; without a message, its class."""
    lines = (" ".join(line.split()).rstrip(".:") for line in str(error).splitlines())
    return next((line[:200] for line in lines if line and not line.startswith("backend=")), type(error).__name__)
