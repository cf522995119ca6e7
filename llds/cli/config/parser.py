"""The argument parser of all commands with a configuration: jsonargparse's, with errors of one sentence.

Needs neither torch nor Lightning; a training's own is in `llds.cli.training.parser`.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings

from llds.cli.config.errors import explain, no_value, read_findings
from llds.cli.config.file import check_config_file, read_config_file
from llds.cli.config.missing_package import missing_package
from llds.cli.config.overlay import overlay_alone
from llds.cli.config.shipped import configuration_file
from llds.cli.help_format import ParagraphFormatter
from llds.errors import ConfigurationError, LLDSError

CONFIG_HELP = "Configuration file, or llds:NAME for one that ships with llds (`llds configs`); may be repeated."
_FILES = ("-c", "--config")
_BEGIN_ANEW = ("policy_loss", "advantages")
"""Arguments of the model whose classes share names that mean something else in each, such as ``clip_low``: a new class
takes nothing of the old one's."""
_NO_KEYS = ("help", "config", "print_config", "version")


@contextmanager
def errors_of_constructors(config: Mapping[str, Any] | Namespace | None = None) -> Iterator[None]:
    """An error of ours that a constructor raised comes out as it was raised, not wrapped by jsonargparse.

    Args:
        config: What is built, for the key of a class that lacks a package.

    Raises:
        ConfigurationError: If a constructor refuses a value, or lacks a package.
    """
    try:
        yield
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (LLDSError, ImportError)):
            cause = cause.__cause__
        if isinstance(cause, LLDSError):
            raise ConfigurationError(str(cause)) from error
        # In a list of classes the cause is lost; the text has it.
        values = config.as_dict() if isinstance(config, Namespace) else config or {}
        found = missing_package(str(error), values) or _sentence_of_ours(str(error))
        if not found and cause is not None:
            found = f"Expected the packages that the configuration needs, got: {cause}"
        if not found and "Does not validate against any of the Union" in str(error):
            found = _reason(str(error))
        if not found:
            raise
        raise ConfigurationError(found) from error


def _reason(message: str) -> str:
    """What a class of others says in what the parser says of a list of classes; empty if nothing but of types."""
    texts = [finding.text for finding in read_findings(message)]
    said = [text for text in texts if not re.match(r"Not a valid subclass|Expected an? <|Subtypes|Errors", text)]
    return f"Expected classes that can be built from the configuration, got: {said[0]}" if said else ""


def _sentence_of_ours(message: str) -> str:
    """An error of ours in what the parser says of a list of classes; empty if there is none."""
    texts = [finding.text for finding in read_findings(message) if finding.class_path]
    return next((text for text in texts if re.match(r"Expected .*\bgot\b", text)), "")


class _HelpFormatter(ParagraphFormatter, DefaultHelpFormatter):
    """Types and defaults by jsonargparse, paragraphs by us."""


def _forget_replaced(config: Namespace, file: str) -> None:
    """Take out of a configuration the lists, and the loss and estimator, that a file brings anew, in place.

    Left in, an item of the new list would keep settings of the old one's item at its place, and the new loss those of
    the old one that have the same name, and mean something else.
    """
    try:
        values = read_config_file(file)[1]
    except ConfigurationError:  # whose error the parser reports
        return
    for key in _lists(values):
        if key in config:
            config[key] = None
    for key, class_path in _classes(values):
        if config.get(f"{key}.class_path", class_path) != class_path:
            config[key] = None


