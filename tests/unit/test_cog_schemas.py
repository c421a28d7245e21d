"""What cog says of its models, and how its images are run."""

from typing import Any

import pytest
from pydantic import ValidationError

from swell.core.errors import InvalidModel
from swell.engines.cog_schema import CogSchema, data_of
from swell.engines.cog_server import ContainerOptions, container_command
from swell.sdk.media import File


def document(properties: dict[str, Any], output: Any = None, **more: Any) -> dict[str, Any]:
    schemas = {"Input": {"type": "object", "properties": properties, **more}}
    return {"components": {"schemas": {**schemas, **({"Output": output} if output else {})}}}


def test_bounds_choices_and_defaults_hold() -> None:
    told = {
        "n": {"type": "integer", "minimum": 1, "maximum": 3, "default": 2},
        "scale": {"type": "number", "minimum": 0, "nullable": True},
        "tags": {"type": "array", "items": {"type": "string"}, "default": []},
        "kind": {"allOf": [{"$ref": "#/components/schemas/kind"}], "default": "b"},
        "extra": {"type": "object", "nullable": True},
    }
    openapi = document(told)
    openapi["components"]["schemas"]["kind"] = {"type": "string", "enum": ["a", "b"]}
    input_type = CogSchema("demo/a", openapi).input_type()
    assert input_type().model_dump() == {
        **{"n": 2, "scale": None, "tags": [], "kind": "b", "extra": None}
    }
    for wrong in ({"n": 4}, {"scale": -1}, {"tags": [1]}, {"kind": "c"}, {"other": 1}):
        with pytest.raises(ValidationError):
            input_type.model_validate(wrong)


def test_fields_come_in_their_order_and_keep_names_that_python_or_pydantic_has() -> None:
    told = {
        "json": {"type": "string", "x-order": 1},
        "class": {"type": "string", "x-order": 0},
        "model_id": {"type": "string", "x-order": 2},
    }
    input_type = CogSchema("demo/a", document(told)).input_type()
    assert list(input_type.model_json_schema()["properties"]) == ["class", "json", "model_id"]
    made = input_type.model_validate({"class": "a", "json": "b"})
    assert made.model_dump(by_alias=True) == {"class": "a", "json": "b", "model_id": None}


@pytest.mark.parametrize("wrong", [None, {}, {"components": {"schemas": {}}}, []])
def test_a_document_without_an_input_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidModel, match=r"components\.schemas\.Input"):
        CogSchema("demo/a", wrong)


PNG = "data:image/png;base64,AAAA"


def test_files_are_read_where_the_schema_has_them_and_nowhere_else() -> None:
    output = {
        "type": "object",
        "properties": {
            "picture": {"type": "string", "format": "uri"},
            "words": {"type": "string"},
        },
    }
    schema = CogSchema("demo/a", document({}, output))
    found = schema.output({"picture": PNG, "words": PNG, "more": ["x"]})
    assert isinstance(found["picture"], File)
    assert (found["picture"].read(), found["picture"].content_type) == (b"\0\0\0", "image/png")
    assert (found["words"], found["more"]) == (PNG, ["x"])


@pytest.mark.parametrize("uri", ["http://169.254.169.254/", "file:///etc/passwd", "data:,x"])
def test_nothing_that_a_model_names_is_fetched(uri: str) -> None:
    schema = CogSchema("demo/a", document({}, {"type": "string", "format": "uri"}))
    with pytest.raises(ValueError, match="data URI"):
        schema.output(uri)


def test_parts_of_a_text_become_one() -> None:
    output = {
        **{"type": "array", "items": {"type": "string"}},
        **{"x-cog-array-type": "iterator", "x-cog-array-display": "concatenate"},
    }
    schema = CogSchema("demo/a", document({}, output))
    assert schema.output_type is str
    assert schema.output(["a ", "fox"]) == "a fox"


def test_a_reference_to_itself_ends() -> None:
    openapi = document({"a": {"$ref": "#/components/schemas/a"}})
    openapi["components"]["schemas"]["a"] = {"allOf": [{"$ref": "#/components/schemas/a"}]}
    assert "a" in CogSchema("demo/a", openapi).input_type().model_fields


def test_a_data_uri_that_is_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        data_of("data:image/png;base64,AAA")


@pytest.mark.parametrize(
    ("engine", "device", "gpus", "words"),
    [
        ("/usr/bin/docker", "cuda:1", "", ["--gpus", "device=1"]),
        ("/usr/bin/docker", "cuda", "", ["--gpus", "all"]),
        ("/usr/bin/podman", "cuda:1", "", ["--device", "nvidia.com/gpu=1"]),
        ("/usr/bin/podman", "cpu", "all", ["--device", "nvidia.com/gpu=all"]),
        ("/usr/bin/docker", "cpu", "", []),
        ("/usr/bin/docker", "cuda:0", "none", []),
    ],
)
def test_a_container_gets_the_gpu_of_its_worker(
    engine: str, device: str, gpus: str, words: list[str]
) -> None:
    how = ContainerOptions(gpus=gpus)
    command = container_command(engine, "a:1", 8123, "name", device, how)
    assert command == [
        *(engine, "run", "--rm", "--name", "name"),
        *("--publish", "127.0.0.1:8123:5000", "--env", "PORT=5000"),
        *words,
        "a:1",
    ]


def test_on_the_network_of_the_machine_it_is_told_its_port() -> None:
    how = ContainerOptions(network="host", env_file="secrets", options=("--memory=8g",))
    command = container_command("podman", "a:1", 8123, "name", "cpu", how)
    assert command[5:] == [
        *("--network=host", "--env", "PORT=8123", "--env-file", "secrets", "--memory=8g", "a:1")
    ]
