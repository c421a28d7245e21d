"""torch's compiler is imported when somebody compiles, and not by all that may be compiled.

diffusers imports `torch._dynamo` for two decorators, `allow_in_graph` and `disable`, and with it a
second of other modules: sympy, triton, the code generator. A model process that never compiles has
no use for them. So until somebody asks for anything else of it, a stand-in has its name. What is
decorated meanwhile is decorated by the real module as soon as that is imported, so that what is
compiled is the same.
"""

import collections
import contextlib
import functools
import importlib
import sys
import types
import weakref
from collections.abc import Callable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Final

_NAME: Final = "torch._dynamo"

#: How the compiler marks what it has decorated.
_MARK: Final = "_torchdynamo"


def defer_compiler() -> None:
    """Have the compiler imported at its first use, in this process, unless it is here already."""
    if _NAME not in sys.modules and not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder(_StandIn(_NAME)))


class _Finder:
    """Finds the stand-in for the compiler, and what lies within the compiler itself."""

    def __init__(self, stand_in: "_StandIn") -> None:
        self._stand_in = stand_in

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """Return how to import a module; None for all that is not the compiler's."""
        if name == _NAME and PathFinder.find_spec(name, path) is not None:
            return ModuleSpec(name, _Found(self._stand_in), is_package=True)
        if not name.startswith(f"{_NAME}."):
            return None
        real = self._stand_in.real()
        if name in sys.modules:
            return ModuleSpec(name, _Found(sys.modules[name]))
        return PathFinder.find_spec(name, real.__path__)


def _is_told(name: str) -> bool:
    """Whether a name is of those that all modules have: whoever asks for it wants nothing else."""
    return name.startswith("__") and name != "__all__"


class _Found(Loader):
    """Gives a module that is there already."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """Return the module."""
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        """Leave the module as it is."""
        if self._spec is not None:
            module.__spec__ = self._spec


class _StandIn(types.ModuleType):
    """Has the compiler's name until it is asked for anything but a decorator."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "A stand-in for the compiler.")
        vars(self).update(_real=None, _waiting=collections.deque())

    def allow_in_graph(self, decorated: Any) -> Any:
        """As the compiler's, which is told later."""
        if self._real is None and callable(decorated):
            # The compiler keeps nothing alive either.
            kept = weakref.ref(decorated)
            self._waiting.append(lambda real: _tell(real.allow_in_graph, kept))
            return decorated
        return self.real().allow_in_graph(decorated)

    def disable(self, fn: Any = None, recursive: bool = True, **options: Any) -> Any:
        """As the compiler's, for functions: until there is one, nothing needs to be disabled."""
        if self._real is not None or not recursive:
            return self.real().disable(fn, recursive, **options)
        if fn is None:
            return functools.partial(self.disable, **options)
        if not isinstance(fn, types.FunctionType):
            return self.real().disable(fn, **options)
        chosen = fn

        @functools.wraps(fn)
        def disabled(*args: Any, **named: Any) -> Any:
            return chosen(*args, **named)

        def decorate(real: Any) -> None:
            nonlocal chosen
            chosen = real.disable(fn, **options)
            marks = {key: value for key, value in vars(chosen).items() if key.startswith(_MARK)}
            vars(disabled).update(marks)

        self._waiting.append(decorate)
        return disabled

    def real(self) -> Any:
        """Return the compiler, imported now if it has not been."""
        if self._real is None:
            # Of two threads, the lock of the import has one wait.
            vars(self)["_real"] = self._import()
            with contextlib.suppress(IndexError):
                while True:
                    self._waiting.popleft()(self._real)
        return self._real

    def _import(self) -> types.ModuleType:
        sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, _Finder)]
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
            # The compiler's own modules ask torch for it while it is imported.
            vars(sys.modules["torch"]).pop("_dynamo", None)
        return importlib.import_module(_NAME)

    def __getattr__(self, name: str) -> Any:
        if _is_told(name):
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")
        return getattr(self.real(), name)

    def __setattr__(self, name: str, value: object) -> None:
        if _is_told(name):
            super().__setattr__(name, value)
        else:
            setattr(self.real(), name, value)

    def __dir__(self) -> list[str]:
        return dir(self.real())


def _tell(decorate: Callable[[Any], Any], kept: "weakref.ref[Any]") -> None:
    if (decorated := kept()) is not None:
        decorate(decorated)
