"""Reads the retriever of a configuration for commands that need nothing else of it, and so no torch."""

import os
from dataclasses import dataclass
from typing import Any

import yaml
from jsonargparse import Namespace
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llds.cli.config.errors import dead_link
from llds.cli.config.file import read_config_file
from llds.cli.config.parser import ConfigurationParser, errors_of_constructors
from llds.errors import ConfigurationError
from llds.retrieval import Retriever


@dataclass
class RetrievalKeys:  # those of `RetrievalCallback`, which itself needs Lightning
    """What finds passages.

    Args:
        retriever: The class that finds passages, with its settings.
        patience_s: Longest time that searches wait for a server that does not answer, in seconds.
    """

    retriever: Retriever | None = None
    patience_s: float = 60.0


class _RetrievalParser(ConfigurationParser):
    """Reads ``retrieval`` of a configuration file; the rest of the file is that of a training."""

    def parse_path(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Namespace:
        """Read a configuration file; an error in it names it."""
        config = OmegaConf.create(dict(read_config_file(os.fspath(path))[1]))
        try:
            values = OmegaConf.to_container(config.get("retrieval") or OmegaConf.create({}), resolve=True)
            return self.parse_string(yaml.safe_dump({"retrieval": values}), os.fspath(path), *args, **kwargs)
        except OmegaConfBaseException as error:
            raise ConfigurationError(f"{dead_link(error, error.full_key or '')} (in {path})") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{error} (in {path})") from error


def retrieval_parser(command: str, description: str, examples: str) -> ConfigurationParser:
    """Return a parser with ``-c`` and ``--retrieval...``, to which a command adds what it takes besides.

    Args:
        command: What a user types.
        description: What it does.
        examples: What help ends with, each on a line.
    """
    parser = _RetrievalParser(
        prog=command,
        usage=f"{command} -c FILE [-c FILE ...] [--KEY VALUE ...]",
        description=description,
        epilog=f"keys of a retriever:\n  {command} --retrieval.retriever.help llds.retrieval.ChromaRetriever\n"
        f"\nexamples:\n{examples}",
        parser_mode="omegaconf+",
    )
    parser.add_argument(
        "-c", "--config", action="config", help="Configuration file, as for `llds fit`; only `retrieval` is read."
    )
    parser.add_class_arguments(RetrievalKeys, "retrieval")
    return parser


def make_retriever(parser: ConfigurationParser, settings: Namespace) -> Retriever:
    """Return the retriever that the settings name.

    Args:
        parser: What parsed them.
        settings: What `retrieval_parser` parsed.

    Raises:
        ConfigurationError: They name none, or a setting of it cannot work.
    """
    with errors_of_constructors():
        retriever: Retriever | None = parser.instantiate(settings).retrieval.retriever
    if retriever is None:
        raise ConfigurationError(
            "Expected `retrieval.retriever` to be set, got null. Name a configuration (-c FILE) or a class "
            "(--retrieval.retriever.class_path)."
        )
    return retriever
