import json
import subprocess
import sys
from pathlib import Path

import pytest

from swell.bootstrap.backend import build_backend, close_backend
from swell.bootstrap.data_folder import lock_data
from swell.bootstrap.extras import Unusable
from swell.bootstrap.local_workers import worker_environment
from swell.bootstrap.worker import build_worker
from swell.client.access import Access, find_access, read_access, write_access
from swell.client.errors import NoServer
from swell.core.clock import SystemClock
from swell.core.errors import Conflict, InvalidRequest
from swell.settings.describe import describe
from swell.settings.load import Settings, load


def settings(folder: Path, **flags: object) -> Settings:
    keyed = {name.replace("__", "."): value for name, value in flags.items()}
    return load({"data_dir": folder, **keyed}, environment={}, folder=folder).settings


@pytest.mark.parametrize("objects_url", ["memory:", ""])
async def test_a_backend_is_built_on_the_adapters_that_the_settings_name(
    objects_url: str, tmp_path: Path
) -> None:
    chosen = settings(tmp_path, objects__url=objects_url, delivery__lease_s=27)
    backend = await build_backend(chosen, SystemClock())
    assert backend.settings.delivery.lease_s == 27
    await backend.objects.put("a", b"1", "text/plain")
    assert await backend.store.get(["nothing"]) == [None]
    await close_backend(backend)
    assert (tmp_path / "swell.db").exists()
    assert (tmp_path / "objects").exists() == (objects_url == "")


async def test_files_signed_before_a_restart_can_be_read_after_it(tmp_path: Path) -> None:
    first = await build_backend(settings(tmp_path), SystemClock())
    url = first.objects.sign("GET", "a", 60)
    await close_backend(first)
    second = await build_backend(settings(tmp_path), SystemClock())
    query = dict(pair.split("=") for pair in url.partition("?")[2].split("&"))
    second.objects.verify("GET", "a", query)
    await close_backend(second)


@pytest.mark.parametrize(
    "flags", [{"store__url": "mysql://x"}, {"store__url": "memory:"}, {"objects__url": "ftp://x"}]
)
async def test_a_url_of_no_known_adapter_is_refused(
    flags: dict[str, object], tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=r"use (sqlite|file)"):
        await build_backend(settings(tmp_path, **flags), SystemClock())


def test_a_worker_without_a_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="--token"):
        build_worker(settings(tmp_path), SystemClock())


#: Of these each worker has its own, or needs none.
NOT_PASSED_ON = {
    *("worker.url", "worker.token", "worker.models", "worker.added", "worker.optional"),
    *("worker.name", "worker.instance", "worker.hub_url", "worker.hub_token"),
    *("worker.asked_at", "worker.pull_s", "worker.health_file"),
}


def another(key: str, kind: str, default: object) -> object:
    """Return a value that a setting does not have by itself."""
    if kind.startswith("one of"):
        return next(word for word in kind[7:].split(", ") if word != default)
    if kind == "list of words":
        return ("demo", "words")
    if kind == "true or false":
        return not default
    if kind in ("integer", "number"):
        return 0.5 if key == "telemetry.sample" else 7 << 30
    return "/elsewhere"


def test_each_setting_for_workers_reaches_those_of_swell_up(tmp_path: Path) -> None:
    passed = {
        each.key: another(each.key, each.kind, each.default)
        for each in describe()
        if each.key.startswith(("worker.", "log.", "telemetry.")) and each.key not in NOT_PASSED_ON
    }
    secret = {"worker.hub_token": "hf_secret", "worker.name": "one", "data_dir": tmp_path}
    chosen = load(passed | secret, environment={}, folder=tmp_path).settings
    told = worker_environment(chosen, ["demo/upper"], "http://here", "k")
    there = load(environment=told, folder=tmp_path)
    for key in passed:
        group, name = key.split(".")
        mine, its = (getattr(getattr(each, group), name) for each in (chosen, there.settings))
        assert mine == its, key
        assert there.origins[key] != "default", key
    assert "hf_secret" not in str(told)
    assert there.settings.worker.name == ""
    assert there.settings.worker.models == ("demo/upper",)
    assert there.settings.data_dir == tmp_path


def test_a_new_data_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    new, there = tmp_path / "new", tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    for folder, mode in ((new, 0o700), (there, 0o755)):
        with lock_data(folder):
            assert folder.stat().st_mode & 0o777 == mode


def test_only_one_backend_has_a_data_folder(tmp_path: Path) -> None:
    with (
        lock_data(tmp_path),
        pytest.raises(Conflict, match="already running in this folder"),
        lock_data(tmp_path),
    ):
        pass
    with lock_data(tmp_path):
        pass


