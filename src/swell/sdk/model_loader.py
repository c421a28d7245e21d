"""Finds models by reference: files, modules and built-in models."""

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from swell.core.errors import InvalidModel, NotFound, SwellError
from swell.sdk.built_in_names import built_in_module
from swell.sdk.define import MARK, Definition, define
from swell.sdk.missing_packages import demo_module, how_to_get
from swell.sdk.model import Model

#: Makes models from files that `swell models add` wrote; it is a layer above this module.
_ADDED: Final = "swell.diffusion.families.model_definition"


def load_models(ref: str) -> list[Definition]:
    """Return the models that `ref` names, in the order of their definition.

    Args:
        ref: A Python file (`models/poster.py`, also `models/poster.py:attribute`), a module
            (`my_models.poster`, `my_models:poster`), a file that `swell models add` wrote
            (`acme--dreams.toml`), or a built-in model (`swell/icons`, `demo/noop`, `demo/*`).

    Raises:
        NotFound: No such file, module, attribute or built-in model.
        InvalidModel: It cannot be imported, or holds no model, or a model is not complete.
    """
    if ref.endswith(".toml"):
        return [importlib.import_module(_ADDED).definition_of(Path(ref))]
    path, _, attribute = ref.rpartition(":") if ":" in ref else (ref, "", "")
    if path.endswith(".py"):
        return _models_in(import_file(Path(path)), attribute, ref)
    if "/" in ref:
        return _built_in_models(ref)
    return _models_in(_import_module(path, ref), attribute, ref)


def _built_in_models(ref: str) -> list[Definition]:
    owner, _, name = ref.partition("/")
    if owner == "swell" and (Path(__file__).parents[1] / f"models/pipelines/{name}.toml").is_file():
        raise NotFound(
            f"{ref} is a pipeline, not a model: `swell up --pipelines {ref}` serves it; plain "
            "`swell up` serves it with its models"
        )
    module = built_in_module(ref)
    if module is None:
        raise NotFound(
            f"no built-in model is called {ref!r}: give a built-in such as swell/icons or "
            "demo/upper, a Python file ending in .py, or a module"
        )
    found = _models_in(_import_module(module, ref), "", ref)
    if name == "*":
        return found
    named = [definition for definition in found if definition.name == ref]
    if not named:
        known = ", ".join(definition.name for definition in found)
        raise NotFound(f"no built-in model is called {ref!r}: there are {known}")
    return named


def import_file(path: Path) -> types.ModuleType:
    """Import a Python file, once.

    Raises:
        NotFound: The file does not exist.
        InvalidModel: It cannot be imported; the text says why.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {str(path)!r}: give the path of a Python file")
    resolved = path.resolve()
    # The name contains the path, so that two files of one name are two modules.
    tag = hashlib.sha256(str(resolved).encode()).hexdigest()[:8]
    name = f"swell_models_{re.sub(r'[^a-zA-Z0-9_]', '_', resolved.stem)}_{tag}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise InvalidModel(f"{path.name} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # A model's file may import its neighbours, as a script may.
    folder = str(resolved.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with _explaining(path.name, resolved):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str, ref: str) -> types.ModuleType:
    with _explaining(ref):
        package, _, inner = name.partition(".")
        if package == "swell_models" and inner:
            return demo_module(inner)
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not (error.name and f"{name}.".startswith(f"{error.name}.")):
                raise
            raise NotFound(
                f"there is no module {error.name!r}, named by {ref!r}: install it, set "
                "PYTHONPATH, or give a file ending in .py"
            ) from error


@contextlib.contextmanager
def _explaining(what: str, source: Path | None = None) -> Iterator[None]:
    """Turn the failure of an import into an error that names the line."""
    try:
        yield
    except SwellError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f" (line {frame.lineno} of {Path(frame.filename).name})"
        raise InvalidModel(
            f"importing {what} failed: {type(error).__name__}: {error}{place}"
            f"{remedy(error, source)}"
        ) from error


def remedy(error: BaseException | None, source: Path | None) -> str:
    """Return what to do if a module is missing, after a colon; nothing for all other errors.

    Args:
        error: The exception.
        source: The model's file, if there is one.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    text = ""
    if source is not None:
        with contextlib.suppress(OSError):
            text = source.read_text(encoding="utf-8", errors="replace")
    return f": {how_to_get(error.name, text)}"


def _models_in(module: types.ModuleType, attribute: str, ref: str) -> list[Definition]:
    if attribute:
        if not hasattr(module, attribute):
            raise NotFound(f"{ref}: the module has no attribute {attribute!r}")
        return [define(getattr(module, attribute))]
    candidates = [value for value in vars(module).values() if _is_model(value)]
    # Models that were only imported into the module do not count, unless there are no others.
    own = [value for value in candidates if value.__module__ == module.__name__]
    # A model may have several names in its module.
    found = [define(value) for value in {id(value): value for value in own or candidates}.values()]
    if not found:
        raise InvalidModel(
            f"{ref} holds no model: put @swell.model('owner/name') above a typed function, or "
            "derive a class from swell.Model and give it a name"
        )
    names = [definition.name for definition in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InvalidModel(f"{ref} defines {twice} twice: give each model a different name")
    return found


def _is_model(value: Any) -> bool:
    is_class = isinstance(value, type) and issubclass(value, Model) and bool(value.name)
    return is_class or hasattr(value, MARK)
