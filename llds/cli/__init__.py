"""The command line: ``llds fit | validate | test | predict``."""

from llds.cli.main import SearchAgentCLI, build_cli, main

__all__ = ["SearchAgentCLI", "build_cli", "main"]
