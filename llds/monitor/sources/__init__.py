"""Metrics of llds runs and of other frameworks' logs, in our names."""

from llds.monitor.sources.find import VOCABULARIES, metrics_of, read_metrics
from llds.monitor.sources.vocabulary import MetricTable, Vocabulary

__all__ = ["VOCABULARIES", "MetricTable", "Vocabulary", "metrics_of", "read_metrics"]
