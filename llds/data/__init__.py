"""Data: files become prompts, prompts become batches, trajectories become tensors."""

from llds.data.batch import RolloutBatch
from llds.data.loader import PromptLoader
from llds.data.policy_batch import PolicyBatch
from llds.data.prompt_data_module import PromptDataModule
from llds.data.seen_prompts import SeenPrompts
from llds.data.source import DataSource
from llds.data.source_reader import SourceQuestions, read_prompts, read_source
from llds.data.template import PromptTemplate

__all__ = [
    "DataSource",
    "PolicyBatch",
    "PromptDataModule",
    "PromptLoader",
    "PromptTemplate",
    "RolloutBatch",
    "SeenPrompts",
    "SourceQuestions",
    "read_prompts",
    "read_source",
]
