"""One episode on the screen as it goes on: each thought, search, passage and answer."""

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from llds.rollout import Protocol
from llds.types import Prompt, Turn

_STYLES = {"thought": "italic", "answer": "bold green", "invalid": "yellow", "result": "dim", "correction": "yellow"}


class Conversation:
    """Prints turns as an `EpisodeWatcher`; plain text where the output is no terminal.

    Args:
        console: Where to.
        tokenizer: The policy's tokenizer.
        protocol: Tells thought, call and answer apart, and takes its marks out.
    """

    def __init__(self, console: Console, tokenizer: PreTrainedTokenizerBase, protocol: Protocol) -> None:
        self.console = console
        self.tokenizer = tokenizer
        self.protocol = protocol

    def opened(self, prompt: Prompt) -> None:
        """Print what an opening tool put into the prompt."""
        opening = prompt.opening or range(0)
        self._print("result", str(self.tokenizer.decode(list(prompt.prompt_ids[opening.start : opening.stop]))))

    def acted(self, turn: Turn) -> None:
        """Print the thought, then what the policy asks for."""
        for part in self.protocol.shown(turn.action, str(self.tokenizer.decode(turn.action_ids))):
            self._print(part.label, self._plain(part.text) if part.label == "thought" else part.text)

    def observed(self, turn: Turn) -> None:
        """Print the passages, or what else came back."""
        text = self.protocol.shown_observation(str(self.tokenizer.decode(turn.observation_ids)))
        self._print("correction" if turn.action.kind == "invalid" else "result", self._plain(text))

    def _print(self, label: str, text: str) -> None:
        for number, line in enumerate(filter(str.strip, text.splitlines())):
            left = Text(f"{label if number == 0 else '':<12}", style="cyan")
            style = _STYLES.get(label, "bold")
            self.console.print(left + Text(line.strip(), style=style), soft_wrap=not self.console.is_terminal)

    def _plain(self, text: str) -> str:
        """The text without special tokens."""
        for mark in self.tokenizer.all_special_tokens:
            text = text.replace(mark, "\n")
        return text.strip()
