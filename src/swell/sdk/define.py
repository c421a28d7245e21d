"""Turns typed functions and classes into definitions of models.

    1. a typed function under `@model("owner/name")`
    2. the same with constraints and `swell.ui` hints in `Annotated`, and a `Context`
    3. a class derived from `Model`, with `load`, `warmup`, and batches of compatible inputs; one
       that draws in steps derives from `StepModel`, and samples of many tasks share each step

The decorator wraps the function in a class, so there is one way from a class to its `Definition`.
The pydantic input type is the one source of validation, schema, form and command line.
"""

import hashlib
import inspect
import json
import re
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import msgspec
import PIL.Image
import pydantic
from pydantic import BaseModel, ConfigDict
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from swell.core.errors import InvalidInput, InvalidModel, InvalidRequest
from swell.core.records import MOST_PRICE_MICROS, ModelCard, Speed
from swell.sdk.card_samples import read_samples
from swell.sdk.context import Context, Item
from swell.sdk.media import Image
from swell.sdk.model import Batch, Model
from swell.sdk.multi_sample_inputs import wrong_pack
from swell.sdk.schema_examples import example_of
from swell.sdk.step_model import StepModel
from swell.weights.files import content_of_link

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

#: The attribute of a decorated function that holds its definition.
MARK: Final = "__swell_model__"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*/[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Definition:
    """A model as the worker, the command line and the docs use it."""

    #: The card without version and samples.
    facts: ModelCard
    input_type: type[BaseModel]
    #: The file that defines it, and the files that it declares.
    source: Path | None
    files: tuple[Path, ...]
    #: Makes the model, not yet loaded.
    make: Callable[[], Model]
    #: Files for the card, by their captions.
    samples: Mapping[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`owner/name`."""
        return self.facts.name

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the input, with `x-ui` hints."""
        return self.facts.input_schema

    def version(self) -> str:
        """Return 12 hex digits that change with the source, the schema or a declared file.

        A sample of the card counts as a declared file.

        Raises:
            InvalidModel: A declared file cannot be read.
        """
        digest = hashlib.sha256(self.name.encode())
        digest.update(json.dumps([self.input_schema, self.facts.output_schema]).encode())
        for path in [*([self.source] if self.source else []), *self.files, *self.samples.values()]:
            digest.update(b"\0" + _file_digest(path, self.name))
        return digest.hexdigest()[:12]

    def card(self) -> ModelCard:
        """Return the model card.

        Raises:
            InvalidModel: A declared file cannot be read, a sample is not a small picture, or
                backends would refuse the card.
        """
        try:
            samples = read_samples(self.samples)
        except InvalidRequest as error:
            raise InvalidModel(f"{self.name}: {error.detail}") from error
        card = msgspec.structs.replace(self.facts, version=self.version(), samples=samples)
        _check_card(card)
        return card


def _check_card(card: ModelCard) -> None:
    try:
        from swell.core.card_limits import check_card  # noqa: PLC0415 - its library may be missing
    except ModuleNotFoundError:
        # The environment of a model has no jsonschema-rs: the backend checks the card.
        return
    try:
        check_card(card)
    except InvalidInput as error:
        raise InvalidModel(error.detail) from error


def _file_digest(path: Path, name: str) -> bytes:
    # A link into a cache of weights names its content, even before the content is downloaded.
    if content := content_of_link(path):
        return bytes.fromhex(content)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InvalidModel(
            f"{name}: cannot read {path.name} to hash it: {error.strerror}"
        ) from error


# --- functions -----------------------------------------------------------------------------------


class ModelAttributes(typing.TypedDict, total=False):
    """Attributes of `Model` that a function's model may have."""

    batch: Batch
    examples: Sequence[Mapping[str, Any]]
    files: Sequence[str | Path]
    stage: str
    licence: str
    credits: str
    memory_bytes: int
    price_micros: int
    speed: Sequence[Speed]
    samples: Mapping[str, str | Path]


def model(
    name: str, **attributes: typing.Unpack[ModelAttributes]
) -> Callable[[FunctionT], FunctionT]:
    """Make a typed function a model. The function itself stays unchanged and can be called.

    Each parameter becomes an input field with the same default. A parameter of type
    `Context | None` gets the context instead, and one named `seed` that is left out or None gets
    the sample's seed.

    Args:
        name: `owner/name`.
        attributes: As of a `Model`: `batch` (inputs are handed over together, and still run one
            after another), `examples`, `files`, `stage`, `licence`, `credits`, `memory_bytes`,
            `price_micros`, `speed` and `samples`. Files are relative to the function's file.

    Raises:
        InvalidModel: The signature cannot become a schema; the text says which parameter and why.
    """
    if unknown := attributes.keys() - ModelAttributes.__annotations__.keys():
        raise TypeError(f"@swell.model({name!r}) has no argument {min(unknown)!r}")

    def mark(function: FunctionT) -> FunctionT:
        cls = _class_of(function, name, attributes)
        setattr(function, MARK, _define_class(cls))
        return function

    return mark


class FunctionModel(Model):
    """A function as a model: one call per item."""

    function: ClassVar[Callable[..., Any]]
    context_name: ClassVar[str | None]

    def run(self, items: list[Item[BaseModel]]) -> list[Any]:
        """Return the result or exception of one call per item."""
        return [self._call(item) for item in items]

    def _call(self, item: Item[BaseModel]) -> Any:
        arguments = dict(item.input.__dict__)
        seed = arguments.get("seed", "")
        if seed is None:
            arguments["seed"] = item.seed
        elif type(seed) is int:
            arguments["seed"] = seed + item.index
        if self.context_name is not None:
            arguments[self.context_name] = item
        try:
            return self.function(**arguments)
        except Exception as error:
            return error


def is_function_model(candidate: Model) -> bool:
    """Whether a model is a function, which runs its items one by one."""
    return isinstance(candidate, FunctionModel)


def _class_of(
    function: Callable[..., Any], name: str, attributes: Mapping[str, Any]
) -> type[FunctionModel]:
    _refuse(_name_problem(name))
    _refuse(_function_problem(function), name)
    try:
        types_of = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InvalidModel(
            f"{name}: the type {error.name!r} in the signature is not known in the function's "
            "module; import it there at the top level"
        ) from error
    #: pydantic's (type, default) per parameter.
    fields: dict[str, Any] = {}
    context_name = None
    for parameter in inspect.signature(function).parameters.values():
        annotation = types_of.get(parameter.name)
        parts = (annotation, *typing.get_args(annotation))
        if any(isinstance(part, type) and issubclass(part, Context) for part in parts):
            context_name = parameter.name
            continue
        _refuse(_parameter_problem(parameter, annotation), name)
        has_default = parameter.default is not inspect.Parameter.empty
        fields[parameter.name] = (annotation, parameter.default if has_default else ...)
    own = {
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "name": name,
        "function": staticmethod(function),
        "context_name": context_name,
        "Input": _input_type(name, function, fields),
        "Output": types_of.get("return"),
    }
    return type(function.__name__, (FunctionModel,), {**own, **attributes})


def _refuse(problem: str | None, name: str = "") -> None:
    if problem:
        raise InvalidModel(f"{name}: {problem}" if name else problem)


def _name_problem(name: str) -> str | None:
    if _NAME.fullmatch(name):
        return None
    return (
        f"{name!r} cannot name a model: use owner/name in lower-case letters, digits, '-', '_' "
        "and '.'"
    )


def _function_problem(function: Callable[..., Any]) -> str | None:
    if not inspect.isfunction(function):
        return "@swell.model goes above a function; for a class use Model"
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "the function is async; use a plain function, because each model has its own process"
    if inspect.isgeneratorfunction(function):
        return (
            "the function is a generator; return the result and report progress through "
            "ctx.progress and ctx.preview"
        )
    return None


def _parameter_problem(parameter: inspect.Parameter, annotation: Any) -> str | None:
    name = parameter.name
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"name each parameter instead of * {name}"
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return f"name each parameter instead of ** {name}"
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        return f"remove the '/' after parameter {name}"
    if annotation is None:
        return f"give parameter {name!r} a type, such as {name}: str"
    if name.startswith("_"):
        return f"parameter {name!r} may not begin with '_'"
    if isinstance(parameter.default, FieldInfo):
        return (
            f"move Field(…) of {name!r} into its type, {name}: Annotated[T, Field(…)] = default, "
            "so that a direct call works"
        )
    return None


def _input_type(name: str, function: Callable[..., Any], fields: dict[str, Any]) -> type[BaseModel]:
    title = "".join(part.capitalize() for part in re.split(r"[^a-z0-9]+", name)) + "Input"
    # Authors may use names such as `model_size` or `copy`: only `__dict__` is read.
    config = ConfigDict(extra="forbid", protected_namespaces=())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
            made: type[BaseModel] = pydantic.create_model(
                title, __config__=config, __module__=function.__module__, **fields
            )
        made.model_json_schema()
    except (PydanticUserError, TypeError, NameError) as error:
        culprit = next((name for name, (kind, _) in fields.items() if _schema(kind) is None), None)
        where = f"parameter {culprit!r}" if culprit else "the signature"
        reason = str(error).splitlines()[0]
        raise InvalidModel(
            f"{name}: the type of {where} cannot become a JSON Schema ({reason}). Use str, int, "
            "float, bool, Literal, list, dict, a pydantic model, swell.Image or swell.File"
        ) from error
    return made


def _schema(annotation: Any) -> dict[str, Any] | None:
    """Return the JSON Schema of values of a type; None if it has none."""
    try:
        return pydantic.TypeAdapter(annotation).json_schema(mode="serialization")
    except (PydanticUserError, TypeError, NameError):
        return None


# --- classes -------------------------------------------------------------------------------------


def define(source: Any) -> Definition:
    """Return the definition of a function under `@model` or of a class derived from `Model`.

    Raises:
        InvalidModel: It is neither, or the class is not complete.
    """
    definition = getattr(source, MARK, None)
    if isinstance(definition, Definition):
        return definition
    if isinstance(source, type) and issubclass(source, Model):
        return _define_class(source)
    raise InvalidModel(
        f"{getattr(source, '__name__', source)!r} is not a model: put @swell.model('owner/name') "
        "above a typed function, or derive a class from swell.Model"
    )


def _define_class(cls: type[Model]) -> Definition:
    input_type = _check_class(cls)
    input_schema = input_type.model_json_schema()
    step_bucket, step_rows = 0, 0
    if issubclass(cls, StepModel):
        step_bucket, step_rows = cls.bucket, max(cls.bucket, cls.most_rows)
    facts = ModelCard(
        name=cls.name,
        version="",
        description=inspect.cleandoc(cls.__doc__ or ""),
        input_schema=input_schema,
        output_schema=_output_schema(cls.Output),
        examples=_examples(input_type, input_schema, cls),
        stage=cls.stage,
        batch_by=cls.batch.by,
        max_batch=cls.batch.max,
        step_bucket=step_bucket,
        step_rows=step_rows,
        licence=cls.licence,
        credits=inspect.cleandoc(cls.credits),
        memory_bytes=cls.memory_bytes,
        price_micros=cls.price_micros,
        speed=list(cls.speed),
    )
    samples = _resolve(cls, "samples", [*cls.samples.values()])
    return Definition(
        facts,
        input_type,
        source=_file_of(cls),
        files=_resolve(cls, "files", cls.files),
        make=cls,
        samples=dict(zip(cls.samples, samples, strict=True)),
    )


def _check_class(cls: type[Model]) -> type[BaseModel]:
    """Check that a class is complete, and return its input type, which forbids unknown fields."""
    where = f"{cls.__module__}.{cls.__qualname__}"
    if not cls.name:
        raise InvalidModel(f"{where}: give it a name, such as name = 'owner/name'")
    _refuse(_name_problem(cls.name))
    input_type = getattr(cls, "Input", None)
    if not (isinstance(input_type, type) and issubclass(input_type, BaseModel)):
        raise InvalidModel(f"{cls.name}: write `class Input(pydantic.BaseModel): …` inside {where}")
    _refuse(_class_problem(cls, input_type, where), cls.name)
    if input_type.model_config.get("extra") is not None:
        return input_type
    named = {"__module__": input_type.__module__, "__doc__": input_type.__doc__}
    return type("Input", (input_type,), named, extra="forbid")


def _class_problem(cls: type[Model], input_type: type[BaseModel], where: str) -> str | None:
    if issubclass(cls, StepModel) and (problem := _step_problem(cls, where)):
        return problem
    if cls.run is Model.run:
        return f"write `def run(self, items)` in {where}"
    if (cls.offload is Model.offload) != (cls.onload is Model.onload):
        return f"write both `offload` and `onload` in {where}, or neither"
    batch: object = cls.batch
    if not isinstance(batch, Batch):
        return f"batch must be a swell.Batch, not {batch!r}"
    if unknown := [name for name in batch.by if name not in input_type.model_fields]:
        known = ", ".join(input_type.model_fields)
        return f"Batch(by=…) names {unknown[0]!r}; Input has {known}"
    price: object = cls.price_micros
    if not isinstance(price, int) or not 0 <= price <= MOST_PRICE_MICROS:
        return (
            f"price_micros = {price!r} must be whole millionths of a dollar, from 0 to "
            f"{MOST_PRICE_MICROS:_}: 40_000 are $0.04"
        )
    if wrong := wrong_pack(input_type.model_json_schema()):
        return (
            f"{wrong!r} has ui.pack() and must be a list with bounds: give it "
            "Field(min_length=1, max_length=…)"
        )
    return None


def _step_problem(cls: type[StepModel], where: str) -> str | None:
    if cls.run is not StepModel.run:
        return "a StepModel must not define `run`; derive from Model instead"
    for method in ("prepare", "denoise", "decode"):
        if getattr(cls, method) is getattr(StepModel, method):
            return f"write `def {method}(self, …)` in {where}"
    if cls.bucket < 1 or cls.most_rows < 1:
        return f"`bucket` and `most_rows` must be 1 or more in {where}"
    return None


def _output_schema(output: Any) -> dict[str, Any]:
    """Return the schema of a result; empty, which allows anything, if its type has none."""
    if output is None or output is type(None):
        return {}
    if isinstance(output, type) and issubclass(output, PIL.Image.Image):
        output = Image
    return _schema(output) or {}


def _file_of(cls: type) -> Path | None:
    try:
        found = inspect.getsourcefile(cls.function if issubclass(cls, FunctionModel) else cls)
    except TypeError:
        return None
    return Path(found) if found and Path(found).is_file() else None


def _resolve(cls: type[Model], attribute: str, files: Sequence[str | Path]) -> tuple[Path, ...]:
    """Return the files of an attribute, relative to the file of the class that sets it."""
    home = _file_of(next(each for each in cls.__mro__ if attribute in vars(each)))
    base = home.parent if home else Path()
    return tuple(base / path for path in files)


def _examples(
    input_type: type[BaseModel], schema: dict[str, Any], cls: type[Model]
) -> list[dict[str, Any]]:
    """Return the author's examples, checked, or one made from the schema if possible."""
    examples = [dict(each) for each in cls.examples] or [example_of(schema)]
    for example in examples:
        try:
            input_type.model_validate_json(json.dumps(example))
        except (TypeError, ValueError) as error:
            if not cls.examples:
                return []
            if not isinstance(error, pydantic.ValidationError):
                raise
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise InvalidModel(
                f"{cls.name}: its example breaks at {where}: {problem['msg']}"
            ) from None
    return examples
