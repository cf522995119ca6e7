"""The tokens with which the marks of a call format begin."""

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from llds.modules import SearchAgentModule

_BEFORE = ("", " ", "\n")
"""What may stand before a mark: tokenizers join a space to it."""


def control_tokens(agent: SearchAgentModule) -> list[int]:
    """Token ids with which a call or an answer begins and ends: spikes of their probability break the format.

    Of a mark that is several tokens, the first: what follows it is then forced.

    Args:
        agent: Whose protocol has met tokenizer and tools.
    """
    marks = agent.protocol.control_marks([tool.name for tool in agent.agent_tools])
    return sorted({*first_tokens(marks, agent.tokenizer), *agent.protocol.stop_ids()})


def first_tokens(marks: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The first token of each mark that is not white space, alone and after one."""
    found = set()
    for text in (before + mark for mark in marks for before in _BEFORE):
        ids = tokenizer.encode(text, add_special_tokens=False)
        found.add(next(token for token in ids if str(tokenizer.decode([token])).strip()))
    return found
