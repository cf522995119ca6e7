"""Help without the libraries that only a run needs: half of what ``llds fit --help`` costs is importing them.

Help is read from signatures and docstrings, so that classes of transformers need names and nothing else; documentation
generators do the same (``autodoc_mock_imports`` of Sphinx). Only for a process that prints help and ends: what was
imported with stand-ins cannot run. That the text is the same as without is tested.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_STOOD_IN = ("transformers", "torch._dynamo", "aiohttp", "triton", "torchmetrics.utilities.plot", "pyarrow")
"""torchmetrics imports transformers too, and in its plots matplotlib; Lightning ``torch._dynamo`` and triton."""


class _Names(type):
    def __getattr__(cls, name: str) -> Any:
        return _made(name, cls.__module__)


class _StandIn(metaclass=_Names):
    """A class that can be named, subclassed, called, and used as a decorator that changes nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else super().__new__(cls)


class _StandInModule(ModuleType):
    """A module in which every name is such a class."""

    def __getattr__(self, name: str) -> Any:
        made = _made(name, self.__name__)
        setattr(self, name, made)
        return made


def _made(name: str, module: str) -> _Names:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Names(name, (_StandIn,), {"__module__": module})


class _Finder(MetaPathFinder, Loader):
    """Finds the stand-in of a library before Python looks for the library itself."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Return a specification for a library that is stood in for and its modules; None leaves all others alone."""
        is_stood_in = any(fullname == name or fullname.startswith(f"{name}.") for name in _STOOD_IN)
        return ModuleSpec(fullname, self, is_package=True) if is_stood_in else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a module whose every name is a stand-in."""
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def stand_in() -> None:
    """From now on, import stand-ins for libraries that only a run needs."""
    sys.meta_path.insert(0, _Finder())
