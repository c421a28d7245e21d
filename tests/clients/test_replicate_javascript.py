"""replicate-javascript (1.4.0), unmodified."""

from collections.abc import Callable
from typing import Any

import pytest
from client_harness import Receiver, Served
from programs import Program

_BEGIN = """
import Replicate, { validateWebhook } from "replicate";
import util from "replicate/lib/util.js";
const replicate = new Replicate({ baseUrl: base });
const read = async (file) => Buffer.from(await (await file.blob()).arrayBuffer());
"""

#: A picture of 3 x 2 pixels.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAFElEQVR4nGP8z8Dwn4GBgYkBCmAMAB5EAgNZ1pFJ"
    "AAAAAElFTkSuQmCC"
)


@pytest.fixture(scope="module")
def client(served: Served, javascript: Callable[..., Program]) -> Callable[..., Any]:
    program = javascript(served, REPLICATE_API_TOKEN=served.key)

    def run(text: str, **values: Any) -> Any:
        return program(_BEGIN + text, **({"base": f"{served.url}/replicate/v1"} | values))

    return run


def test_run_waits_and_gives_files_that_can_be_read(client: Callable[..., Any]) -> None:
    told = client(
        """
        const made = await replicate.run("swell/icons", { input: { prompt: "a fox", seed: 7 } });
        const file = Array.isArray(made) ? made[0] : made;
        tell({ url: String(file.url()), data: (await read(file)).subarray(0, 4).toString("hex") });
        const version = (await replicate.models.get("demo", "upper")).latest_version.id;
        tell({ out: await replicate.run(`demo/upper:${version}`, { input: { text: "hello" } }) });
        """
    )
    assert told["url"].startswith("https://")
    assert told["data"] in ("89504e47", "52494646")  # PNG or WebP
    assert told["out"] == "HELLO"


def test_a_wait_that_is_too_short_is_followed_by_polling_with_progress(
    client: Callable[..., Any],
) -> None:
    told = client(
        """
        const statuses = [], steps = [];
        const file = await replicate.run(
            "demo/echo-picture",
            { input: { steps: 60, step_s: 0.1 }, wait: { mode: "block", timeout: 1 } },
            (p) => {
                statuses.push(p.status);
                const bar = util.parseProgressFromLogs(p);
                if (bar) steps.push(bar.current);
            },
        );
        tell({ size: (await read(file)).length, statuses, steps });
        """
    )
    assert told["size"] > 0
    assert told["statuses"][0] == "starting"
    assert told["statuses"][-1] == "succeeded"
    assert "processing" in told["statuses"]
    assert any(0 < step < 60 for step in told["steps"])


def test_a_prediction_is_canceled(client: Callable[..., Any]) -> None:
    told = client(
        """
        let p = await replicate.predictions.create({
            model: "demo/echo-picture", input: { steps: 600, step_s: 0.1 },
        });
        const first = p.status;
        while (p.status === "starting") p = await replicate.predictions.get(p.id);
        await replicate.predictions.cancel(p.id);
        tell({ first, status: (await replicate.wait(p, { interval: 100 })).status });
        const output = await replicate.run(
            "demo/echo-picture",
            { input: { steps: 600, step_s: 0.1 }, wait: { mode: "poll", interval: 50 } },
            async (p) => {
                if (p.status === "processing") await replicate.predictions.cancel(p.id);
            },
        );
        tell({ output });
        """
    )
    assert told == {"first": "starting", "status": "canceled", "output": None}


def test_a_prediction_is_streamed_without_a_key(client: Callable[..., Any]) -> None:
    told = client(
        """
        const events = [];
        for await (const each of replicate.stream("demo/echo-picture",
                { input: { steps: 30, step_s: 0.1 } })) {
            events.push([each.event, each.id, each.data]);
        }
        let text = "";
        for await (const each of replicate.stream("demo/upper", { input: { text: "hello" } })) {
            text += String(each);
        }
        tell({ events, text });
        """
    )
    kinds = [kind for kind, _, _ in told["events"]]
    assert kinds[-2:] == ["output", "done"]
    assert set(kinds) <= {"logs", "output", "done"}
    assert "logs" in kinds
    assert all(place for _, place, _ in told["events"])
    assert told["text"] == "HELLO"


