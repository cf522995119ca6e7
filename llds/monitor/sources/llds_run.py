"""Runs of llds: the names are ours, those that older versions wrote too."""

from llds.monitor.signals import SIGNALS, TOOL_CALLS
from llds.monitor.sources.vocabulary import Vocabulary

_FORMER = {"rollout/searches": TOOL_CALLS}
VOCABULARY = Vocabulary("llds", {signal.name: signal.name for signal in SIGNALS} | _FORMER, steps=("iteration", "step"))
