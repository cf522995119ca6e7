"""The argument parser of all commands with a configuration: jsonargparse's, with errors of one sentence.

Needs neither torch nor Lightning; a training's own is in `llds.cli.training.parser`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from llds.cli.config.errors import explain
from llds.cli.config.file import check_config_file
from llds.cli.help_format import ParagraphFormatter
from llds.errors import ConfigurationError, LLDSError

_NO_KEYS = ("help", "config", "print_config", "version")


@contextmanager
def errors_of_constructors() -> Iterator[None]:
    """An error of ours that a constructor raised comes out as it was raised, not wrapped by jsonargparse.

    Raises:
        ConfigurationError: If a constructor refuses a value, or lacks a package.
    """
    try:
        yield
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (LLDSError, ImportError)):
            cause = cause.__cause__
        if cause is None:
            raise
        prefix = "Expected the packages that the configuration needs, got: " * isinstance(cause, ImportError)
        raise ConfigurationError(f"{prefix}{cause}") from error


class _HelpFormatter(ParagraphFormatter, DefaultHelpFormatter):
    """Types and defaults by jsonargparse, paragraphs by us."""


class ConfigurationParser(ArgumentParser):
    """Raises a `ConfigurationError` of one sentence where its base class prints a page and exits."""

    def __init__(self, *args: Any, allow_abbrev: bool = False, **kwargs: Any) -> None:
        # Also the parsers of the classes inside a configuration, which jsonargparse makes itself, refuse half a key.
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True, docstring_parse_attribute_docstrings=True)
        kwargs.setdefault("formatter_class", _HelpFormatter)
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        """Add the parameters of a class, none of which is read as the name of a file with more configuration.

        A parameter that takes either the path of a data file or a record would be given the contents of the file. To
        combine files, name several after ``-c``.
        """
        return super().add_class_arguments(*args, **kwargs | {"sub_configs": False})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the error in short.

        Args:
            message: What jsonargparse says.
            ex: Its cause.

        Raises:
            ConfigurationError: Always; but the parser of a single class, inside a configuration, leaves it to its
                caller, which adds where the class stands.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        raise ConfigurationError(explain(message, self.option_keys())) from ex

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Read a configuration file; an error in it names it."""
        if self._subcommands_action is None:
            check_config_file(str(path), self.option_keys())
        try:
            return super().parse_path(path, *args, **kwargs)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error} (in {path})") from error

    def option_keys(self) -> list[str]:
        """All dotted keys that the parser has; what stands below a class is not among them."""
        keys = [action.dest for action in self._actions]
        return [key for key in keys if key.rpartition(".")[2] not in _NO_KEYS]
