"""The data module: files in, batches of prompts out, one loader per stage.

First station of the flow. It reads when a stage begins, so that bad files stop the run before anything is trained.
Prompts are encoded batch by batch as they are handed out, with the tokenizer of the module, which owns it: the token
ids of a large training set would take minutes and gigabytes in every process.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from transformers import PreTrainedTokenizerBase

from llds.data.loader import PromptLoader
from llds.data.prompt_table import PromptTable
from llds.data.source import DataSource
from llds.data.source_reader import SKIP_ADVICE, SourceQuestions, join_unique, raise_together, read_source
from llds.data.template import PromptTemplate
from llds.errors import ConfigurationError, DataError
from llds.types import Prompt

DEFAULT_TEMPLATE = PromptTemplate()
_ENCODED_AT_ONCE = 1000
_STAGES = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": ("predict",)}


class PromptDataModule(LightningDataModule):
    """Streams prompts for the four stages.

    Each stage takes a path, a `DataSource`, or a list of either. Results are reported by data source. Training prompts
    of several files are drawn equally often, or by the `weight` of their source.

    Args:
        train: Questions to train on.
        validation: Questions for validation during training.
        test: Questions for ``llds test``.
        predict: Questions for ``llds predict``.
        batch_size: Prompts per rollout iteration.
        iterations: Rollout iterations of one training epoch; None is as many as one pass over the training prompts
            needs. Training batches are always full: the last one of a pass goes on with the next pass.
        eval_batch_size: Prompts per batch in validation, test and predict; the last batch holds what is left.
        template: How a question becomes a prompt.
        max_prompt_tokens: Longest prompt that is accepted, in tokens, without what an opening tool adds.
        shuffle: Whether training prompts are shuffled, anew in each pass.
        seed: Seed of the order of training prompts; None takes the run's, ``seed_everything`` (from Python: 0).

    Attributes:
        tokenizer: Encodes the prompts; taken from the module at `setup`, unless it was set before.
        prompts: The prompts of each stage that was set up, without token ids, by the stage's parameter name.
        questions: What was read of each data source of these stages.
    """

    def __init__(
        self,
        train: str | DataSource | list[str | DataSource] | None = None,
        validation: str | DataSource | list[str | DataSource] | None = None,
        test: str | DataSource | list[str | DataSource] | None = None,
        predict: str | DataSource | list[str | DataSource] | None = None,
        batch_size: int = 32,
        iterations: int | None = None,
        eval_batch_size: int = 64,
        template: PromptTemplate = DEFAULT_TEMPLATE,
        max_prompt_tokens: int = 2048,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("batch_size", batch_size),
            ("iterations", 1 if iterations is None else iterations),
            ("eval_batch_size", eval_batch_size),
            ("max_prompt_tokens", max_prompt_tokens),
        ):
            if value < 1:
                raise ConfigurationError(f"Expected `data.{name}` to be at least 1, got {value}. Raise it.")
        self.sources = {"train": train, "validation": validation, "test": test, "predict": predict}
        for name in self.sources:
            _check_weights(name, self._sources_of(name))
        self.batch_size = batch_size
        self.iterations = iterations
        self.eval_batch_size = eval_batch_size
        self.template = template
        self.max_prompt_tokens = max_prompt_tokens
        self.shuffle = shuffle
        self.seed = seed or 0
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.prompts: dict[str, Sequence[Prompt]] = {}
        self.questions: dict[str, list[SourceQuestions]] = {}
        self._asked: Prompt | None = None
        self._train_loader: PromptLoader | None = None
        self._restored: dict[str, Any] = {}

    def ask(self, question: str) -> None:
        """Let ``predict`` consist of one question, which no file needs to hold and which has no gold answers.

        Args:
            question: As text.
        """
        self._asked = Prompt("asked", question, (), data_source="asked", origin="--question")

    def setup(self, stage: str) -> None:
        """Read the prompts of a stage, and check that they fit.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            DataError: If a file, a row or a prompt cannot be used.
            ConfigurationError: If the stage has no data.
        """
        self._announce_tools()
        refused: list[DataError] = []
        for name in _STAGES[stage]:
            if name == "predict" and self._asked is not None:
                self.prompts[name] = [self._asked]
                continue
            sources = self._sources_of(name)
            if not sources and name == "validation" and stage == "fit":
                continue
            if not sources:
                raise ConfigurationError(
                    f"Expected `data.{name}` to name the questions for `llds {TrainerFn(stage).value}`, got nothing. "
                    f"Add a path: --data.{name} FILE."
                )
            refused += self._read(name, sources)
        raise_together(refused)
        if stage == "fit":
            self._note_unnamed_tools()

    def train_dataloader(self) -> PromptLoader:
        """Return the loader of training prompts, at the position of the checkpoint that a run resumes from."""
        prompts = self.prompts["train"]
        iterations = self.iterations or -(-len(prompts) // self.batch_size)
        sizes = [len(part.prompts) for part in self.questions["train"]]
        weights = [part.source.weight for part in self.questions["train"] if part.source.weight is not None]
        loader = PromptLoader(
            prompts,
            self.batch_size,
            iterations,
            self.shuffle,
            self.seed,
            sizes=sizes,
            weights=weights or None,
            encode=self._encode,
        )
        if self._restored:
            self._go_on(loader)
        self._train_loader = loader
        return loader

    def val_dataloader(self) -> PromptLoader | list[PromptLoader]:
        """Return the loader of validation prompts, in file order; an empty list without any."""
        return self._evaluation_loader("validation") if "validation" in self.prompts else []

    def test_dataloader(self) -> PromptLoader:
        """Return the loader of test prompts, in file order."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> PromptLoader:
        """Return the loader of prompts to predict, in file order."""
        return self._evaluation_loader("predict")

    def describe(self) -> dict[str, list[dict[str, Any]]]:
        """What decides the questions of each stage that was set up, JSON-ready, one record per data source.

        Each names the file and its SHA-256, the number of questions and their hash, and how they were chosen: see
        `SourceQuestions.describe`.
        """
        return {name: [part.describe() for part in parts] for name, parts in self.questions.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training prompts.

        Lightning also keeps the loader's own state, but loads it only into an epoch that was interrupted; a run that
        resumes at the border of two epochs finds its position here.
        """
        return self._restored if self._train_loader is None else self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the position for the next training loader, or for the present one.

        Strategies that restore a checkpoint late (DeepSpeed) have made the loader by then.

        Args:
            state_dict: What `state_dict` returned.
        """
        self._restored = state_dict
        if self._train_loader is not None:
            self._go_on(self._train_loader)

    def _go_on(self, loader: PromptLoader) -> None:
        """Take the restored position; Lightning would make one iteration more than a run of fewer has.

        Raises:
            ConfigurationError: If the run ends before it.
        """
        loader.go_to(self._restored)
        epochs = (self.trainer.max_epochs or 0) if self.trainer is not None else 0
        if 0 < len(loader) * epochs < loader.position:
            done = -(-loader.position // epochs)
            raise ConfigurationError(
                f"Expected `data.iterations` to be at least the {done} that the checkpoint has done, got "
                f"{len(loader)}. Raise it, or go on from an earlier checkpoint by `--ckpt_path`."
            )

    def _sources_of(self, name: str) -> list[DataSource]:
        sources = self.sources[name]
        listed = sources if isinstance(sources, list) else [sources]
        return [DataSource(item) if isinstance(item, str) else item for item in listed if item is not None]

    def _read(self, name: str, sources: Sequence[DataSource]) -> list[DataError]:
        """Read what belongs to a stage's parameter; return what is wrong with its files."""
        parts: list[SourceQuestions] = []
        refused: list[DataError] = []
        for source in sources:
            if source.answers_in is not None:  # minutes, where the corpus has millions of passages
                rank_zero_info(f"`data.{name}`: looking for the answers of {source.path} in {source.answers_in}")
            try:
                parts.append(self._fitting(read_source(source)))
            except DataError as error:
                refused.append(error)
        if refused:
            return refused
        self.questions[name] = parts
        self.prompts[name] = join_unique([part.prompts for part in parts])
        for line in (line for part in parts for line in part.notes()):
            rank_zero_info(f"`data.{name}`: {line}")
        return []

    def _announce_tools(self) -> None:
        """Let prompts tell the model of its tools, as the module's protocol does."""
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        if module is not None:
            self.template = self.template.announcing(module.protocol.announce(module.agent_tools))

    def _note_unnamed_tools(self) -> None:
        """Say which tools the first prompt does not name, unless their tags are tokens that the model was made with."""
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        if module is None:
            return
        tokenizer = self._find_tokenizer()
        [first] = self._encode([self.prompts["train"][0]])
        text = tokenizer.decode(list(first.prompt_ids))
        names = [tool.name for tool in module.agent_tools if tool.name not in text]
        unnamed = [name for name in names if len(tokenizer.encode(f"<{name}>", add_special_tokens=False)) > 1]
        if unnamed:
            rank_zero_info(
                f"`data.template`: the prompt does not name {', '.join(unnamed)}: a model that was not trained to call "
                "such a tool will not. Put {tools} into `data.template.text`, where the protocol tells of them."
            )

    def _find_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            if self.trainer is None:
                raise ConfigurationError(
                    "Expected a tokenizer to encode prompts with, got a data module without a trainer. "
                    "Set its `tokenizer` before `setup`."
                )
            self.tokenizer = cast(PreTrainedTokenizerBase, self.trainer.lightning_module.tokenizer)
        return self.tokenizer

    def _fitting(self, questions: SourceQuestions) -> SourceQuestions:
        """The questions whose prompts are not too long; only those that could be are tokenized to find out."""
        prompts, bad_rows = questions.prompts, questions.bad_rows
        could_be, too_long, longest = self._could_be_too_long(prompts), set(), 0
        for start in range(0, len(could_be), _ENCODED_AT_ONCE):
            numbers = could_be[start : start + _ENCODED_AT_ONCE]
            encoded = self.template.encode_batch(list(prompts.select(numbers)), self._find_tokenizer())
            for number, prompt in zip(numbers, encoded, strict=True):
                try:
                    self._check_length(prompt)
                except DataError as error:
                    bad_rows.take(error)
                    too_long.add(number)
                    longest = max(longest, len(prompt.prompt_ids))
        bad_rows.check(questions.source.path, f"The longest has {longest:,} tokens. {SKIP_ADVICE}")
        if len(too_long) == len(prompts):
            raise DataError(
                f"Expected at least one prompt of at most {self.max_prompt_tokens} tokens in {questions.source.path}, "
                "got none. Raise `data.max_prompt_tokens` (and the model's limits)."
            )
        if too_long:
            prompts = prompts.select(number for number in range(len(prompts)) if number not in too_long)
        return replace(questions, prompts=prompts)

    def _could_be_too_long(self, prompts: PromptTable) -> list[int]:
        """Numbers of the prompts whose length must be counted: by their bytes, the others cannot be too long."""
        tokenizer = self._find_tokenizer()
        bound = self.template.max_tokens_by_bytes(prompts.question_bytes(), tokenizer)
        suspects = np.flatnonzero((bound > self.max_prompt_tokens) | (prompts.have_messages() & self.template.chat))
        numbers = {0, *suspects.tolist()}  # the first always: it tells whether the template works at all
        return [n for n in sorted(numbers) if self.template.max_tokens(prompts[n], tokenizer) > self.max_prompt_tokens]

    def _encode(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        encoded = self.template.encode_batch(prompts, self._find_tokenizer())
        for prompt in encoded:
            self._check_length(prompt)
        return encoded

    def _check_length(self, prompt: Prompt) -> None:
        if len(prompt.prompt_ids) > self.max_prompt_tokens:
            raise DataError(
                f"Expected prompts of at most {self.max_prompt_tokens} tokens, got {len(prompt.prompt_ids)} at "
                f"{prompt.origin}. Raise `data.max_prompt_tokens` (and the model's limits), or remove the row."
            )

    def _evaluation_loader(self, name: str) -> PromptLoader:
        return PromptLoader(self.prompts[name], self.eval_batch_size, encode=self._encode)


def _check_weights(name: str, sources: Sequence[DataSource]) -> None:
    weights = [source.weight for source in sources if source.weight is not None]
    if weights and name != "train":
        raise ConfigurationError(
            f"Expected no `weight` in `data.{name}`, got {weights[0]}: weights mix training prompts. Use `limit`."
        )
    if weights and len(weights) < len(sources):
        raise ConfigurationError(
            f"Expected all data sources of `data.{name}` to have a `weight`, or none, got {len(weights)} of "
            f"{len(sources)}. Add the others."
        )
