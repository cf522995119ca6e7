"""The argument parser of the commands that train and evaluate: Lightning's, with the manners of ours."""

from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from llds.cli.config.parser import ConfigurationParser


class TrainingParser(ConfigurationParser, LightningArgumentParser):
    """Its help begins with what belongs to llds."""

    def format_help(self, *args: Any) -> str:
        """The help text, with the long list of Lightning's own settings at its end."""
        self._action_groups = sorted(
            self._action_groups, key=lambda group: (group.title or "").startswith("Customize every aspect")
        )
        return super().format_help(*args)
