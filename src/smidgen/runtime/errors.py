"""Errors a user can act on. Each message names the field or file, the value, and the remedy in one line."""

from __future__ import annotations


class SmidgenError(Exception):
    """A user's mistake or a fault of the surroundings; the command line prints it in one line, exit status 1."""


class ConfigError(SmidgenError):
    """A configuration field is unknown, of the wrong type, or impossible beside another field."""


class TokenizerError(SmidgenError):
    """A tokenizer cannot be trained, loaded, or cannot represent the given text."""


class MissingTokenizerError(TokenizerError):
    """A folder has no tokenizer: none of the files that one is read from."""


class DataError(SmidgenError):
    """A source or dataset folder is missing, malformed, or does not fit the model."""


class ModelFolderError(SmidgenError):
    """A model folder, checkpoint or run folder is missing, damaged, or of an architecture we do not know."""


class ContextLengthError(SmidgenError):
    """A prompt plus its answer does not fit the context of the model."""


class TrainingError(SmidgenError):
    """A training run cannot start or cannot go on."""


class InterchangeError(SmidgenError):
    """A model cannot be written in another format, or a file of another format cannot be read."""


class MissingDependencyError(SmidgenError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package '{package}': pip install 'smidgen[{extra}]'")
