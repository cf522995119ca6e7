"""What an evaluation prints and writes: the table, and the card of its conditions."""

from llds.callbacks.evaluation.calibration import AnswerCalibration
from llds.callbacks.evaluation.card import make_card, policy_label
from llds.callbacks.evaluation.table import EvaluationTable

__all__ = ["AnswerCalibration", "EvaluationTable", "make_card", "policy_label"]