def _lists(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of the lists of records in a file; those that end in "+" add to a list."""
    for word, value in values.items():
        if isinstance(value, Mapping):
            yield from _lists(value, f"{prefix}{word}.")
        elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
            yield f"{prefix}{word}"


def _classes(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Dotted keys of `_BEGIN_ANEW` in a file, with the class that it names."""
    model = values.get("model")
    arguments = model.get("init_args") if isinstance(model, Mapping) else None
    for word in _BEGIN_ANEW:
        value = arguments.get(word) if isinstance(arguments, Mapping) else None
        if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
            yield f"model.init_args.{word}", value["class_path"]


def _in_order(words: Sequence[str]) -> list[str]:
    """The words of a command, so that flags win: after its subcommand the files, then classes that begin anew."""
    files: list[str] = []
    classes: list[str] = []
    others: list[str] = []
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        is_file = word in _FILES or word.startswith(tuple(f"{flag}=" for flag in _FILES))
        if is_file or (before in _FILES and not word.startswith("-")):
            files.append(word)
        elif flag := _names_class(word, after):
            classes += [flag, "null", word]  # null: nothing of the class before
        else:
            (classes if _names_class(before, word) and "=" not in before else others).append(word)
    has_command = bool(others) and not others[0].startswith("-") and words[0] == others[0]
    return [*others[:has_command], *files, *classes, *others[has_command:]]


def _names_class(word: str, after: str) -> str:
    """The flag of a word that names a class of `_BEGIN_ANEW`, itself or with the next word; empty for no such word."""
    match = re.fullmatch(rf"(--model\.(?:init_args\.)?(?:{'|'.join(_BEGIN_ANEW)}))(?:=(.*))?", word, re.DOTALL)
    value = (after if match[2] is None else match[2]).strip() if match else ""
    is_class = bool(value) and not value.startswith("-") and (not value.startswith("{") or "class_path" in value)
    return match[1] if match and is_class else ""


class ConfigurationAction(ActionConfigFile):
    """What ``-c`` takes: a file, or `llds:NAME` for a configuration that ships with llds."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the configuration."""
        file = configuration_file(values)
        _forget_replaced(cfg, file)
        super().__call__(parser, cfg, file, option_string)


class ConfigurationParser(ArgumentParser):
    """Raises a `ConfigurationError` of one sentence where its base class prints a page and exits."""

    def __init__(self, *args: Any, allow_abbrev: bool = False, **kwargs: Any) -> None:
        # Also the parsers of the classes inside a configuration, which jsonargparse makes itself, refuse half a key.
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True, docstring_parse_attribute_docstrings=True)
        kwargs.setdefault("formatter_class", _HelpFormatter)
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument; one that takes configuration files also takes those of llds, by their names."""
        if kwargs.get("action") in ("config", ActionConfigFile):
            kwargs |= {"action": ConfigurationAction, "help": CONFIG_HELP}
        return super().add_argument(*args, **kwargs)

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
        args = getattr(self, "args", None) or []
        option = re.match(r"argument (--\S+): expected one argument", message)
        if option:
            raise ConfigurationError(no_value(option[1], args)) from ex
        is_incomplete = "required" in message or "not to be None" in message
        alone = overlay_alone(args) if is_incomplete else ""
        raise ConfigurationError(alone or explain(message, self._keys_of_message(message))) from ex

    def _keys_of_message(self, message: str) -> list[str]:
        """The keys that a message is about: those of its subcommand, where it names one."""
        command = re.match(r"Subcommand '([^']+)'", message)
        parsers: Any = self._subcommands_action.choices if self._subcommands_action else {}
        parser = parsers.get(command[1]) if command else None
        return (parser or self).option_keys()

    def parse_args(  # type: ignore[override]  # of argparse's, as jsonargparse's own
        self, args: Sequence[str] | None = None, *others: Any, **settings: Any
    ) -> Namespace:
        """Parse; what the command line says wins over what files say, wherever in it they stand."""
        return super().parse_args(None if args is None else _in_order(args), *others, **settings)

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Read a configuration file; an error in it names it."""
        name = os.fspath(path)
        is_whole = self._subcommands_action is None  # else its keys are those of several commands
        text = check_config_file(name, self.option_keys()) if is_whole else read_config_file(name)[0]
        try:
            return self.parse_string(text, name, *args, **kwargs)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error} (in {path})") from error

    def option_keys(self) -> list[str]:
        """All dotted keys that the parser has; what stands below a class is not among them."""
        keys = [action.dest for action in self._actions]
        return [key for key in keys if key.rpartition(".")[2] not in _NO_KEYS]
