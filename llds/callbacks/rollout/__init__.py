"""The rollout callback: every batch is rolled out before it is trained on or evaluated, on all ranks alike.

Here is what training adds to a rollout: weights for the sampler, overlap, over-sampling, checks. How an episode goes is
in `llds.rollout`, who samples in `llds.samplers`.
"""

from llds.callbacks.rollout.callback import RolloutCallback

__all__ = ["RolloutCallback"]
