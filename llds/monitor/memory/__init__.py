"""What the detector remembers of a run, in constant memory: signals, the reward's peak, drifts, what has moved."""
