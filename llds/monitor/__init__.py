"""Collapse detection as pure functions over a table of metrics."""

from llds.monitor.early_warning import EarlyWarning, early_warning

__all__ = ["EarlyWarning", "early_warning"]
