"""The client for Python in a program that forks, as gunicorn and Celery do."""

import asyncio
import sys
from collections import defaultdict

import pytest
from aiohttp import web

from loopback import listening

#: A parent with an idle connection, and one whose answer comes when the child has ended.
PROGRAM = """
import asyncio, os, signal, sys, threading
import swell

signal.alarm(50)  # a child does not inherit it
client = swell.Client(sys.argv[1], "key")
rest = client.tasks()
print(next(rest).id)
client.get("parent-1")

in_flight = threading.Thread(target=lambda: print(client.get("parent-slow").id))
in_flight.start()
client.get("parent-wait-for-slow")

opened = swell.AsyncClient(sys.argv[1], "key")
loop = asyncio.new_event_loop()
loop.run_until_complete(opened.__aenter__())
loop.run_until_complete(opened.get("parent-async-1"))

child = os.fork()
if not child:
    signal.alarm(40)
    if sys.argv[2] == "uses it":
        assert client.get("child-1").id == "child-1"
        threads = [threading.Thread(target=client.get, args=[f"child-{n}"]) for n in range(4)]
        [each.start() for each in threads]
        [each.join() for each in threads]
        assert len(list(client.tasks())) == 2
        try:
            next(rest)
        except RuntimeError as error:
            assert "before a fork" in str(error), error
        try:
            asyncio.run(opened.get("child-async"))
        except RuntimeError as error:
            assert "open another one after a fork" in str(error), error
        asyncio.run(opened.__aexit__(None, None, None))
        if sys.argv[3] == "closes it":
            client.close()
    # Python ends as usual, and destroys what it has.
    sys.exit(7)

_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert client.get("parent-2").id == "parent-2"
assert client.get("parent-release-slow").id == "parent-release-slow"
in_flight.join()
print(*[each.id for each in rest])
assert loop.run_until_complete(opened.get("parent-async-2")).id == "parent-async-2"
loop.run_until_complete(opened.__aexit__(None, None, None))
client.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("child", ["uses it", "uses it and closes it", "ends"])
async def test_a_client_works_in_a_forked_child_and_goes_on_in_its_parent(child: str) -> None:
    users: dict[object, set[str]] = defaultdict(set)
    is_asked, is_released = asyncio.Event(), asyncio.Event()

    async def get(request: web.Request) -> web.Response:
        name = request.match_info["id"]
        assert request.transport is not None
        users[request.transport.get_extra_info("peername")].add(name.partition("-")[0])
        if name == "parent-slow":
            is_asked.set()
            await is_released.wait()
        if name == "parent-wait-for-slow":
            await is_asked.wait()
        if name == "parent-release-slow":
            is_released.set()
        return web.json_response({"id": name, "model": "demo/upper", "state": "queued"})

    async def page(request: web.Request) -> web.Response:
        tasks = [{"id": f"listed-{n}", "model": "demo/upper", "state": "queued"} for n in range(2)]
        return web.json_response({"tasks": tasks})

    app = web.Application()
    app.add_routes([web.get("/v1/tasks/{id}", get), web.get("/v1/tasks", page)])
    async with listening(app, patience_s=1) as url:
        does, _, closes = child.partition(" and ")
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-c", PROGRAM, url, does, closes),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, errors = await program.communicate()
    assert (program.returncode, errors.decode()) == (0, "")
    assert told.decode().split() == ["listed-0", "parent-slow", "listed-1"]
    assert sorted(map(sorted, users.values())).count(["child", "parent"]) == 0
    assert any("child" in each for each in users.values()) is child.startswith("uses it")
