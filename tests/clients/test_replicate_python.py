"""replicate-python, the released one (1.0.7) and the coming one (2.0 beta), unmodified."""

import itertools
from collections.abc import Callable
from datetime import datetime

import pytest
from client_harness import Receiver, Served
from programs import Program

#: A picture of 3 x 2 pixels.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAFElEQVR4nGP8z8Dwn4GBgYkBCmAMAB5EAgNZ1pFJ"
    "AAAAAElFTkSuQmCC"
)


@pytest.fixture(scope="module")
def one(served: Served, python: Callable[..., Program]) -> Program:
    return python(
        "python",
        served,
        REPLICATE_BASE_URL=f"{served.url}/replicate",
        REPLICATE_API_TOKEN=served.key,
        REPLICATE_POLL_INTERVAL="0.1",
    )


@pytest.fixture(scope="module")
def two(served: Served, python: Callable[..., Program]) -> Program:
    return python(
        "replicate-2",
        served,
        REPLICATE_BASE_URL=f"{served.url}/replicate/v1",
        REPLICATE_API_TOKEN=served.key,
        REPLICATE_POLL_INTERVAL="0.1",
    )


def test_run_waits_and_gives_files_that_can_be_read(one: Program, two: Program) -> None:
    for program in (one, two):
        told = program(
            """
            import replicate
            made = replicate.run("swell/icons", input={"prompt": "a red fox", "seed": 7})
            if isinstance(made, list): made = made[0]
            tell(kind=type(made).__name__, url=made.url, data=made.read()[:4].hex())
            """
        )
        assert told["kind"] == "FileOutput"
        assert told["url"].startswith("https://")
        assert told["data"] in ("89504e47", "52494646")  # PNG or WebP


def test_run_of_a_version_gets_the_same(one: Program, two: Program) -> None:
    for program in (one, two):
        told = program(
            """
            import replicate
            model = replicate.models.get(**who)
            version = model.latest_version.id
            out = replicate.run(f"demo/upper:{version}", input={"text": "hello"})
            tell(out=out, version=version)
            """,
            who=(
                {"key": "demo/upper"}
                if program is one
                else {"model_owner": "demo", "model_name": "upper"}
            ),
        )
        assert told["out"] == "HELLO"


def test_a_wait_that_is_too_short_is_followed_by_polling(one: Program, two: Program) -> None:
    for program in (one, two):
        told = program(
            """
            import replicate
            made = replicate.run(
                "demo/echo-picture", input={"steps": 12, "step_s": 0.1}, wait=1
            )
            tell(kind=type(made).__name__)
            """
        )
        assert told["kind"] == "FileOutput"


def test_run_without_a_wait_polls_from_the_start(one: Program) -> None:
    told = one(
        """
        import replicate
        tell(out=replicate.run("demo/upper", input={"text": "a"}, wait=False))
        """
    )
    assert told["out"] == "A"


def test_a_prediction_shows_its_progress_and_its_times(one: Program) -> None:
    told = one(
        """
        import time, replicate
        p = replicate.predictions.create(
            model="demo/echo-picture", input={"steps": 20, "step_s": 0.1}
        )
        first = p.status
        seen = []
        while p.status not in ("succeeded", "failed", "canceled"):
            time.sleep(0.1)
            p.reload()
            if p.progress is not None: seen.append((p.progress.current, p.progress.total))
        tell(first=first, seen=seen, status=p.status, last=p.progress.percentage,
             metrics=p.metrics, urls=sorted(p.urls), version=p.version, model=p.model)
        """
    )
    assert told["first"] == "starting"
    assert told["status"] == "succeeded"
    assert told["model"] == "demo/echo-picture"
    assert told["version"]
    steps = [current for current, total in told["seen"] if total == 20]
    assert steps == sorted(steps)
    assert any(0 < each < 20 for each in steps)
    assert told["last"] == 1.0
    assert told["metrics"]["predict_time"] > 1
    assert told["urls"] == ["cancel", "get", "stream", "web"]


