"""Data: files become prompts, prompts become the batches that a rollout fills (`llds.batches`)."""

from llds.data.loader import PromptLoader
from llds.data.prompt_data_module import PromptDataModule
from llds.data.seen_prompts import SeenPrompts
from llds.data.source import DataSource
from llds.data.source_reader import SourceQuestions, read_prompts, read_source
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
