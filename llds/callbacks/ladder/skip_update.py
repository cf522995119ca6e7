"""The rung that keeps bad rollouts from the weights."""

from typing import ClassVar

from llds.callbacks.ladder.rung import Moment, Rung
from llds.callbacks.ladder.when import When


class SkipUpdate(Rung):
    """Leaves out the update of an iteration whose rollout already shows the trouble.

    It is asked between rollout and update, by the signals of the rollout (rewards, searches, failures, format), which
    the detector judges as if the iteration were over. The iteration counts, its prompts are used up, its trajectories
    are logged; weights, optimizer and schedule stay as they are. For bad data (an outage of the retriever, a broken
    reward): a policy that has collapsed does not recover by standing still.

    Args:
        when: When it acts; by default at every iteration in which the retriever is out.
    """

    before_update: ClassVar[bool] = True

    def __init__(self, when: When = When(level="warning", causes=["retriever_outage"], cooldown=1)) -> None:
        super().__init__(when)

    def act(self, moment: Moment) -> str | None:
        """Take away what would be trained on."""
        if moment.batch.policy_batch is None:
            return None
        moment.batch.policy_batch = None
        return "skipped the update"