def test_files_go_in_as_uploads_and_as_data_uris(client: Callable[..., Any]) -> None:
    told = client(
        """
        const data = Buffer.from(png, "base64");
        const image = new File([data], "a.png", { type: "image/png" });
        // Its own strategy for this, "data-uri", sends the client itself as the input (1.4.0).
        const inline = `data:image/png;base64,${png}`;
        tell({
            uploaded: await replicate.run("tests/measure", { input: { image } }),
            inline: await replicate.run("tests/measure", { input: { image: inline } }),
        });
        const file = await replicate.files.create(image, { of: "me" });
        const same = await replicate.files.get(file.id);
        const listed = (await replicate.files.list()).results.map((each) => each.id);
        const gone = await replicate.files.delete(file.id);
        tell({ file, same: same.id === file.id, listed: listed.includes(file.id), gone });
        """,
        png=PNG,
    )
    assert told["uploaded"][:2] == ["3", "2"]
    assert told["inline"][:2] == ["3", "2"]
    assert (told["file"]["name"], told["file"]["content_type"]) == ("a.png", "image/png")
    assert told["file"]["metadata"] == {"of": "me"}
    assert told["same"]
    assert told["listed"]
    assert told["gone"]


def test_errors_say_what_is_wrong(client: Callable[..., Any]) -> None:
    told = client(
        """
        const found = [];
        for (const [model, input] of [["demo/none", {}], ["demo/upper", { text: 5 }]]) {
            try {
                await replicate.run(model, { input });
            } catch (error) {
                found.push([error.name, error.response.status, error.message]);
            }
        }
        try {
            await replicate.run("demo/crash", { input: { how: "reject" } });
        } catch (error) {
            tell({ failed: error.message });
        }
        tell({ found });
        """
    )
    assert [each[:2] for each in told["found"]] == [["ApiError", 404], ["ApiError", 422]]
    assert "demo/none" in told["found"][0][2]
    assert told["failed"].startswith("Prediction failed: ")


def test_lists_go_on_from_page_to_page(client: Callable[..., Any]) -> None:
    told = client(
        """
        const made = await Promise.all(Array.from({ length: 110 }, () =>
            replicate.predictions.create({ model: "demo/noop", input: {} })));
        const seen = new Set();
        let pages = 0;
        for await (const page of replicate.paginate(replicate.predictions.list)) {
            pages += 1;
            for (const each of page) seen.add(each.id);
        }
        tell({ all: made.every((each) => seen.has(each.id)), pages });
        """
    )
    assert told["all"]
    assert told["pages"] >= 2


def test_what_stands_around_models_is_read(client: Callable[..., Any]) -> None:
    told = client(
        """
        const found = (await replicate.models.search("upper")).results;
        const versions = (await replicate.models.versions.list("demo", "upper")).results;
        const version = await replicate.models.versions.get("demo", "upper", versions[0].id);
        const p = await replicate.deployments.predictions.create("demo", "upper", {
            input: { text: "a" }, wait: true,
        });
        tell({
            found: found.map((each) => each.name),
            schemas: Object.keys(version.openapi_schema.components.schemas),
            account: (await replicate.accounts.current()).username,
            hardware: (await replicate.hardware.list()).map((each) => each.sku),
            collection: (await replicate.collections.get("demo")).models.map((each) => each.name),
            release: (await replicate.deployments.get("demo", "upper")).current_release.model,
            out: p.output,
            secret: (await replicate.webhooks.default.secret.get()).key,
        });
        """
    )
    assert told["found"] == ["upper"]
    assert {"Input", "Output"} <= set(told["schemas"])
    assert told["account"]
    assert told["hardware"]
    assert "upper" in told["collection"]
    assert told["release"] == "demo/upper"
    assert told["out"] == "A"
    assert told["secret"].startswith("whsec_")


def test_deployments_are_made_changed_and_deleted(client: Callable[..., Any]) -> None:
    told = client(
        """
        const version = (await replicate.models.get("demo", "upper")).latest_version.id;
        const { owner, name } = await replicate.deployments.create({
            name: "js", model: "demo/upper", version, min_instances: 0, max_instances: 100,
        });
        const changed = await replicate.deployments.update(owner, name, { version });
        const gone = await replicate.deployments.delete(owner, name);
        tell({ number: changed.current_release.number, gone });
        """
    )
    assert told == {"number": 2, "gone": True}


def test_a_base_url_without_v1_means_the_same(served: Served, client: Callable[..., Any]) -> None:
    told = client(
        'tell({ out: await replicate.run("demo/upper", { input: { text: "a" } }) });',
        base=f"{served.url}/replicate",
    )
    assert told["out"] == "A"


def test_webhooks_are_validated(client: Callable[..., Any], receiver: Receiver) -> None:
    client(
        """
        await replicate.run("demo/upper", {
            input: { text: "a" }, webhook: url, webhook_events_filter: ["completed"],
        });
        """,
        url=receiver.url,
    )
    receiver.wait_for(lambda bodies: len(bodies) >= 1)
    told = client(
        """
        const { key } = await replicate.webhooks.default.secret.get();
        const [headers, body] = came;
        tell({
            good: await validateWebhook({ headers, body }, key),
            forged: await validateWebhook({ headers, body: body + " " }, key),
        });
        """,
        came=receiver.came[0],
    )
    assert told == {"good": True, "forged": False}
