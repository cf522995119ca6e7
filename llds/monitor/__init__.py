"""Collapse detection as pure functions over a table of metrics; also for logs of other frameworks.

`read_metrics` reads a run, `diagnose` judges its iterations, `summarize` sums them up, `give_verdict` says what the log
as a whole lets one say; `CollapseDetector` does the same while a run goes on. Needs neither torch nor Lightning.
"""

from llds.monitor.advice import Settings
from llds.monitor.detector import CollapseDetector, diagnose
from llds.monitor.diagnosis import LEVELS, PHASES, Cause, Diagnosis, Level, Phase, RewardFall, Symptom
from llds.monitor.signals import SIGNALS, Signal
from llds.monitor.sources import MetricTable, read_metrics
from llds.monitor.summary import Summary, in_hindsight, summarize
from llds.monitor.verdict import Verdict, give_verdict

__all__ = [
    "LEVELS",
    "PHASES",
    "SIGNALS",
    "Cause",
    "CollapseDetector",
    "Diagnosis",
    "Level",
    "MetricTable",
    "Phase",
    "RewardFall",
    "Settings",
    "Signal",
    "Summary",
    "Symptom",
    "Verdict",
    "diagnose",
    "give_verdict",
    "in_hindsight",
    "read_metrics",
    "summarize",
]
