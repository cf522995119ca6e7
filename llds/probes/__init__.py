"""Probes: what one update on one question does to the likelihood of its correct responses, and why."""

from llds.losses.log_probs import HeadTokens
from llds.probes.files import probe_folder, write_probe
from llds.probes.influence import head_influence
from llds.probes.question import QuestionProbe
from llds.probes.record import PHASE_III, PLACES, ActionPlace, Probe, ProbedAction, ProbedQuestion, ProbedTrajectory
from llds.probes.trial_update import Trial, TrialOptimizer, TrialUpdates

__all__ = [
    "PHASE_III",
    "PLACES",
    "ActionPlace",
    "HeadTokens",
    "Probe",
    "ProbedAction",
    "ProbedQuestion",
    "ProbedTrajectory",
    "QuestionProbe",
    "Trial",
    "TrialOptimizer",
    "TrialUpdates",
    "head_influence",
    "probe_folder",
    "write_probe",
]
