"""One episode on the screen as it goes on: each thought, search, passage and answer."""

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from llds.rollout import TagProtocol
from llds.types import Prompt, Turn

_STYLES = {"thought": "italic", "answer": "bold green", "invalid": "yellow", "result": "dim", "correction": "yellow"}


class Conversation:
    """Prints turns as an `EpisodeWatcher`; plain text where the output is no terminal.

    Args:
        console: Where to.
        tokenizer: The policy's tokenizer.
        protocol: The tags, which are taken out.
    """

    def __init__(self, console: Console, tokenizer: PreTrainedTokenizerBase, protocol: TagProtocol) -> None:
        self.console = console
        self.tokenizer = tokenizer
        self.protocol = protocol

    def opened(self, prompt: Prompt) -> None:
        """Print what an opening tool put into the prompt."""
        opening = prompt.opening or range(0)
        self._print("result", str(self.tokenizer.decode(list(prompt.prompt_ids[opening.start : opening.stop]))))

    def acted(self, turn: Turn) -> None:
        """Print the thought, then what the policy asks for."""
        text = str(self.tokenizer.decode(turn.action_ids))
        if turn.action.kind == "invalid":
            self._print("invalid", text)
            return
        is_answer = turn.action.kind == "answer"
        tag = self.protocol.answer_tag if is_answer else turn.action.name
        end = text.find(f"</{tag}>")
        self._print("thought", self._plain(text[: text.rfind(f"<{tag}>", 0, end)]))
        self._print("answer" if is_answer else turn.action.name, turn.action.content)

    def observed(self, turn: Turn) -> None:
        """Print the passages, or what else came back."""
        text = self._plain(str(self.tokenizer.decode(turn.observation_ids)))
        self._print("correction" if turn.action.kind == "invalid" else "result", text)

    def _print(self, label: str, text: str) -> None:
        for number, line in enumerate(filter(str.strip, text.splitlines())):
            left = Text(f"{label if number == 0 else '':<12}", style="cyan")
            style = _STYLES.get(label, "bold")
            self.console.print(left + Text(line.strip(), style=style), soft_wrap=not self.console.is_terminal)

    def _plain(self, text: str) -> str:
        """The text without tags that only mark it as thought or as observation, and without special tokens."""
        tags = (self.protocol.think_tag, self.protocol.observation_tag)
        marks = [f"<{end}{tag}>" for tag in tags for end in ("", "/")]
        for mark in (*marks, *self.tokenizer.all_special_tokens):
            text = text.replace(mark, "\n")
        return text.strip()
