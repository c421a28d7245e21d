"""Makes the model card of a declared pipeline.

Input and output of a pipeline are checked against the cards of its stages' models, so it has a card
once all of these have one. Its version is a hash of its plan and its schemas.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from swell.errors import InvalidModel, NotFound
from swell.registry import ModelCard
from swell.sdk.schema_examples import example_of
from swell.stages import Path, Pipeline, Stage, parse_reference

#: Keys in a property of an input's schema that are not JSON Schema: the `STAGE.FIELD` that it
#: copies its schema from, and whether it is optional without a default.
LIKE: Final = "like"
OPTIONAL: Final = "optional"

#: Pairs of JSON types: the first is valid for the second.
_GOES_AS: Final = {("integer", "number")}


class Unknown(NotFound):
    """The model of a stage has no card yet, so the pipeline cannot have one."""


@dataclass(frozen=True, slots=True)
class Declared:
    """A pipeline as its author wrote it, checked as far as possible without its models."""

    name: str
    description: str
    plan: Pipeline
    #: JSON Schema of the input; a property may copy the field of a stage with `like`.
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None = None
    examples: Sequence[Mapping[str, Any]] = ()
    stage: str = "live"


def card_of(declared: Declared, find: Callable[[str], ModelCard | None]) -> ModelCard:
    """Return the card of a pipeline.

    Args:
        declared: As its author wrote it.
        find: Returns the current card of `owner/name` or `owner/name:version`.

    Raises:
        Unknown: A stage's model has no card yet.
        InvalidModel: The input of a stage does not fit its model.
    """
    cards: dict[str, ModelCard] = {}
    for stage in declared.plan.stages:
        card = find(stage.queue)
        if card is None:
            raise Unknown(
                f"{declared.name} waits for {stage.queue}, the model of its stage {stage.name!r}: "
                "start a worker with it"
            )
        if card.pipeline is not None:
            raise InvalidModel(
                f"{declared.name}: stage {stage.name!r}: {stage.queue} is a pipeline itself: name "
                "its stages here"
            )
        cards[stage.name] = card
    schema = _input_schema(declared, cards)
    plan = msgspec.structs.replace(declared.plan, defaults=_defaults(schema))
    check = _Check(declared, schema, cards)
    for stage in plan.stages:
        check.stage(stage)
    output = declared.output_schema
    if output is None:
        output = check.output()
    content = msgspec.json.encode([plan, schema, output], order="deterministic")
    examples = [dict(each) for each in declared.examples] or [example_of(schema)]
    return ModelCard(
        name=declared.name,
        version=hashlib.sha256(content).hexdigest()[:12],
        description=declared.description,
        input_schema=schema,
        output_schema=dict(output),
        examples=examples,
        stage=declared.stage,
        pipeline=plan,
    )


def _input_schema(declared: Declared, cards: Mapping[str, ModelCard]) -> dict[str, Any]:
    """Return the schema of the input, with the schemas that `like` copies from stages."""
    schema = dict(declared.input_schema)
    properties: dict[str, Any] = {}
    kinds: dict[str, Any] = dict(schema.get("$defs", {}))
    for key, told in schema.get("properties", {}).items():
        if LIKE not in told:
            properties[key] = told
            continue
        own = {word: value for word, value in told.items() if word not in (LIKE, OPTIONAL)}
        name, _, field_name = str(told[LIKE]).partition(".")
        card = cards.get(name)
        like = None if card is None else card.input_schema.get("properties", {}).get(field_name)
        if card is None or like is None:
            raise InvalidModel(
                f"{declared.name}: input.{key} is like {told[LIKE]!r}: write STAGE.FIELD, a field "
                "that the stage's model takes"
            )
        for kind, meaning in card.input_schema.get("$defs", {}).items():
            if kinds.setdefault(kind, meaning) != meaning:
                raise InvalidModel(
                    f"{declared.name}: input.{key}: two models mean different things by {kind!r}; "
                    "write the field's schema out instead of like"
                )
        if told.get(OPTIONAL):
            like = {word: value for word, value in like.items() if word != "default"}
        properties[key] = {**like, **own}
    schema["properties"] = properties
    if "required" in schema:
        schema["required"] = [key for key in schema["required"] if "default" not in properties[key]]
    return schema | ({"$defs": kinds} if kinds else {})


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {
        key: each["default"] for key, each in properties.items() if each.get("default") is not None
    }


class _Check:
    """Compares the inputs of stages with the schemas of their models."""

    def __init__(
        self, declared: Declared, schema: Mapping[str, Any], cards: Mapping[str, ModelCard]
    ) -> None:
        self._name = declared.name
        self._plan = declared.plan
        self._schema = schema
        self._cards = cards
        self._sure = {stage.name for stage in declared.plan.stages if not stage.when}

    def stage(self, stage: Stage) -> None:
        """Check one stage.

        Raises:
            InvalidModel: Its model does not have a field, a required field is missing, or a value
                has another type.
        """
        asked = self._cards[stage.name].input_schema
        fields = asked.get("properties", {})
        given = [*stage.take, *stage.fixed]
        where = f"{self._name}: stage {stage.name!r}"
        if fields and not asked.get("additionalProperties", True):
            for key in given:
                if key not in fields:
                    raise InvalidModel(
                        f"{where}: {stage.model} takes no {key!r}; it takes {', '.join(fields)}"
                    )
        for key in asked.get("required", []):
            reference = stage.take.get(key)
            if key not in given:
                raise InvalidModel(f"{where}: {stage.model} needs {key!r}: write take.{key}")
            if isinstance(reference, str) and not self._is_sure(parse_reference(reference)):
                raise InvalidModel(
                    f"{where}: take.{key} may not be there, and {stage.model} needs it: add "
                    f"` or ` and what to take then"
                )
        for key, reference in stage.take.items():
            if isinstance(reference, str):
                self._check_kind(f"{where}, take.{key}", reference, fields.get(key, {}))

    def output(self) -> dict[str, Any]:
        """Return the schema of the pipeline's output, as far as it is known."""
        asked, stages = self._plan.output, self._plan.stages
        if not asked:
            last = stages[-1]
            return {} if last.when else self._cards[last.name].output_schema
        if isinstance(asked, str):
            return self._schema_of(parse_reference(asked))
        kinds: dict[str, Any] = {}
        properties = {}
        for key, reference in asked.items():
            found = self._schema_of(parse_reference(reference))
            kinds |= found.get("$defs", {})
            properties[key] = {word: each for word, each in found.items() if word != "$defs"}
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        return schema | ({"$defs": kinds} if kinds else {})

    def _is_sure(self, paths: Sequence[Path]) -> bool:
        """Whether one of these paths surely exists for every input."""
        properties = self._schema.get("properties", {})
        for path in paths:
            if path.stage and path.stage in self._sure:
                return True
            key = str(path.steps[0]) if path.steps else ""
            if not path.stage and (
                key in self._schema.get("required", []) or "default" in properties.get(key, {})
            ):
                return True
        return False

    def _schema_of(self, paths: Sequence[Path]) -> dict[str, Any]:
        """Return the schema of a reference; empty if it is unknown, or its paths differ."""
        found = [self._schema_at(path) for path in paths]
        return found[0] if all(each == found[0] for each in found) else {}

    def _schema_at(self, path: Path) -> dict[str, Any]:
        if path.part == "artifacts":
            text = {"type": "string"}
            return text if path.steps else {"type": "array", "items": text}
        schema = self._cards[path.stage].output_schema if path.stage else self._schema
        kinds = schema.get("$defs", {})
        here: Any = schema
        for step in path.steps:
            here = _resolved(here, kinds)
            here = (
                here.get("items", {})
                if isinstance(step, int)
                else here.get("properties", {}).get(step, {})
            )
            if not isinstance(here, dict):
                return {}
        here = _resolved(here, kinds)
        return {**here, "$defs": kinds} if kinds and here else dict(here)

    def _check_kind(self, where: str, reference: str, wanted: Mapping[str, Any]) -> None:
        for path in parse_reference(reference):
            self._check_is_given(where, path)
            given = self._schema_at(path).get("type")
            kind = _resolved(wanted, {}).get("type")
            if not (isinstance(given, str) and isinstance(kind, str)):
                continue
            if given != kind and (given, kind) not in _GOES_AS:
                raise InvalidModel(
                    f"{where}: {reference!r} gives a value of the type {given}, and the model "
                    f"takes {kind}"
                )

    def _check_is_given(self, where: str, path: Path) -> None:
        """Check that a stage's output has the named field, if the model has an output schema."""
        if path.stage and path.part == "output" and path.steps:
            schema = self._cards[path.stage].output_schema
            fields = _resolved(schema, schema.get("$defs", {})).get("properties")
            if fields and isinstance(path.steps[0], str) and path.steps[0] not in fields:
                raise InvalidModel(
                    f"{where}: stage {path.stage!r} gives no {path.steps[0]!r}; it gives "
                    f"{', '.join(fields)}"
                )


def _resolved(schema: Mapping[str, Any], kinds: Mapping[str, Any]) -> Mapping[str, Any]:
    ref = schema.get("$ref")
    if isinstance(ref, str):
        found = kinds.get(ref.removeprefix("#/$defs/"), {})
        return found if isinstance(found, dict) else {}
    return schema
