"""The two forms in which the quickstart's policies act: tags, and the tool calls of a chat template."""

import json
from abc import ABC, abstractmethod
from typing import Any

from transformers import PreTrainedTokenizerBase

from llds.agent_tools import SearchTool
from llds.rollout import ChatToolProtocol, Protocol, TagProtocol

from retrieval import TOP_K

_PLACE = "qzplaceq"


class Form(ABC):
    """How a prompt and an action are written; observations are the protocol's.

    Attributes:
        protocol: What reads actions and writes observations.
        tools: Names of the tools.
    """

    protocol: Protocol
    tools = ("search",)

    @abstractmethod
    def prompt(self, question: str) -> str:
        """What the policy reads first."""

    @abstractmethod
    def call(self, query: str) -> str:
        """A search as the policy writes it."""

    @abstractmethod
    def answer(self, text: str) -> str:
        """An answer as the policy writes it."""

    @property
    def end_tokens(self) -> list[str]:
        """Tokens with which an action ends, beside the tokenizer's own."""
        return self.protocol.stop_strings(self.tools)


class TagForm(Form):
    """Of `conf/quickstart.yaml`."""

    def __init__(self) -> None:
        self.protocol = TagProtocol()

    def prompt(self, question: str) -> str:
        """The question on a line."""
        return f"Question: {question}\n"

    def call(self, query: str) -> str:
        """The query between tags, behind a space: the tokens of names begin with one."""
        return f"<search> {query}</search>"

    def answer(self, text: str) -> str:
        """The answer between tags."""
        return f"<answer> {text}</answer>"


class ChatForm(Form):
    """Of `conf/quickstart_chat.yaml`: prompts and calls are rendered by the tokenizer's chat template.

    Args:
        tokenizer: Has a chat template that knows tools.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer, search = tokenizer, SearchTool(TOP_K)
        self.protocol = ChatToolProtocol(answer_pattern=r"(?s)<answer>(.*)</answer>")
        self._tools: list[Any] = [search.schema]
        self.protocol.attach(tokenizer, [search])
        called = {"type": "function", "function": {"name": search.name, "arguments": {"query": _PLACE}}}
        self._call = self._action({"content": "", "tool_calls": [called]})
        self._answer = self._action({"content": _PLACE})
        self._prompt = self._render([], _PLACE)

    def prompt(self, question: str) -> str:
        """Tools and question."""
        return self._prompt.replace(_PLACE, question)

    def call(self, query: str) -> str:
        """A call with the query, which begins with a space as in the form of tags."""
        return self._call.replace(_PLACE, json.dumps(f" {query}", ensure_ascii=False)[1:-1])

    def answer(self, text: str) -> str:
        """A message without a call, with the answer between tags."""
        return self._answer.replace(_PLACE, f"<answer> {text}</answer>")

    @property
    def end_tokens(self) -> list[str]:
        """What ends a message."""
        return [self._tokenizer.decode([token]) for token in self.protocol.stop_ids()]

    def _action(self, message: dict[str, Any]) -> str:
        said = self._render([{"role": "assistant", **message}], "?", goes_on=False)
        return said.removeprefix(self._render([], "?"))

    def _render(self, further: list[dict[str, Any]], question: str, *, goes_on: bool = True) -> str:
        messages: list[dict[str, Any]] = [{"role": "user", "content": question}, *further]
        rendered = self._tokenizer.apply_chat_template(
            messages, tools=self._tools, add_generation_prompt=goes_on, tokenize=False
        )
        return str(rendered)


def form_of(tokenizer: PreTrainedTokenizerBase) -> Form:
    """The form of a policy with this tokenizer."""
    return ChatForm(tokenizer) if tokenizer.chat_template else TagForm()