@pytest.mark.parametrize("folder", ["/dev/null", "/dev/null/below", "/proc/swell"])
def test_a_folder_that_cannot_be_used_is_refused_with_what_to_do(folder: str) -> None:
    with pytest.raises(Unusable, match=r"cannot be used .*--data"), lock_data(Path(folder)):
        pass


async def test_a_store_that_cannot_be_opened_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for flags, told in (
        ({"store__url": f"sqlite:///{tmp_path}/folder"}, "store.url"),
        ({"store__url": f"sqlite:///{tmp_path}/file/below"}, "store.url"),
        ({"objects__url": f"file:{tmp_path}/file"}, "objects.url"),
    ):
        with pytest.raises(Unusable, match=f"cannot be opened .*{told}"):
            await build_backend(settings(tmp_path, **flags), SystemClock())


def test_a_server_is_found_by_setting_or_in_the_data_folder(tmp_path: Path) -> None:
    with pytest.raises(NoServer, match="swell up"):
        find_access(settings(tmp_path))
    write_access(tmp_path, Access(url="http://here", key="k", worker_key_id="w"))
    assert read_access(tmp_path) == Access(url="http://here", key="k", worker_key_id="w")
    assert find_access(settings(tmp_path)).key == "k"
    other = find_access(settings(tmp_path, client__url="http://there/"))
    assert (other.url, other.key) == ("http://there", ""), "our key is not shown to strangers"


def test_the_local_key_is_for_the_address_behind_the_public_name_too(tmp_path: Path) -> None:
    local = "http://127.0.0.1:8000"
    write_access(tmp_path, Access(url="https://shop.example", key="k", local_url=local))
    assert find_access(settings(tmp_path)).url == "https://shop.example"
    for told in (local, f"{local}/"):
        found = find_access(settings(tmp_path, client__url=told))
        assert (found.url, found.key) == (local, "k")
    assert find_access(settings(tmp_path, client__url="http://127.0.0.1:8001")).key == ""
    # One that was left by a release that knew no such address.
    write_access(tmp_path, Access(url="https://shop.example", key="k"))
    assert find_access(settings(tmp_path, client__url=local)).key == ""


#: Logs what fails with a key among its local values, its text, and its event.
LOGS_A_FAILURE = """
import logging, sys
import structlog
from swell.settings.backend_settings import LogSettings
from swell.bootstrap.logging import configure_logging

def fail(authorization):
    raise RuntimeError(f"got {authorization!r} for /v1/artifacts/a?signature={key}&x=1")

key = sys.stdin.read()
configure_logging(LogSettings(json_lines=sys.argv[1] == "json", level="debug"))
try:
    fail(f"Bearer {key}".encode())
except RuntimeError as error:
    structlog.get_logger("swell.api").error("request failed", key=key, exc_info=error)
    structlog.get_logger("swell.api").exception("request failed")
    logging.getLogger("uvicorn.error").exception("a request could not be answered")
    logging.getLogger("aiohttp").warning("sent %s", {"authorization": f"Bearer {key}"})
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lines", "json"])
@pytest.mark.parametrize("secret", ["swell_" + "a-_Z9" * 8 + "abc", "sealed.token-of/others=="])
def test_a_log_tells_where_it_failed_and_never_a_key(form: str, secret: str) -> None:
    script = (
        LOGS_A_FAILURE if secret.startswith("swell_") else LOGS_A_FAILURE.replace("key=key,", "")
    )
    told = subprocess.run(
        [sys.executable, "-c", script, form],
        input=secret,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert secret[:20] not in told.replace("\n", "")
    assert told.count("RuntimeError: got") == 3
    assert told.count(", in fail") == 3
    if form == "json":
        assert all("event" in json.loads(line) for line in told.splitlines())


@pytest.mark.slow
def test_a_name_of_swell_is_imported_when_it_is_asked_for() -> None:
    code = (
        "import sys, swell\n"
        "assert not {'numpy', 'pydantic', 'PIL'} & set(sys.modules)\n"
        "from swell.sdk.context import Item\n"
        "assert swell.Item is Item and callable(swell.model) and swell.ui.slider\n"
        "assert set(swell.__all__) <= set(dir(swell))\n"
        "assert not hasattr(swell, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_model_process_is_asked_for_before_a_worker_s_other_imports() -> None:
    code = (
        "import sys, swell.cli.worker, swell.runtime.model_process_client\n"
        "assert not {'numpy', 'PIL', 'aiohttp', 'structlog'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_build_imports_nothing_that_only_models_need() -> None:
    code = (
        "import sys\n"
        "import swell.cli.build, swell.containers.building, swell.containers.context\n"
        "assert not {'numpy', 'PIL', 'ssl', 'http.client', 'swell.sdk.model'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
