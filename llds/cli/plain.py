"""Lines of a command's own, as they are: not wrapped, not colored, so that other programs can read them too."""

from rich.console import Console


def say(line: str, *, is_error: bool = False) -> None:
    """Print a line at once.

    Args:
        line: The line.
        is_error: Whether it goes to the standard error, where results are not looked for.
    """
    Console(stderr=is_error).print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
