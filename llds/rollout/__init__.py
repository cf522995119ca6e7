"""Rollouts: the policy acts, the environment observes, trajectories are recorded as token ids."""

from llds.rollout.observation import EncodedObservation, ObservationEncoder
from llds.rollout.protocol import ObservationText, TagProtocol

__all__ = ["EncodedObservation", "ObservationEncoder", "ObservationText", "TagProtocol"]
