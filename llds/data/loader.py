"""Batches of prompts in an order that depends on the seed alone, with a position that a checkpoint can hold.

Lightning finds `state_dict` and `load_state_dict` on the loader and keeps them in its checkpoints. It does not fetch
ahead from a loader that has a length, so the position is exactly the number of batches that training consumed, and a
run that resumes goes on with the next prompt. An iteration may draw further prompts beside its batch: they come next in
the stream, and are part of the position.

A plain iterable and not a `torch.utils.data.DataLoader`: prompts are small, so there is nothing to fetch ahead.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llds.batches.rollout_batch import RolloutBatch
from llds.data.mixture import Mixture
from llds.data.prompt_table import PromptTable, prompt_line
from llds.errors import ConfigurationError
from llds.types import Prompt


class PromptLoader:
    """Yields `RolloutBatch` objects.

    With `iterations`, prompts form an endless stream of passes, each in an order of its own, and an iteration over the
    loader yields the next `iterations` batches of it: always full, possibly across the border of two passes, going on
    where the last one stopped. (Lightning counts the batches of an epoch itself; so an epoch that was interrupted or
    shortened needs nothing but the position.) Without, an iteration over the loader is one pass from its beginning,
    and its last batch holds what is left.

    Args:
        prompts: The questions, at least one.
        batch_size: Prompts per batch.
        iterations: Number of batches; None is one pass.
        shuffle: Whether each pass has a random order of its own.
        seed: Seed of the orders.
        sizes: How many prompts belong to each source, where sources are mixed by weight.
        weights: Relative share of each source; None draws every prompt once a pass.
        encode: Gives the prompts of a batch their token ids.

    Attributes:
        position: Number of batches that were consumed so far, over all passes.
        further: Number of prompts that were drawn beside them.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        batch_size: int,
        iterations: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        sizes: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        encode: Callable[[list[Prompt]], list[Prompt]] = list,
    ) -> None:
        _check_positive("batch_size", batch_size)
        if iterations is not None:
            _check_positive("iterations", iterations)
        if not prompts:
            raise ConfigurationError("Expected at least one prompt to load, got none. Check the data source.")
        self.prompts = prompts
        self.batch_size = batch_size
        self.iterations = iterations
        self.shuffle = shuffle
        self.seed = seed
        self.position = 0
        self.further = 0
        self._further_before = 0  # the batch that was handed out last
        self._encode = encode
        self._resumed = False
        self.mixture = Mixture(sizes or [len(prompts)], weights, shuffle, seed)
        self._checksum = _checksum(self.prompts)

    def __len__(self) -> int:
        """Number of batches of one iteration over the loader."""
        return -(-len(self.prompts) // self.batch_size) if self.iterations is None else self.iterations

    def __iter__(self) -> Iterator[RolloutBatch]:
        """Yield the next batches; in a pass whose position was just loaded, those that are left of it."""
        if self.iterations is None and not self._resumed:
            self.position += -self.position % len(self)  # a pass that was left early is not finished later
        self._resumed = False
        for _ in range(len(self) if self.iterations is not None else len(self) - self.position % len(self)):
            batch = RolloutBatch(self.peek())
            self.position += 1
            self._further_before = self.further
            yield batch

    def order(self, pass_number: int) -> list[int]:
        """Return the order of the prompts in a pass: a function of the seed and the pass, and of nothing else."""
        return self.mixture.order(pass_number)

    def state_dict(self) -> dict[str, Any]:
        """Return the position, and what the order depends on."""
        return {"position": self.position, "further": self.further, "order": self._order_settings()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position.

        Args:
            state: What `state_dict` returned.

        Raises:
            ConfigurationError: If the prompts or their order are not those of the state.
        """
        self.go_to(state)
        self._resumed = True

    def peek(self) -> list[Prompt]:
        """The prompts of the batch that is handed out next, without handing it out."""
        return self._encode(self._batch())

    def draw(self, count: int) -> list[Prompt]:
        """Draw the prompts that come next in the endless stream, beside the batches: the next batch follows them.

        Args:
            count: Number of prompts.

        Raises:
            ConfigurationError: Without `iterations`: there is no stream.
        """
        if self.iterations is None:
            raise ConfigurationError("Expected a loader with `iterations` to draw further prompts from, got one pass.")
        drawn = self._encode(self._stream(self._next, count))
        self.further += count
        return drawn

    def rewind(self) -> None:
        """Take back the batch that was handed out last and what was drawn beside it: they come first hereafter."""
        self.position -= 1
        self.further = self._further_before

    def go_to(self, state: dict[str, Any]) -> None:
        """Take the position of a state.

        Args:
            state: What `state_dict` returned.

        Raises:
            ConfigurationError: Unless the state belongs to the same prompts in the same order.
        """
        for name, value in self._order_settings().items():
            if state["order"].get(name) != value:  # a state of before there were weights has none
                raise ConfigurationError(
                    f"Expected `data` to have the same {name} as the checkpoint ({state['order'].get(name)}), "
                    f"got {value}: the next prompt is not defined otherwise. Restore the setting, or start a new run "
                    "from the exported weights."
                )
        self.position = state["position"]
        self.further = state.get("further", 0)  # a state of before prompts were drawn has none

    @property
    def _next(self) -> int:
        """Place in the stream of the prompt that comes next."""
        return self.position * self.batch_size + self.further

    def _batch(self) -> list[Prompt]:
        """The prompts of the next batch: where several processes would share them out, as ``[rank::world]``."""
        size = self.batch_size
        if self.iterations is None:
            pass_number, number = divmod(self.position, len(self))
            return [self.prompts[index] for index in self.order(pass_number)[number * size : (number + 1) * size]]
        return self._stream(self._next, size)

    def _stream(self, start: int, count: int) -> list[Prompt]:
        """The prompts of some places of the endless stream."""
        places = (divmod(place, len(self.prompts)) for place in range(start, start + count))
        return [self.prompts[self.order(pass_number)[offset]] for pass_number, offset in places]

    def _order_settings(self) -> dict[str, Any]:
        return {
            "number of prompts": len(self.prompts),
            "prompts checksum": self._checksum,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "weights": self.mixture.weights,
            "number of prompts by source": self.mixture.weights and self.mixture.sizes,
            "use of `iterations`": self.iterations is not None,
        }


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigurationError(f"Expected `data.{name}` to be at least 1, got {value}. Raise it.")


def _checksum(prompts: Sequence[Prompt]) -> int:
    checksum = 0
    for text in prompts.lines() if isinstance(prompts, PromptTable) else map(prompt_line, prompts):
        checksum = zlib.crc32(text, checksum)
    return checksum
