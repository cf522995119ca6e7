"""``llds push``: a trained policy, with its model card, as a repository of the hub."""

from collections.abc import Sequence
from pathlib import Path

import llds
from llds.cli.arguments import ArgumentParser
from llds.cli.plain import say
from llds.errors import ConfigurationError

_DESCRIPTION = """\
Upload a trained policy to the Hugging Face Hub, or to the server that HF_ENDPOINT names. FOLDER is a run's folder,
whose `policy/` is taken, or the folder that `llds export` wrote. The repository is made when it is missing; it is
private unless you say --public. Uploaded are weights, configuration, tokenizer, and the model card (README.md); nothing
else of the folder, and nothing else of the run.

The model card says what the policy was trained from, with which settings and seeds, what `llds test` measured of
exactly these weights, and what the collapse detector saw. If FOLDER is a run's folder, the card is made anew before it
is uploaded, so test first. Read it before you push: FOLDER/policy/README.md. To keep a text of yours, delete its line
"llds writes this card anew"; then it goes up as it is.

A token that may write is needed: `hf auth login`, or HF_TOKEN."""
_EXAMPLES = """
examples:
  llds push runs/quickstart OWNER/quickstart-agent
  llds push policy-100 OWNER/agent-100 --public          # a folder that llds export wrote
  llds fit -c llds:base --model.policy OWNER/agent-100 ...   # used by its name, elsewhere
"""


def push(args: Sequence[str]) -> None:
    """Push the folder of the arguments after ``push``.

    Args:
        args: Arguments.

    Raises:
        ConfigurationError: If it is no model, there is no token, or the hub refuses or cannot be reached.
    """
    parser = ArgumentParser("llds push FOLDER OWNER/NAME [--public] [--message TEXT]", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a run's folder, or one that llds export wrote")
    parser.add_argument("name", metavar="OWNER/NAME", help="the repository on the hub")
    parser.add_argument("--public", action="store_true", help="everybody may read it (default: private)")
    parser.add_argument("--message", metavar="TEXT", help="of the commit (default: the version of llds)")
    options = parser.parse_args(list(args))
    from llds.evaluation.model_card import CARD, renew_model_card
    from llds.files.hub_push import push_folder

    folder: Path = options.folder
    if (folder / "policy").is_dir():
        run, folder = folder, folder / "policy"
        try:
            is_new = renew_model_card(folder, run)
        except OSError as error:
            raise ConfigurationError(
                f"Expected to write {folder / CARD}, got {error}. Mend it, or make room."
            ) from error
        if is_new:
            say(f"model card: {folder / CARD}")
    message = options.message or f"Trained with llds {llds.__version__}"
    say(push_folder(folder, options.name, is_public=options.public, message=message))
