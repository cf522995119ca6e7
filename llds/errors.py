"""The error hierarchy.

Every class also inherits the standard error that it stands for, so that callers need not know this module.
Four kinds, told apart because they are handled differently:

* **The user's input** (`ConfigurationError`, `DataError`, `RetrievalError` at start-up): one clear message, a non-zero
  exit.
* **The model's mistake** (`ToolInputError`): becomes an observation that the model reads; the episode goes on.
* **Money** (`BudgetError`): the run ends, with its state saved.
* **Infrastructure** (`ToolFailure`, `SamplerError`, `RewardFailure`): retried within bounds, then recorded on the
  trajectory, which leaves the loss. Never training text. Too many of them raise `TooManyFailuresError`.
"""


class LLDSError(Exception):
    """Base of every error that llds raises on purpose."""


def said_by(error: BaseException) -> str:
    """Class and words of an error of somebody else's code, whose words may raise in their turn."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # of a stranger's `__str__`
        return f"{type(error).__name__}, whose text cannot be had"


class ConfigurationError(LLDSError, ValueError):
    """A setting cannot work. The message names the config key, what was expected, what came and what to do."""


class DataError(LLDSError, ValueError):
    """A data file, or a row of it, cannot be used. The message names the file and the row."""


class RetrievalError(LLDSError, RuntimeError):
    """A retriever or its index cannot be used, or did not answer as it must."""


class RetrieverUnavailableError(RetrievalError):
    """A retrieval server does not answer now; it may do so later."""


class ToolInputError(LLDSError, ValueError):
    """The model called a tool in a way it cannot serve; the message is shown to the model as an observation."""


class ToolFailure(LLDSError, RuntimeError):  # noqa: N818 (a failure of the world, not an error of the caller)
    """A tool could not do its work (down, too slow, broken). The trajectory that asked is marked failed."""


class BudgetError(LLDSError, RuntimeError):
    """A budget of paid calls is spent. The run ends: neither the model nor the infrastructure is at fault."""


class RewardFailure(LLDSError, RuntimeError):  # noqa: N818 (a failure of the world, not an error of the caller)
    """A reward could not be found out (a judge that is down). The trajectory is marked failed; never a reward of 0."""


class BlockedError(LLDSError, RuntimeError):
    """Something keeps the rollout's event loop from going on, such as a tool that does not return. The run ends."""


class SamplerError(LLDSError, RuntimeError):
    """The sampler could not generate. The trajectories that asked are marked failed."""


class WeightUpdateError(LLDSError, RuntimeError):
    """The sampler does not hold the policy's present weights, or does not compute with them. The run stops."""


class TooManyFailuresError(LLDSError, RuntimeError):
    """More trajectories failed than the run allows, or too many updates in a row were not finite."""


class CheckpointError(LLDSError, RuntimeError):
    """A checkpoint could not be written, must not be, or is damaged. The message names the last good one."""


class RankError(LLDSError, RuntimeError):
    """A rank failed, and all ranks stop together."""
