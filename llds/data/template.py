"""How a question becomes the tokens that the policy sees before its first action.

Stands between the data files and the sampler. What a question says is text and stays text: a special token that is
written in it (``<|im_end|>``) never becomes that token, so that a data file cannot end the user's turn.

Left out: the tags themselves, which are the protocol's (`llds.rollout.protocol`); a protocol with other tags needs a
template with other words.
"""

import re
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from llds.errors import ConfigurationError, DataError
from llds.types import Prompt

SEARCH_PROMPT = (
    "Answer the question below. Think inside <think> and </think> first, and again whenever you learn something new. "
    "If you lack a fact, ask the search engine for it with <search> query </search>; the best results then appear "
    "between <information> and </information>. Search as often as you need. Once you know enough, give only the short "
    "answer, without explanation, inside <answer> and </answer>, for example <answer> Oslo </answer>.\n"
    "Question: {question}\n"
)
_SLOT = "{question}"


@dataclass(frozen=True)
class PromptTemplate:
    """Puts the question into a text, and the text into a chat turn where the model was trained on chats.

    Args:
        text: What the policy reads; ``{question}`` stands for the question, all other braces are plain text.
        chat: Whether the text becomes the user's turn of the tokenizer's chat template. Messages that the data file
            brings then replace it.
    """

    text: str = SEARCH_PROMPT
    chat: bool = False

    def __post_init__(self) -> None:
        if self.text.count(_SLOT) != 1:
            raise ConfigurationError(
                f"Expected `data.template.text` to hold {_SLOT} once, got {self.text.count(_SLOT)} times. "
                "Say where the question goes."
            )

    def encode(self, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Return the token ids of the prompt: special tokens that the model expects first, never a trailing one.

        Args:
            prompt: The question.
            tokenizer: The policy's tokenizer.

        Raises:
            ConfigurationError: If a chat template is wanted and the tokenizer has none.
        """
        data = self._data(prompt)
        if any(_holds_special_token(text, tokenizer) for text in data):
            ids = _encode_apart(self._render(prompt, _marks(data), tokenizer), data, tokenizer)
        else:
            ids = tokenizer.encode(self._render(prompt, data, tokenizer), add_special_tokens=False)
        return tuple(ids) if self.chat else (*_leading_special_ids(tokenizer), *ids)

    def _data(self, prompt: Prompt) -> list[str]:
        """The texts of the prompt that come from the data file."""
        if self.chat and prompt.messages is not None:
            return [message["content"] for message in prompt.messages]
        return [prompt.question]

    def _render(self, prompt: Prompt, data: list[str], tokenizer: PreTrainedTokenizerBase) -> str:
        """The whole prompt as text, with ``data`` in the place of what `_data` returned."""
        if not self.chat:
            return self.text.replace(_SLOT, data[0])
        if tokenizer.chat_template is None:
            raise ConfigurationError(
                "Expected a tokenizer with a chat template for `data.template.chat: true`, got one without. "
                "Set it to false for a base model, or give the tokenizer a chat template."
            )
        roles = ["user"] if prompt.messages is None else [message["role"] for message in prompt.messages]
        contents = [self.text.replace(_SLOT, data[0])] if prompt.messages is None else data
        messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            raise DataError(
                f"Expected messages that the tokenizer's chat template accepts, got roles {roles} at {prompt.origin} "
                f"({error}). Correct the row, or leave out `messages_field`."
            ) from error


def _holds_special_token(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    as_text = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return as_text != tokenizer.encode(text, add_special_tokens=False)


def _marks(data: list[str]) -> list[str]:
    return [f"\ue000{number}\ue001" for number in range(len(data))]  # of the private use area: in no template


def _encode_apart(marked: str, data: list[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Encode the text between the marks as it is, and the data at the marks without special tokens."""
    ids: list[int] = []
    for part in re.split("(\ue000[0-9]+\ue001)", marked):
        if part.startswith("\ue000"):
            text = data[int(part[1:-1])]
            ids += tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        else:
            ids += tokenizer.encode(part, add_special_tokens=False)
    return ids


def _leading_special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What the tokenizer puts before a text, such as the beginning-of-sequence token; not what it puts after it."""
    bare = tokenizer.encode("x", add_special_tokens=False)
    wrapped = tokenizer.encode("x", add_special_tokens=True)
    extra = len(wrapped) - len(bare)
    return next((wrapped[:start] for start in range(extra + 1) if wrapped[start : start + len(bare)] == bare), [])
