"""The signals of an iteration, as pure functions of trajectories and tensors that training already has.

Keys are paths with fixed roots (``reward/ rollout/ policy/ llds/ train/ data/``), described in `llds.monitor.signals`.
Log-probabilities are in nats. "Correct" is `Trajectory.is_correct`, whatever the reward. A signal that is undefined in
an iteration (no correct trajectory, say) is left out, never NaN.
"""

from llds.metrics.actions import ActionKinds, has_answer
from llds.metrics.averages import Scalars, as_floats, mean_metrics
from llds.metrics.displacement import displacement_metrics
from llds.metrics.group_signal import GroupsBySignal, by_signal, oversampling_metrics
from llds.metrics.policy import policy_metrics
from llds.metrics.rollout import abandoned_metrics, by_group, first_action_match, rollout_metrics, served_calls
from llds.metrics.unsampled import control_metrics, observation_metrics
from llds.metrics.update_norm import squared_adam_update

__all__ = [
    "ActionKinds",
    "GroupsBySignal",
    "Scalars",
    "abandoned_metrics",
    "as_floats",
    "by_group",
    "by_signal",
    "control_metrics",
    "displacement_metrics",
    "first_action_match",
    "has_answer",
    "mean_metrics",
    "observation_metrics",
    "oversampling_metrics",
    "policy_metrics",
    "rollout_metrics",
    "served_calls",
    "squared_adam_update",
]
