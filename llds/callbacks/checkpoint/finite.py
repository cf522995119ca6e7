"""Whether what a checkpoint would keep is finite: no weight and no optimizer state of an unsound one can train on."""

from llds.modules import SearchAgentModule, all_finite
from llds.strategies import gather


def what_is_not_finite(module: SearchAgentModule) -> str:
    """The first weight or optimizer state, on any rank, that is not finite, and how many more; every rank must call.

    Returns:
        Words for a message; empty if all are finite.
    """
    found = [name for name, value in module.gradients.trained() if not all_finite([value])]
    everywhere = list(dict.fromkeys(name for share in gather(found) for name in share))
    if not everywhere:
        return ""
    others = f" and {len(everywhere) - 1} more" if len(everywhere) > 1 else ""
    return f"`{everywhere[0]}`{others}"