def test_a_running_prediction_is_canceled(one: Program, two: Program) -> None:
    told = one(
        """
        import time, replicate
        p = replicate.predictions.create(
            model="demo/echo-picture", input={"steps": 600, "step_s": 0.1}
        )
        while p.status == "starting":
            time.sleep(0.05)
            p.reload()
        p.cancel()
        p.wait()
        tell(status=p.status, output=p.output)
        """
    )
    assert told == {"status": "canceled", "output": None}
    told = two(
        """
        import replicate
        p = replicate.predictions.create(
            version="demo/echo-picture", input={"steps": 600, "step_s": 0.1}
        )
        replicate.predictions.cancel(prediction_id=p.id)
        tell(status=replicate.predictions.wait(p.id).status)
        """
    )
    assert told["status"] == "canceled"


def test_a_prediction_is_streamed(one: Program) -> None:
    told = one(
        """
        import replicate
        events = [
            (e.event.value, str(e.data))
            for e in replicate.stream("demo/echo-picture", input={"steps": 30, "step_s": 0.1})
        ]
        words = [str(e) for e in replicate.stream("demo/upper", input={"text": "hello"})]
        tell(events=events, text="".join(words))
        """
    )
    kinds = [kind for kind, _ in told["events"]]
    assert kinds[-2:] == ["output", "done"]
    assert set(kinds) <= {"logs", "output", "done"}
    assert "logs" in kinds
    assert told["events"][-2][1].startswith("https://")
    assert told["text"] == "HELLO"


def test_each_output_is_streamed_when_it_is_there_and_once(one: Program) -> None:
    told = one(
        """
        import time, replicate
        asked = {"steps": 1, "step_s": 1.6, "width": 32, "height": 32, "num_outputs": 3}
        events = [
            (e.event.value, str(e.data), time.monotonic())
            for e in replicate.stream("demo/echo-picture", input=asked)
        ]
        tell(events=events)
        """
    )
    outputs = [(data, at) for kind, data, at in told["events"] if kind == "output"]
    assert len({data.partition("?")[0] for data, _ in outputs}) == len(outputs) == 3
    assert outputs[-1][1] - outputs[0][1] > 0.5, "they all came at the end"


def test_a_stream_that_fails_raises(one: Program) -> None:
    told = one(
        """
        import replicate
        try:
            list(replicate.stream("demo/crash", input={"how": "reject"}))
        except RuntimeError as error:
            tell(error=str(error))
        """
    )
    assert told["error"]


def test_files_go_in_as_uploads_and_as_data_uris(one: Program, two: Program) -> None:
    for program in (one, two):
        told = program(
            """
            import base64, io, replicate
            def picture():
                data = io.BytesIO(base64.b64decode(png))
                data.name = "a.png"
                return data
            uploaded = replicate.run("tests/measure", input={"image": picture()})
            inline = replicate.run(
                "tests/measure", input={"image": picture()}, file_encoding_strategy="base64"
            )
            tell(uploaded=uploaded, inline=inline)
            """,
            png=PNG,
        )
        assert told["uploaded"][:2] == ["3", "2"]
        assert told["inline"][:2] == ["3", "2"]


def test_an_output_goes_in_again(one: Program) -> None:
    told = one(
        """
        import replicate
        made = replicate.run("demo/echo-picture", input={"width": 64, "height": 32})
        tell(size=replicate.run("tests/measure", input={"image": made.url}))
        """
    )
    assert told["size"][:2] == ["64", "32"]


