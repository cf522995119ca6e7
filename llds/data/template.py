"""How a question becomes the tokens that the policy sees before its first action.

Stands between the data files and the sampler. What a question says is text and stays text: a special token that is
written in it (``<|im_end|>``) never becomes that token, so that a data file cannot end the user's turn. Where a tool
opens the episode (one-shot retrieval), the template leaves a place for what it says; the episode fills it.

Left out: the tags themselves, which are the protocol's (`llds.rollout.protocol`); a protocol with other tags needs a
template with other words. What the protocol says of the tools is put where the template has ``{tools}``, or handed to
the tokenizer's chat template.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from llds.data.segments import Segment, SpecialTokens, encode_segments
from llds.errors import ConfigurationError, DataError
from llds.rollout.protocol import ToolAnnouncement
from llds.types import Prompt

SEARCH_PROMPT = (
    "Answer the question below. Think inside <think> and </think> first, and again whenever you learn something new. "
    "If you lack a fact, ask the search engine for it with <search> query </search>; the best results then appear "
    "between <information> and </information>. Search as often as you need. Once you know enough, give only the short "
    "answer, without explanation, inside <answer> and </answer>, for example <answer> Oslo </answer>.\n"
    "Question: {question}\n"
)
_SLOT = "{question}"
_OPENING_SLOT = "{observation}"
_TOOLS_SLOT = "{tools}"
_MARK = "\ue000"  # of the private use area: in no template
_OPENING_MARK = f"{_MARK}opening\ue001"
_MOST_ESCAPED = 6  # bytes that a chat template can make of one: \\u0041
_MAX_LEADING_TOKENS = 4  # tokenizers put one or two special tokens before a text


@dataclass(frozen=True)
class PromptTemplate:
    """Puts the question into a text, and the text into a chat turn where the model was trained on chats.

    Args:
        text: What the policy reads; ``{question}`` stands for the question, ``{tools}`` for what the protocol says of
            the agent's tools and, where the agent has an opening tool, ``{observation}`` for what that says about the
            question. All other braces are plain text.
        chat: Whether the text becomes the user's turn of the tokenizer's chat template. Messages that the data file
            brings then replace it.
        system: The system message of the chat; where a row of the data file brings one, that one stands. ``{tools}`` as
            in the text.

    Attributes:
        announcement: How the protocol tells the model of its tools; set by `announcing`.
    """

    text: str = SEARCH_PROMPT
    chat: bool = False
    system: str = ""
    announcement: ToolAnnouncement = field(default=ToolAnnouncement(), init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.system and not self.chat:
            raise ConfigurationError(
                "Expected `data.template.chat: true` where `data.template.system` is set, because only a chat has a "
                "system message, got false. Set it, or put the words into `data.template.text`."
            )
        if self.text.count(_SLOT) != 1:
            raise ConfigurationError(
                f"Expected `data.template.text` to hold {_SLOT} once, got {self.text.count(_SLOT)} times. "
                "Say where the question goes."
            )
        if self.text.count(_OPENING_SLOT) > 1:
            raise ConfigurationError(
                f"Expected `data.template.text` to hold {_OPENING_SLOT} at most once, got "
                f"{self.text.count(_OPENING_SLOT)} times. Remove the others."
            )

    def announcing(self, announcement: ToolAnnouncement) -> "PromptTemplate":
        """The same template, telling of these tools.

        Raises:
            ConfigurationError: If the chat template tells of them, and there is none; or nothing stands at ``{tools}``.
        """
        if announcement.chat_arguments and not self.chat:
            raise ConfigurationError(
                "Expected `data.template.chat: true`, because the protocol (`model.protocol`) tells the model of its "
                "tools by the tokenizer's chat template, got false. Set it, or use llds.rollout.TagProtocol."
            )
        if _TOOLS_SLOT in self.text + self.system and not announcement.text:
            raise ConfigurationError(
                f"Expected no {_TOOLS_SLOT} in `data.template`: there are no tools, or the protocol (`model.protocol`) "
                "tells of them in another place or not at all. Remove it."
            )
        told = replace(self)
        object.__setattr__(told, "announcement", announcement)
        return told

    @property
    def has_opening(self) -> bool:
        """Whether the text has a place for what an opening tool says."""
        return _OPENING_SLOT in self.text

    def encode(self, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Prompt:
        """Return the prompt with its token ids: special tokens that the model expects first, never a trailing one.

        Args:
            prompt: The question.
            tokenizer: The policy's tokenizer.

        Raises:
            ConfigurationError: If a chat template is wanted and the tokenizer has none, or messages of the data file
                leave no place for the opening tool.
            DataError: If the chat template refuses the messages of the data file.
        """
        return self.encode_batch([prompt], tokenizer)[0]

    def encode_batch(self, prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
        """Return prompts with their token ids, as `encode` does, and several times as fast.

        Args:
            prompts: The questions.
            tokenizer: The policy's tokenizer.
        """
        special = SpecialTokens(tokenizer)
        leading = [] if self.chat else special.leading_ids
        pieces = [self._pieces(prompt, tokenizer, special) for prompt in prompts]
        flat = [segment for of_prompt in pieces for piece in of_prompt for segment in piece]
        ids = iter(encode_segments(flat, tokenizer))
        parts = [[[token for _ in piece for token in next(ids)] for piece in of_prompt] for of_prompt in pieces]
        return [self._with_ids(prompt, part, leading) for prompt, part in zip(prompts, parts, strict=True)]

    def max_tokens(self, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> int:
        """Return a number of tokens that the prompt does not exceed, without tokenizing it: its bytes.

        Args:
            prompt: The question.
            tokenizer: The policy's tokenizer.

        Raises:
            ConfigurationError: As `encode` does.
            DataError: As `encode` does.
        """
        text = self._render(prompt, self._data(prompt), tokenizer)
        return len(text.encode()) + _MAX_LEADING_TOKENS

    def max_tokens_by_bytes(
        self, question_bytes: npt.NDArray[np.int64], tokenizer: PreTrainedTokenizerBase
    ) -> npt.NDArray[np.int64]:
        """Return numbers of tokens that prompts without messages do not exceed, without making them.

        Args:
            question_bytes: Length of each question in UTF-8 bytes ``[n]``.
            tokenizer: The policy's tokenizer.

        Raises:
            ConfigurationError: As `encode` does.
        """
        text = self._render(Prompt("", _MARK, ()), [_MARK], tokenizer)
        times = text.count(_MARK) - self.has_opening  # the mark of the opening begins alike
        around = len(text.encode()) - times * len(_MARK.encode()) + _MAX_LEADING_TOKENS
        return around + question_bytes * max(1, times) * (_MOST_ESCAPED if self.chat else 1)

    def _pieces(
        self, prompt: Prompt, tokenizer: PreTrainedTokenizerBase, special: SpecialTokens
    ) -> list[list[Segment]]:
        """The prompt before and after the place of the opening tool, or all of it where there is no such place."""
        data = self._data(prompt)
        apart = any(_MARK in text or special.are_in(text) for text in data)
        text = self._render(prompt, _marks(data) if apart else data, tokenizer)
        pieces = text.split(_OPENING_MARK) if self.has_opening else [text]
        return [_set_apart(piece, data) if apart else [Segment(piece)] for piece in pieces]

    def _with_ids(self, prompt: Prompt, parts: list[list[int]], leading: list[int]) -> Prompt:
        start = len(leading) + len(parts[0])
        return replace(
            prompt,
            prompt_ids=tuple(token for part in (leading, *parts) for token in part),
            opening=range(start, start) if self.has_opening else None,
        )

    def _data(self, prompt: Prompt) -> list[str]:
        """The texts of the prompt that come from the data file."""
        if self.chat and prompt.messages is not None:
            if self.has_opening:
                raise ConfigurationError(
                    f"Expected prompts with a place for the opening tool ({_OPENING_SLOT} in `data.template.text`), "
                    f"got messages that replace the text at {prompt.origin}. Leave out `messages_field`."
                )
            return [message["content"] for message in prompt.messages]
        return [prompt.question]

    def _render(self, prompt: Prompt, data: list[str], tokenizer: PreTrainedTokenizerBase) -> str:
        """The whole prompt as text, with ``data`` in the place of what `_data` returned."""
        tools = self.announcement.text
        text = self.text.replace(_TOOLS_SLOT, tools).replace(_OPENING_SLOT, _OPENING_MARK)
        if not self.chat:
            return text.replace(_SLOT, data[0])
        if tokenizer.chat_template is None:
            raise ConfigurationError(
                "Expected a tokenizer with a chat template for `data.template.chat: true`, got one without. "
                "Set it to false for a base model, or give the tokenizer a chat template."
            )
        roles = ["user"] if prompt.messages is None else [message["role"] for message in prompt.messages]
        contents = [text.replace(_SLOT, data[0])] if prompt.messages is None else data
        if self.system and roles[0] != "system":
            roles, contents = ["system", *roles], [self.system.replace(_TOOLS_SLOT, tools), *contents]
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        arguments = dict(self.announcement.chat_arguments)
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments))
        except TemplateError as error:
            raise DataError(
                f"Expected messages that the tokenizer's chat template accepts, got roles {roles} at {prompt.origin} "
                f"({error}). Correct the row, or leave out `messages_field`."
            ) from error


def _marks(data: list[str]) -> list[str]:
    return [f"{_MARK}{number}\ue001" for number in range(len(data))]


def _set_apart(marked: str, data: list[str]) -> list[Segment]:
    """The text between the marks as it is, and the data at the marks as data."""
    parts = re.split(f"({_MARK}[0-9]+\ue001)", marked)
    return [Segment(data[int(part[1:-1])], True) if part.startswith(_MARK) else Segment(part) for part in parts if part]
