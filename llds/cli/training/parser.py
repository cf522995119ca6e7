"""The argument parser of the commands that train and evaluate: Lightning's, with the manners of ours."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from lightning.pytorch.cli import LightningArgumentParser

from llds.cli.config.base_keys import base_keys, keys_of_classes
from llds.cli.config.parser import ConfigurationParser

KEYS_OF_CLASSES = "{keys of classes}"
"""In an epilog, stands for the keys that the parser does not list."""


class TrainingParser(ConfigurationParser, LightningArgumentParser):
    """Its help begins with what belongs to llds.

    Attributes:
        help_of: The command and the dotted key whose class the process explains; jsonargparse makes a parser of its own
            for that, which knows neither.
    """

    help_of: ClassVar[tuple[str, str]] = ("", "")

    def format_help(self, *args: Any) -> str:
        """The help text, with the long list of Lightning's own settings at its end."""
        self._action_groups = sorted(
            self._action_groups, key=lambda group: (group.title or "").startswith("Customize every aspect")
        )
        if getattr(self, "_inner_parser", False) and self.help_of[0]:
            return self._help_of_class(*args)
        if self.epilog and KEYS_OF_CLASSES in self.epilog:
            self.epilog = self.epilog.replace(KEYS_OF_CLASSES, keys_of_classes(set(self.option_keys())))
        return super().format_help(*args)

    def _help_of_class(self, *args: Any) -> str:
        """The help of a class, with the command and the keys as a user types them."""
        command, key = self.help_of
        self.usage = f"llds {command} -c FILE [--{key}.KEY VALUE ...]"
        text = super().format_help(*args)
        inner = re.search(r"Help for --([\w.]+)\.help", text)
        return re.sub(rf"--{re.escape(inner[1])}(?=[.\s])", f"--{key}", text) if inner else text


def with_class_of_help(words: Sequence[str]) -> list[str]:
    """The words of a command, with the class of the base configuration after a ``--KEY.help`` that names none.

    Args:
        words: The command and its arguments.
    """
    completed: list[str] = []
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        completed.append(word)
        match = re.fullmatch(r"--(.+)\.help(=.*)?", word)
        if match:
            TrainingParser.help_of = (words[0], match[1])
            class_path = base_keys().get(match[1])
            if not match[2] and after.startswith("-") and isinstance(class_path, str) and "." in class_path:
                completed.append(class_path)
    return completed
