"""Arguments of the commands that have no configuration; what is wrong with them is an error like any other."""

import argparse
from typing import NoReturn

from llds.errors import ConfigurationError


class ArgumentParser(argparse.ArgumentParser):
    """A parser that raises in place of ending the process; keeps the line breaks of what stands below the options.

    Args:
        usage: What a user types, with its arguments.
        description: What the command does.
        epilog: Stands below the options.
    """

    def __init__(self, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            usage=usage, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        """Raise a `ConfigurationError` that says what is wrong."""
        raise ConfigurationError(f"Expected `{self.usage}`, got: {message}.")
