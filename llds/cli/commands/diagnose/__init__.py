"""``llds diagnose``: whether a run collapses, and why."""