def test_files_are_kept_listed_and_deleted(one: Program, two: Program) -> None:
    told = one(
        """
        import io, replicate
        f = replicate.files.create(
            io.BytesIO(b"hello"), filename="hello.txt", content_type="text/plain",
            metadata={"of": "me"},
        )
        same = replicate.files.get(f.id)
        listed = [each.id for each in replicate.files.list()]
        gone = replicate.files.delete(f.id)
        try:
            replicate.files.get(f.id)
        except replicate.exceptions.ReplicateError as error:
            tell(status=error.status)
        tell(name=f.name, size=f.size, type=f.content_type, metadata=f.metadata,
             sums=f.checksums, same=same == f, listed=f.id in listed, gone=gone)
        """
    )
    assert told["status"] == 404
    assert told["same"]
    assert told["listed"]
    assert told["gone"]
    assert (told["name"], told["size"], told["type"]) == ("hello.txt", 5, "text/plain")
    assert told["metadata"] == {"of": "me"}
    assert told["sums"]["sha256"].startswith("2cf24dba5fb0a30e26e83b2ac5b9e29e")
    told = two(
        """
        import replicate
        f = replicate.files.create(content=b"hello", filename="b.txt", type="text/plain")
        listed = [each.id for each in replicate.files.list()]
        replicate.files.delete(file_id=f.id)
        tell(type=f.content_type, listed=f.id in listed, at=f.created_at)
        """
    )
    assert told["type"] == "text/plain"
    assert told["listed"]


def test_several_outputs_are_a_list_of_files(one: Program) -> None:
    told = one(
        """
        import replicate
        made = replicate.run("demo/echo-picture", input={"num_outputs": 3, "prompt": "a"})
        tell(kinds=[type(each).__name__ for each in made], read=[len(f.read()) for f in made])
        """
    )
    assert told["kinds"] == ["FileOutput"] * 3
    assert all(told["read"])


def test_errors_have_all_their_fields(one: Program, two: Program) -> None:
    told = one(
        """
        import replicate
        from replicate.exceptions import ModelError, ReplicateError
        found = []
        for model, value in (
            ("demo/none", {}), ("demo/upper", {"text": 5}), ("demo/upper", {"tekst": "a"})
        ):
            try:
                replicate.run(model, input=value)
            except ReplicateError as error:
                found.append([error.status, error.title, error.detail, error.instance, error.type])
        try:
            replicate.Client(api_token="wrong", base_url=base).run("demo/upper", input={})
        except ReplicateError as error:
            found.append([error.status, error.title, error.detail, error.instance, error.type])
        try:
            replicate.run("demo/crash", input={"how": "reject"})
        except ModelError as error:
            tell(model_error=str(error), status=error.prediction.status)
        tell(found=found)
        """,
        base=one.variables["REPLICATE_BASE_URL"],
    )
    assert [each[0] for each in told["found"]] == [404, 422, 422, 401]
    assert all(all(each) for each in told["found"])
    assert "demo/none" in told["found"][0][2]
    assert "did you mean 'text'" in told["found"][2][2]
    assert told["model_error"]
    assert told["status"] == "failed"
    told = two(
        """
        import replicate
        from replicate.exceptions import ModelError
        found = []
        try:
            replicate.run("demo/none", input={})
        except replicate.NotFoundError as error:
            found.append(error.status_code)
        try:
            replicate.run("demo/upper", input={"text": 5})
        except replicate.UnprocessableEntityError as error:
            found.append(error.status_code)
        try:
            replicate.run("demo/crash", input={"how": "reject"})
        except ModelError as error:
            found.append(str(error))
        tell(found=found)
        """
    )
    assert told["found"][:2] == [404, 422]
    assert told["found"][2]


def test_lists_go_on_from_page_to_page(one: Program, two: Program) -> None:
    told = one(
        """
        import replicate
        made = [replicate.predictions.create(model="demo/noop", input={}).id for _ in range(120)]
        seen, pages = [], 0
        for page in replicate.paginate(replicate.predictions.list):
            pages += 1
            seen += [each.id for each in page]
        tell(all=set(made) <= set(seen), once=len(seen) == len(set(seen)), pages=pages,
             models=[f"{m.owner}/{m.name}" for m in replicate.models.list()])
        """
    )
    assert told["all"]
    assert told["once"]
    assert told["pages"] >= 2
    assert {"demo/upper", "swell/icons", "tests/measure"} <= set(told["models"])
    told = two(
        """
        import replicate
        seen = [each.id for each in replicate.predictions.list()]
        models = [f"{m.owner}/{m.name}" for m in replicate.models.list()]
        tell(n=len(seen), once=len(seen) == len(set(seen)), models=models)
        """
    )
    assert told["n"] >= 120
    assert told["once"]
    assert "demo/upper" in told["models"]


