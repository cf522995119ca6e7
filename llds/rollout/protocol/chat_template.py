"""A tokenizer's chat template with the tools of an agent: messages in, text out."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from llds.agent_tools import AgentTool
from llds.errors import ConfigurationError
from llds.rollout.protocol.chat_format import Message

TOOLS = "tools"
"""The argument of a template by which transformers hands it tools."""


class ChatTemplate:
    """The template with what it is told beside the messages.

    Args:
        tokenizer: Has it.
        told: Its arguments, the tools among them.
        call_text: How a call is written where the template writes none; empty where it does.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, told: Mapping[str, Any], call_text: str = "") -> None:
        self._tokenizer, self._told, self._call_text = tokenizer, dict(told), call_text

    def render(self, messages: Sequence[Message], goes_on: bool) -> str:
        """Messages as text."""
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [self._with_calls(message) for message in messages],
                    add_generation_prompt=goes_on,
                    tokenize=False,
                    **self._told,
                )
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise ConfigurationError(
                "Expected a chat template that takes tool calls and results for llds.rollout.ChatToolProtocol "
                f"(`model.protocol`), got one that refuses them: {error}. Use llds.rollout.TagProtocol."
            ) from error

    def _with_calls(self, message: Message) -> Message:
        """A message that the template can write: calls become its text where the template would leave them out."""
        if not self._call_text or "tool_calls" not in message:
            return dict(message)
        calls = [call["function"] for call in message["tool_calls"]]
        written = [
            self._call_text.replace("{name}", call["name"]).replace("{arguments}", json.dumps(call["arguments"]))
            for call in calls
        ]
        return {"role": message["role"], "content": "\n".join(written)}


def told_of_tools(tools: Sequence[AgentTool], argument: str) -> dict[str, Any]:
    """The argument that tells a template of the tools: their schemas, or without any None.

    Args:
        tools: Of the agent.
        argument: Its name. Any but transformers' own takes schemas without the frame that says that each is a function.
    """
    schemas = [tool.schema if argument == TOOLS else tool.schema["function"] for tool in tools]
    return {argument: schemas or None}
