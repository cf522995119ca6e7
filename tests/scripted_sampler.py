"""A sampler that says what a test wants, so that the test is about what the environment makes of it."""

from collections.abc import Callable, Iterable

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llds.samplers import Sampler, SampleRequest
from llds.types import Completion, StopReason

LOG_PROB = -0.25


class ScriptedSampler(Sampler):
    """Answers each request at once.

    Args:
        tokenizer: Encodes the script.
        script: The text of an action by (trajectory, turn); an exception is raised.

    Attributes:
        requests: All requests, in order.
        open: Trajectories that were opened and not closed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, script: Callable[[int, int], str | Exception]) -> None:
        self.tokenizer = tokenizer
        self.script = script
        self.requests: list[SampleRequest] = []
        self.open: set[int] = set()

    def open_trajectory(self, trajectory: int) -> None:
        """Note it."""
        self.open.add(trajectory)

    def close_trajectory(self, trajectory: int) -> None:
        """Forget it."""
        self.open.discard(trajectory)

    def update_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Note the version."""
        self.policy_version = version

    async def sample(self, request: SampleRequest) -> Completion:
        """Say what the script says, cut at the request's limit."""
        assert request.trajectory in self.open
        turn = sum(earlier.trajectory == request.trajectory for earlier in self.requests)
        self.requests.append(request)
        text = self.script(request.trajectory, turn)
        if isinstance(text, Exception):
            raise text
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        reason: StopReason = "length" if len(ids) > request.max_tokens else "stop"
        ids = ids[: request.max_tokens]
        return Completion(ids, [LOG_PROB] * len(ids), reason)