def test_what_stands_around_models_is_read(one: Program, two: Program) -> None:
    told = one(
        """
        import replicate
        m = replicate.models.get("demo/upper")
        v = m.versions.get(m.latest_version.id)
        schemas = v.openapi_schema["components"]["schemas"]
        found = replicate.models.search("upper")
        c = replicate.collections.get("demo")
        d = replicate.deployments.get("demo/upper")
        p = d.predictions.create(input={"text": "a"})
        p.wait()
        tell(
            description=m.description, schemas=sorted(schemas), n=len(list(m.versions.list())),
            example=m.default_example.input, found=[each.name for each in found],
            account=replicate.Client().accounts.current().username,
            hardware=[each.sku for each in replicate.hardware.list()],
            collection=[each.name for each in c.models],
            collections=[each.slug for each in replicate.collections.list()],
            release=d.current_release.model, out=p.output,
            secret=replicate.webhooks.default.secret().key,
        )
        """
    )
    assert told["description"]
    assert {"Input", "Output"} <= set(told["schemas"])
    assert told["n"] == 1
    assert told["found"] == ["upper"]
    assert told["account"]
    assert told["hardware"]
    assert "upper" in told["collection"]
    assert "demo" in told["collections"]
    assert told["release"] == "demo/upper"
    assert told["out"] == "A"
    assert told["secret"].startswith("whsec_")
    told = two(
        """
        import replicate
        who = dict(model_owner="demo", model_name="upper")
        version = replicate.models.get(**who).latest_version
        tell(
            readme=str(replicate.models.readme.get(**who)),
            examples=[e.input for e in replicate.models.examples.list(**who)],
            versions=[v.id for v in replicate.models.versions.list(**who)],
            found=[m.name for m in replicate.models.search(body="upper")],
            searched=[m.model.name for m in replicate.Replicate().search(query="upper").models],
            account=replicate.account.get().username,
            hardware=[h.sku for h in replicate.hardware.list()],
            secret=replicate.webhooks.default.secret.get().key,
            version=version.id,
        )
        """
    )
    assert told["readme"]
    assert told["examples"]
    assert told["versions"] == [told["version"]]
    assert told["found"] == told["searched"] == ["upper"]
    assert told["secret"].startswith("whsec_")


def test_deployments_are_made_changed_and_deleted(one: Program) -> None:
    told = one(
        """
        import replicate
        v = replicate.models.get("demo/upper").latest_version.id
        sku = replicate.hardware.list()[0].sku
        made = dict(name="mine", model="demo/upper", version=v, hardware=sku)
        d = replicate.deployments.create(**made, min_instances=0, max_instances=100)
        name = f"{d.owner}/{d.name}"
        again = replicate.deployments.update(
            deployment_owner=d.owner, deployment_name=d.name, version=v
        )
        p = replicate.deployments.predictions.create(name, {"text": "b"})
        p.wait()
        try:
            replicate.deployments.create(**(made | {"name": "other"}), min_instances=50,
                                         max_instances=100)
        except replicate.exceptions.ReplicateError as error:
            tell(status=error.status, detail=error.detail)
        tell(out=p.output, n=again.current_release.number,
             gone=replicate.deployments.delete(d.owner, d.name),
             left=[x.name for x in replicate.deployments.list() if x.name == "mine"])
        """
    )
    assert told["status"] == 422
    assert "workers" in told["detail"]
    assert (told["out"], told["n"], told["gone"], told["left"]) == ("B", 2, True, [])


