"""openai-node, unmodified."""

from collections.abc import Callable
from typing import Any

import pytest
from client_harness import Served
from programs import Program

_BEGIN = """
import OpenAI, { toFile } from "openai";
const client = new OpenAI();
const kind = (text) => Buffer.from(text, "base64").subarray(0, 4).toString("hex");
"""


@pytest.fixture(scope="module")
def client(served: Served, javascript: Callable[..., Program]) -> Callable[..., Any]:
    base = f"{served.url}/openai/v1"
    program = javascript(served, OPENAI_BASE_URL=base, OPENAI_API_KEY=served.key)

    def run(text: str, **values: Any) -> Any:
        return program(_BEGIN + text, **values)

    return run


def test_pictures_come_from_words_and_files(client: Callable[..., Any]) -> None:
    told = client(
        """
const made = await client.images.generate({
    model: "gpt-image-1", prompt: "a fox", size: "64x32", seed: 7,
});
tell({ kind: kind(made.data[0].b64_json), size: made.size, seed: made.swell.seed });
const bytes = Buffer.from(made.data[0].b64_json, "base64");
const file = await toFile(bytes, "a.png", { type: "image/png" });
const edited = await client.images.edit({ model: "tests/edit", image: [file], prompt: "a" });
const alone = await client.images.edit({
    model: "tests/edit", image: file, mask: file, prompt: "a",
});
tell({ edited: edited.size, alone: alone.size });
"""
    )
    assert told == {
        "kind": "89504e47",
        "size": "64x32",
        "seed": 7,
        "edited": "64x32",
        "alone": "64x32",
    }


def test_a_stream_tells_what_happens(client: Callable[..., Any]) -> None:
    told = client(
        """
const stream = await client.images.generate({
    model: "demo/echo-picture", prompt: "a", stream: true, partial_images: 1,
    steps: 45, step_s: 0.1,
});
const types = [];
for await (const event of stream) types.push(event.type);
tell({ types });
"""
    )
    assert told["types"] == ["image_generation.partial_image", "image_generation.completed"]


def test_errors_have_their_classes(client: Callable[..., Any]) -> None:
    told = client(
        """
const failed = async (name, fields) => {
    try { await client.images.generate({ model: "tests/moody", prompt: "a", ...fields }); }
    catch (error) {
        tell({ [name]: [error.constructor.name, error.status, error.code, error.message] });
    }
};
await failed("model", { model: "dall-e-9" });
await failed("reject", { prompt: "reject" });
await failed("broken", { prompt: "break" });
const ids = [];
for await (const model of client.models.list()) ids.push(model.id);
tell({ ids });
"""
    )
    assert told["model"][:3] == ["NotFoundError", 404, "model_not_found"]
    assert told["reject"][:2] == ["BadRequestError", 400]
    assert "not that" in told["reject"][3]
    assert told["broken"][:2] == ["InternalServerError", 500]
    assert "swell/icons" in told["ids"]
