"""``llds fit --profile``: where the time and the memory of an iteration go, without naming a callback.

A key of its own rather than one more of ``trainer.callbacks``: it is saved with the run, stands in a file as
``profile: true``, and ``--no_profile`` takes it back.
"""

from lightning.pytorch import Callback

from llds.callbacks import IterationProfile

PROFILE_HELP = (
    "Whether a training measures where the time and the memory of its iterations go: a table when it ends, and "
    "profile.json in its folder. Other commands have nothing to measure."
)


def with_profile(callbacks: Callback | list[Callback] | None) -> list[Callback]:
    """Add an `IterationProfile` behind the callbacks of a configuration; one that they hold keeps its settings.

    Args:
        callbacks: What ``trainer.callbacks`` says.
    """
    found = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    if not any(isinstance(one, IterationProfile) for one in found):
        found.append(IterationProfile())
    return found
