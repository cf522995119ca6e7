"""Early warning while a run trains: the monitor, and what it keeps of an incident."""

from llds.callbacks.collapse.monitor import CollapseMonitor

__all__ = ["CollapseMonitor"]
