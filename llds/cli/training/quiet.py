"""Of other libraries warnings and errors reach the screen, not advertisements."""

import logging
import threading
import warnings
from typing import Any

from transformers.utils import logging as transformers_logging

_LIGHTNING = ("lightning.pytorch", "lightning.fabric")
_NOISE = (
    "litlogger",  # an advertisement
    "TPU available",
    "Loading `train_dataloader` to estimate",
    "Restored all states",  # after a line that says from where
    "`Trainer.fit` stopped",  # the progress line says that all iterations are done
    "Setting accelerator to CPU",  # DeepSpeed, wherever it is installed
    "model's predefined maximum length",  # counts padding, too; `limits.total_tokens` is checked at the start
)


def quiet() -> None:
    """Silence progress bars of transformers, tips of Lightning, and what no user can act on or is told twice."""
    transformers_logging.disable_progress_bar()
    for name in _LIGHTNING:
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_is_wanted)
    logging.getLogger("DeepSpeed").addFilter(_is_wanted)
    logging.getLogger("transformers.generation.stopping_criteria").addFilter(_is_wanted)
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")  # Lightning's own code
    warnings.filterwarnings("ignore", message=r"\s*Unable to serialize instance")  # a default of a class of Lightning
    warnings.filterwarnings("ignore", message=".*does not have many workers")  # prompts are in memory
    warnings.filterwarnings("ignore", message=".*`torch.distributed.* is deprecated")  # DeepSpeed's own calls
    warnings.filterwarnings("ignore", message=".*DeepSpeed Stage 3 checkpoint")  # `llds export` serves
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # no validation
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")  # the frozen reference is
    threading.excepthook = _Threads(threading.excepthook)


class _Threads:
    """Tells what ends a thread, but for a disk that fails TensorBoard's: the same error ends the run in one line."""

    def __init__(self, before: Any) -> None:
        self._before: Any = before._before if isinstance(before, _Threads) else before

    def __call__(self, args: Any) -> None:
        is_told = isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")
        if not is_told:
            self._before(args)


def quiet_lightning() -> None:
    """Of Lightning's own loggers only warnings and errors, for the rest of the process: for commands of one answer."""
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint")  # those of a training
    for name in _LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)


def _is_wanted(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return not any(noise in text for noise in _NOISE)