def test_a_base_url_with_v1_or_without_means_the_same(
    served: Served, one: Program, two: Program
) -> None:
    for program, base in ((one, "/replicate/v1"), (two, "/replicate")):
        told = program(
            """
            import replicate
            client = replicate.Client if hasattr(replicate, "Client") else replicate.Replicate
            client = client(base_url=base)
            tell(out=client.run("demo/upper", input={"text": "a"}))
            """,
            base=f"{served.url}{base}",
        )
        assert told["out"] == "A"


def test_many_at_once_with_asyncio(one: Program) -> None:
    told = one(
        """
        import asyncio, replicate
        async def main():
            inputs = [{"text": f"{n}a"} for n in range(20)]
            runs = [replicate.async_run("demo/upper", input=each) for each in inputs]
            return await asyncio.gather(*runs)
        tell(out=asyncio.run(main()))
        """
    )
    assert told["out"] == [f"{n}A" for n in range(20)]


def test_webhooks_are_told_in_order_and_validated(one: Program, receiver: Receiver) -> None:
    made = one(
        """
        import replicate
        p = replicate.predictions.create(
            model="demo/echo-picture", input={"steps": 30, "step_s": 0.1}, webhook=url,
            webhook_events_filter=["start", "logs", "completed"],
        )
        tell(id=p.id)
        """,
        url=receiver.url,
    )
    receiver.wait_for(lambda bodies: any(each["status"] == "succeeded" for each in bodies))
    bodies = receiver.bodies()
    assert {each["id"] for each in bodies} == {made["id"]}
    statuses = [each["status"] for each in bodies]
    assert statuses[0] == "processing"
    assert statuses[:-1] == ["processing"] * (len(statuses) - 1)
    assert statuses.count("succeeded") == 1
    assert any("%|" in each["logs"] for each in bodies[:-1])
    assert bodies[-1]["output"].startswith("https://")
    # Logs come at most once in half a second, between the start and the end.
    begun, ended = (
        datetime.fromisoformat(bodies[-1][name]) for name in ("started_at", "completed_at")
    )
    assert len(bodies) <= 3 + (ended - begun).total_seconds() / 0.5
    told = one(
        """
        import replicate
        from replicate.webhook import InvalidSignatureError, Webhooks
        secret = replicate.webhooks.default.secret()
        for headers, body in came:
            Webhooks.validate(headers=headers, body=body, secret=secret, tolerance=300)
        try:
            Webhooks.validate(headers=came[0][0], body=came[0][1] + " ", secret=secret)
        except InvalidSignatureError as error:
            tell(forged=str(error))
        """,
        came=receiver.came,
    )
    assert told["forged"]


def test_webhooks_of_outputs_have_all_that_are_there(one: Program, receiver: Receiver) -> None:
    one(
        """
        import replicate
        p = replicate.predictions.create(
            model="demo/echo-picture", input={"steps": 1, "step_s": 1.5, "num_outputs": 3},
            webhook=url,
        )
        """,
        url=receiver.url,
    )
    receiver.wait_for(lambda bodies: any(each["status"] == "succeeded" for each in bodies))
    *running, last = receiver.bodies()
    assert {each["status"] for each in running} == {"processing"}
    names = [[url.partition("?")[0] for url in each["output"]] for each in [*running, last]]
    assert len(names[0]) == 1
    assert all(before == after[: len(before)] for before, after in itertools.pairwise(names))
    assert len(names[-1]) == 3
    assert all(url.startswith("https://") for each in running for url in each["output"])


def test_without_a_filter_a_webhook_is_told_of_the_end(one: Program, receiver: Receiver) -> None:
    told = one(
        """
        import replicate
        replicate.run("demo/upper", input={"text": "a"}, webhook=url)
        try:
            replicate.run("demo/upper", input={"text": "a"}, webhook="http://10.0.0.1/hook")
        except replicate.exceptions.ReplicateError as error:
            tell(status=error.status, detail=error.detail)
        """,
        url=receiver.url,
    )
    receiver.wait_for(lambda bodies: len(bodies) >= 1)
    (body,) = receiver.bodies()
    assert (body["status"], body["output"]) == ("succeeded", "A")
    assert told["status"] == 422
    assert "webhook" in told["detail"]
