"""@fal-ai/client, unmodified: `proxyUrl` brings all that it asks to one path."""

from collections.abc import Callable
from typing import Any

import pytest
from client_harness import Receiver, Served
from programs import Program

_BEGIN = """
import { fal } from "@fal-ai/client";
fal.config({ credentials: key, proxyUrl: { url: proxy, when: "always" } });
const slow = { prompt: "slow", num_inference_steps: 15, step_s: 0.1 };
"""


@pytest.fixture(scope="module")
def client(served: Served, javascript: Callable[..., Program]) -> Callable[..., Any]:
    program = javascript(served)

    def run(text: str, **values: Any) -> Any:
        return program(_BEGIN + text, key=served.key, proxy=f"{served.url}/fal/proxy", **values)

    return run


def test_run_and_subscribe_give_pictures(client: Callable[..., Any]) -> None:
    told = client(
        """
const input = { prompt: "a", image_size: "square", seed: 7 };
const made = await fal.run("demo/echo-picture", { input });
tell({ width: made.data.images[0].width, seed: made.data.seed, id: made.requestId.length });
const seen = [];
const result = await fal.subscribe("demo/echo-picture", {
    input: slow, logs: true, pollInterval: 100,
    onQueueUpdate: (update) => { if (!seen.includes(update.status)) seen.push(update.status); },
});
tell({ seen, n: result.data.images.length });
const read = await fetch(result.data.images[0].url);
tell({ kind: read.headers.get("content-type"), bytes: (await read.arrayBuffer()).byteLength });
const streamed = [];
const again = await fal.subscribe("demo/echo-picture", {
    input: slow, mode: "streaming", logs: true,
    onQueueUpdate: ({ status }) => { if (!streamed.includes(status)) streamed.push(status); },
});
tell({ streamed, again: again.data.images.length });
"""
    )
    assert (told["width"], told["seed"], told["id"]) == (512, 7, 32)
    assert told["seen"][-2:] == ["IN_PROGRESS", "COMPLETED"]
    assert told["streamed"][-2:] == ["IN_PROGRESS", "COMPLETED"]
    assert (told["n"], told["again"], told["kind"]) == (1, 1, "image/png")
    assert told["bytes"] > 0


def test_a_stream_shows_pictures_on_their_way(client: Callable[..., Any]) -> None:
    told = client(
        """
const input = { ...slow, num_inference_steps: 45 };
const stream = await fal.stream("demo/echo-picture", { input });
let partial = 0;
for await (const event of stream) if (event.partial) partial += 1;
const last = await stream.done();
tell({ partial, last: last.images[0].url.slice(0, 8) });
"""
    )
    assert told["partial"] >= 1
    assert told["last"] == "https://"


def test_files_are_uploaded_on_the_way(client: Callable[..., Any]) -> None:
    told = client(
        """
const input = { prompt: "a", image_size: "square" };
const made = await fal.run("demo/echo-picture", { input });
const bytes = await (await fetch(made.data.images[0].url)).arrayBuffer();
const file = new Blob([bytes], { type: "image/png" });
const edited = await fal.run("tests/edit", { input: { prompt: "a", image_url: file } });
tell({ width: edited.data.images[0].width });
"""
    )
    assert told == {"width": 512}


def test_requests_are_canceled(client: Callable[..., Any]) -> None:
    told = client(
        """
const { request_id } = await fal.queue.submit("demo/echo-picture", {
    input: { ...slow, num_inference_steps: 900 }, priority: "low",
});
await fal.queue.cancel("demo/echo-picture", { requestId: request_id });
let status;
do { status = await fal.queue.status("demo/echo-picture", { requestId: request_id }); }
while (status.status !== "COMPLETED");
tell({ type: status.error_type });
try { await fal.queue.cancel("demo/echo-picture", { requestId: request_id }); }
catch (error) { tell({ again: [error.status, error.body.status] }); }
"""
    )
    assert told == {"type": "request_canceled", "again": [400, "ALREADY_COMPLETED"]}


def test_errors_have_their_classes(client: Callable[..., Any]) -> None:
    told = client(
        """
const failed = async (name, app, input) => {
    try { await fal.run(app, { input: { prompt: "a", ...input } }); }
    catch (error) {
        const why = error.fieldErrors?.[0]?.msg ?? error.body.detail;
        tell({ [name]: [error.name, error.status, error.requestId.length > 0, why] });
    }
};
await failed("app", "demo/nothing", {});
await failed("field", "tests/moody", { prompt: 5 });
await failed("reject", "tests/moody", { prompt: "reject" });
await failed("broken", "tests/moody", { prompt: "break" });
"""
    )
    assert told["app"][:3] == ["ApiError", 404, True]
    assert told["field"][:3] == ["ValidationError", 422, True]
    assert told["reject"][:3] == ["ValidationError", 422, True]
    assert "not that" in told["reject"][3]
    assert told["broken"][:3] == ["ApiError", 500, True]


def test_webhooks_are_checked_with_the_keys_that_are_told(
    client: Callable[..., Any], receiver: Receiver
) -> None:
    client(
        """
await fal.queue.submit("demo/upper", { input: { text: "a" }, webhookUrl: url });
""",
        url=receiver.url,
    )
    receiver.wait_for(lambda bodies: len(bodies) >= 1)
    told = client(
        """
const [headers, body] = came;
const told = (name) => headers[`x-fal-webhook-${name}`];
const { keys } = await (await fetch(proxy.replace("/proxy", "/.well-known/jwks.json"))).json();
const isGood = async (text) => {
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
    const hex = Buffer.from(digest).toString("hex");
    const parts = [told("request-id"), told("user-id"), told("timestamp"), hex];
    const key = await crypto.subtle.importKey("jwk", keys[0], "Ed25519", false, ["verify"]);
    const signature = Buffer.from(told("signature"), "hex");
    const message = new TextEncoder().encode(parts.join("\\n"));
    return crypto.subtle.verify("Ed25519", key, signature, message);
};
const age = Math.abs(Date.now() / 1000 - Number(told("timestamp")));
tell({ good: await isGood(body), forged: await isGood(body + " "), age: age < 300 });
tell({ status: JSON.parse(body).status, output: JSON.parse(body).payload.output });
""",
        came=receiver.came[0],
    )
    assert told == {"good": True, "forged": False, "age": True, "status": "OK", "output": "A"}
