"""How pipelines are declared: in Python, or in TOML.

    @swell.pipeline("acme/poster")
    class Poster:
        \"\"\"The docstring is the card, as with models.\"\"\"

        class Input(pydantic.BaseModel):
            prompt: str

        translate = swell.Stage("swell/translate", take={"prompt": "input.prompt"})
        draw = swell.Stage("swell/icons", take={"prompt": "stages.translate.output.text"})

`swell.core.pipeline_stages` documents references and conditions; `swell.sdk.pipeline_cards` makes
the model card of a pipeline.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, TypeVar

import msgspec
from pydantic import BaseModel

from swell.core.errors import InvalidModel, InvalidRequest, NotFound
from swell.core.pipeline_stages import (
    Path,
    Pipeline,
    StageOptions,
    parse_condition,
    parse_reference,
)
from swell.core.pipeline_stages import Stage as Planned
from swell.sdk.model_loader import import_file
from swell.sdk.pipeline_cards import OPTIONAL, Declared
from swell.sdk.toml_files import read_toml

ClassT = TypeVar("ClassT", bound=type)

#: Pipelines that come with Swell.
_BUILT_IN: Final = FilePath(__file__).parents[1] / "models" / "pipelines"

#: The attribute of a decorated class that holds the pipeline.
_MARK: Final = "__swell_pipeline__"


class Stage(StageOptions, frozen=True, forbid_unknown_fields=True):
    """A stage of a pipeline: one model.

    Args:
        model: `owner/name`, or `owner/name:version` for that version alone.
        take: Input field of the model → reference, or a list of references that makes a list.
        fixed: Input field of the model → its value, the same for all tasks.
        when: Condition: without it the stage is skipped.
        reject: Condition on the output of the stage: if it holds, the task fails here.
        reason: The text of that failure for the user: a reference, or words.
        counts: Whether this stage makes `count` samples of the task.
    """

    model: str
    #: In TOML. In Python it is the name of the attribute.
    name: str = ""


def pipeline(name: str) -> Callable[[ClassT], ClassT]:
    """Declare a class to be a pipeline.

    Its `Stage`s run in the order of their definition. `class Input(pydantic.BaseModel)` is
    the input. `output` is the output: a reference, or field → reference; the default is the output
    of the last stage. `examples` and `stage` are as with models.

    Args:
        name: `owner/name`, as with models.

    Raises:
        InvalidModel: It is not complete, or a reference or condition is wrong; the text says which.
    """

    def mark(cls: ClassT) -> ClassT:
        setattr(cls, _MARK, _of_class(name, cls))
        return cls

    return mark


def load_pipelines(ref: str) -> list[Declared]:
    """Return the pipelines in a file: Python (`chains.py`), or TOML (`chains.toml`).

    Args:
        ref: Its path, or a pipeline that comes with Swell, such as `swell/picture`.

    Raises:
        NotFound: There is no such file.
        InvalidModel: It holds none, or one that is not complete.
    """
    owner, _, name = ref.partition("/")
    built_in = _BUILT_IN / f"{name}.toml"
    path = built_in if owner == "swell" and built_in.is_file() else FilePath(ref)
    if path.suffix == ".toml":
        tables = read_toml(path, _Toml, "pipelines").pipelines
        found = [_of_table(*each) for each in tables.items()]
    elif path.suffix == ".py":
        classes = [value for value in vars(import_file(path)).values() if isinstance(value, type)]
        found = [vars(cls)[_MARK] for cls in classes if _MARK in vars(cls)]
    else:
        raise NotFound(f"{ref!r} holds no pipelines: give a file that ends in .toml or .py")
    if not found:
        raise InvalidModel(
            f"{ref} holds no pipeline: put @swell.pipeline('owner/name') above a class, or write "
            '[pipelines."owner/name"] in a .toml'
        )
    return found


# --- declaring -----------------------------------------------------------------------------------


def _of_class(name: str, cls: type) -> Declared:
    written = vars(cls)
    asked = written.get("Input")
    if not (isinstance(asked, type) and issubclass(asked, BaseModel)):
        raise InvalidModel(f"{name}: write `class Input(pydantic.BaseModel): …` inside it")
    return _checked(
        name,
        [(key, value) for key, value in written.items() if isinstance(value, Stage)],
        written.get("output", ""),
        description=inspect.cleandoc(cls.__doc__ or ""),
        input_schema={"additionalProperties": False} | asked.model_json_schema(),
        examples=list(written.get("examples", ())),
        stage=written.get("stage", "live"),
    )


class _TomlPipeline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    stages: Annotated[list[Stage], msgspec.Meta(min_length=1)]
    description: str = ""
    output: str | dict[str, str] = ""
    input: dict[str, dict[str, Any]] = {}
    examples: list[dict[str, Any]] = []
    stage: str = "live"


class _Toml(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pipelines: dict[str, _TomlPipeline]


def _of_table(name: str, table: _TomlPipeline) -> Declared:
    schema = {
        "type": "object",
        "properties": table.input,
        "required": [
            key
            for key, each in table.input.items()
            if not each.get(OPTIONAL) and "default" not in each
        ],
        "additionalProperties": False,
    }
    return _checked(
        name,
        [(each.name or f"stage{number}", each) for number, each in enumerate(table.stages, 1)],
        table.output,
        description=table.description,
        input_schema=schema,
        examples=table.examples,
        stage=table.stage,
    )


def _checked(name: str, written: Sequence[tuple[str, Stage]], output: Any, **card: Any) -> Declared:
    """Return a pipeline if its names, references and conditions are valid.

    Raises:
        InvalidModel: They are not.
    """
    if name.count("/") != 1 or not all(name.split("/")) or name != name.lower():
        raise InvalidModel(f"{name!r} cannot name a pipeline: use owner/name in lower-case letters")
    if not isinstance(output, str | dict):
        raise InvalidModel(f"{name}: output is a reference, or a table of field = reference")
    if not written:
        raise InvalidModel(f"{name}: it has no stage: write one with swell.Stage(…)")
    if card["stage"] not in ("trial", "canary", "live"):
        raise InvalidModel(f"{name}: stage is trial, canary or live, not {card['stage']!r}")
    stages = tuple(_planned(name, *each) for each in written)
    if sum(stage.counts for stage in stages) > 1:
        raise InvalidModel(f"{name}: only one stage may have counts = true")
    declared = Declared(name=name, pipeline=Pipeline(stages=stages, output=output), **card)
    before: list[str] = []
    for stage in stages:
        if stage.name in before:
            raise InvalidModel(f"{name}: two stages are called {stage.name!r}")
        _check_stage(declared, stage, before)
        before.append(stage.name)
    for reference in [output] if isinstance(output, str) else output.values():
        if reference:
            _check(declared, "output", before, parse_reference, reference)
    return declared


def _planned(name: str, key: str, stage: Stage) -> Planned:
    if not isinstance(stage.model, str) or stage.model.count("/") != 1:
        raise InvalidModel(
            f"{name}: stage {key!r}: {stage.model!r} names no model: write owner/name"
        )
    options = msgspec.structs.asdict(stage) | {"name": key}
    return Planned(queue=options.pop("model"), **options)


def _check_stage(declared: Declared, stage: Planned, before: Sequence[str]) -> None:
    where, known = f"stage {stage.name!r}", [*before, stage.name]
    if stage.model == declared.name:
        raise InvalidModel(f"{declared.name}: {where} is the pipeline itself")
    if both := set(stage.take) & set(stage.fixed):
        raise InvalidModel(f"{declared.name}: {where} both takes and fixes {min(both)!r}")
    for key, reference in stage.take.items():
        for each in [reference] if isinstance(reference, str) else reference:
            _check(declared, f"{where}, take.{key}", before, parse_reference, each)
    _check(declared, f"{where}, when", before, _paths_in, stage.when)
    _check(declared, f"{where}, reject", known, _paths_in, stage.reject)
    if stage.reason.startswith(("input.", "stages.")):
        _check(declared, f"{where}, reason", known, parse_reference, stage.reason)


def _paths_in(condition: str) -> list[Path]:
    return [test.path for test in parse_condition(condition)]


def _check(
    declared: Declared,
    where: str,
    before: Sequence[str],
    parse: Callable[[str], Sequence[Path]],
    text: str,
) -> None:
    """Check that a reference or condition names only input fields and stages that run before."""
    where = f"{declared.name}: {where}"
    try:
        paths = parse(text)
    except InvalidRequest as error:
        raise InvalidModel(f"{where}: {error.detail}") from error
    fields = declared.input_schema.get("properties", {})
    for path in paths:
        if path.stage and path.stage not in before:
            known = ", ".join(before) or "none"
            raise InvalidModel(
                f"{where}: no earlier stage is called {path.stage!r}; there are: {known}"
            )
        if not path.stage and str(path.steps[0]) not in fields:
            known = ", ".join(fields) or "none"
            raise InvalidModel(
                f"{where}: the input has no field {str(path.steps[0])!r}; there are: {known}"
            )
