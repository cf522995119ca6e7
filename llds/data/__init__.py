"""Data: files become prompts, prompts become the batches that a rollout fills (`llds.batches`).

What needs torch, Lightning or transformers is imported when it is first asked for, so that `llds prepare` does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llds.data.seen_prompts import SeenPrompts
from llds.data.source import DataSource
from llds.data.source_reader import SourceQuestions, read_prompts, read_source

if TYPE_CHECKING:
    from llds.data.loader import PromptLoader
    from llds.data.prompt_data_module import PromptDataModule
    from llds.data.template import PromptTemplate

__all__ = [
    "DataSource",
    "PromptDataModule",
    "PromptLoader",
    "PromptTemplate",
    "SeenPrompts",
    "SourceQuestions",
    "read_prompts",
    "read_source",
]
_HEAVY = {"PromptDataModule": "prompt_data_module", "PromptLoader": "loader", "PromptTemplate": "template"}


def __getattr__(name: str) -> Any:
    if name not in _HEAVY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
