"""Makes the model card of a declared pipeline.

Input and output of a pipeline are checked against the cards of its stages' models, so it has a card
once all of these have one. Its version is a hash of its plan and its schemas.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from swell.core.errors import InvalidModel, NotFound
from swell.core.pipeline_stages import Path, Pipeline, Stage, parse_reference
from swell.core.records import ModelCard
from swell.sdk.schema_examples import example_of

#: Keys in a property of an input's schema that are not JSON Schema: the `STAGE.FIELD` that it
#: copies its schema from, and whether it is optional without a default.
LIKE: Final = "like"
OPTIONAL: Final = "optional"


class Unknown(NotFound):
    """The model of a stage has no card yet, so the pipeline cannot have one."""


class Declared(ModelCard, frozen=True, kw_only=True):
    """A pipeline as its author wrote it, checked as far as possible without its models.

    Properties of the input's schema may copy the field of a stage with `like`.
    """

    version: str = ""
    pipeline: Pipeline


def card_of(declared: Declared, find: Callable[[str], ModelCard | None]) -> ModelCard:
    """Return the card of a pipeline.

    Args:
        declared: As its author wrote it.
        find: Returns the current card of `owner/name` or `owner/name:version`.

    Raises:
        Unknown: A stage's model has no card yet.
        InvalidModel: The input of a stage does not fit its model.
    """
    cards = {stage.name: _model_card(declared, stage, find) for stage in declared.pipeline.stages}
    schema = _input_schema(declared, cards)
    defaults = {
        key: each["default"]
        for key, each in schema["properties"].items()
        if each.get("default") is not None
    }
    plan = msgspec.structs.replace(declared.pipeline, defaults=defaults)
    check = _Check(declared.name, plan, schema, cards)
    for stage in plan.stages:
        check.check_stage(stage)
    output = check.output()
    content = msgspec.json.encode([plan, schema, output], order="deterministic")
    made = {
        "version": hashlib.sha256(content).hexdigest()[:12],
        "input_schema": schema,
        "output_schema": output,
        "examples": declared.examples or [example_of(schema)],
        "pipeline": plan,
    }
    return ModelCard(**msgspec.structs.asdict(declared) | made)


def _model_card(
    declared: Declared, stage: Stage, find: Callable[[str], ModelCard | None]
) -> ModelCard:
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
    return card


def _input_schema(declared: Declared, cards: Mapping[str, ModelCard]) -> dict[str, Any]:
    """Return the schema of the input, with the schemas that `like` copies from stages."""
    schema = dict(declared.input_schema)
    properties: dict[str, Any] = {}
    kinds: dict[str, Any] = dict(schema.get("$defs", {}))
    for key, written in schema.get("properties", {}).items():
        merged = dict(written)
        if LIKE in written:
            name, _, field = str(written[LIKE]).partition(".")
            source = cards[name].input_schema if name in cards else {}
            if field not in source.get("properties", {}):
                raise InvalidModel(
                    f"{declared.name}: input.{key} is like {written[LIKE]!r}: write STAGE.FIELD, a "
                    "field that the stage's model takes"
                )
            for kind, meaning in source.get("$defs", {}).items():
                if kinds.setdefault(kind, meaning) != meaning:
                    raise InvalidModel(
                        f"{declared.name}: input.{key}: two models mean different things by "
                        f"{kind!r}; write the field's schema out instead of like"
                    )
            merged = source["properties"][field] | written
        if written.get(OPTIONAL) and "default" not in written:
            merged.pop("default", None)
        properties[key] = {
            word: value for word, value in merged.items() if word not in (LIKE, OPTIONAL)
        }
    schema["properties"] = properties
    if "required" in schema:
        schema["required"] = [key for key in schema["required"] if "default" not in properties[key]]
    return schema | ({"$defs": kinds} if kinds else {})


@dataclass(frozen=True, slots=True)
class _Check:
    """Compares the inputs of stages with the schemas of their models."""

    name: str
    plan: Pipeline
    #: Of the pipeline's input.
    schema: dict[str, Any]
    #: Stage → card of its model.
    cards: Mapping[str, ModelCard]

    def check_stage(self, stage: Stage) -> None:
        """Check one stage.

        Raises:
            InvalidModel: Its model does not have a field, a required field is missing, or a value
                has another type.
        """
        schema = self.cards[stage.name].input_schema
        fields = schema.get("properties", {})
        given = [*stage.take, *stage.fixed]
        where = f"{self.name}: stage {stage.name!r}"
        unknown = [key for key in given if key not in fields]
        if unknown and fields and not schema.get("additionalProperties", True):
            raise InvalidModel(
                f"{where}: {stage.model} takes no {unknown[0]!r}; it takes {', '.join(fields)}"
            )
        for key in schema.get("required", []):
            reference = stage.take.get(key)
            if key not in given:
                raise InvalidModel(f"{where}: {stage.model} needs {key!r}: write take.{key}")
            if isinstance(reference, str) and not any(
                map(self._exists, parse_reference(reference))
            ):
                raise InvalidModel(
                    f"{where}: take.{key} may not be there, and {stage.model} needs it: add "
                    f"` or ` and what to take then"
                )
        for key, reference in stage.take.items():
            if isinstance(reference, str):
                kind = fields.get(key, {}).get("type")
                self._check_reference(f"{where}, take.{key}", reference, kind)

    def output(self) -> dict[str, Any]:
        """Return the schema of the pipeline's output, as far as it is known."""
        output, last = self.plan.output, self.plan.stages[-1]
        if not output:
            return {} if last.when else self.cards[last.name].output_schema
        if isinstance(output, str):
            return self._schema_of(output)
        kinds: dict[str, Any] = {}
        properties = {key: self._schema_of(reference) for key, reference in output.items()}
        for found in properties.values():
            kinds |= found.pop("$defs", {})
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        return schema | ({"$defs": kinds} if kinds else {})

    def _exists(self, path: Path) -> bool:
        """Whether a path has a value for every input."""
        if path.stage:
            return not any(each.when for each in self.plan.stages if each.name == path.stage)
        key = str(path.steps[0])
        field = self.schema.get("properties", {}).get(key, {})
        return key in self.schema.get("required", []) or "default" in field

    def _schema_of(self, reference: str) -> dict[str, Any]:
        """Return the schema of a reference; empty if it is unknown, or its paths differ."""
        found = [self._schema_at(path) for path in parse_reference(reference)]
        return found[0] if all(each == found[0] for each in found) else {}

    def _schema_at(self, path: Path) -> dict[str, Any]:
        if path.part == "artifacts":
            text = {"type": "string"}
            return text if path.steps else {"type": "array", "items": text}
        schema = self.cards[path.stage].output_schema if path.stage else self.schema
        kinds = schema.get("$defs", {})
        here = _resolved(schema, kinds)
        for step in path.steps:
            field = here.get("properties", {}).get(step)
            here = _resolved(here.get("items") if isinstance(step, int) else field, kinds)
        return {**here, "$defs": kinds} if kinds and here else dict(here)

    def _check_reference(self, where: str, reference: str, kind: Any) -> None:
        """Check that the outputs of stages have the named fields, and that types agree."""
        for path in parse_reference(reference):
            if path.stage and path.part == "output" and path.steps:
                fields = self._schema_at(Path(path.stage, "output", ())).get("properties")
                if fields and isinstance(path.steps[0], str) and path.steps[0] not in fields:
                    raise InvalidModel(
                        f"{where}: stage {path.stage!r} gives no {path.steps[0]!r}; it gives "
                        f"{', '.join(fields)}"
                    )
            given = self._schema_at(path).get("type")
            are_known = isinstance(given, str) and isinstance(kind, str)
            if are_known and given != kind and (given, kind) != ("integer", "number"):
                raise InvalidModel(
                    f"{where}: {reference!r} gives a value of the type {given}, and the model "
                    f"takes {kind}"
                )


def _resolved(schema: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema without a reference; empty if it is unknown."""
    if isinstance(schema, dict) and "$ref" in schema:
        schema = kinds.get(str(schema["$ref"]).removeprefix("#/$defs/"))
    return schema if isinstance(schema, dict) else {}
