from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from swell.core.errors import InvalidRequest, UnknownSetting
from swell.core.redact import hide_secrets
from swell.settings.backend_settings import ServerSettings
from swell.settings.describe import describe
from swell.settings.load import environment_of, load
from swell.settings.worker_settings import WorkerSettings


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "swell.toml"
    path.write_text('[server]\nport = 7000\nhost = "0.0.0.0"\n[delivery]\nlease_s = 25\n')
    return path


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    loaded = load(environment={}, folder=tmp_path)
    assert loaded.settings.server.port == 8000
    assert set(loaded.origins.values()) == {"default"}


def test_flags_win_over_environment_over_file_over_defaults(toml: Path) -> None:
    loaded = load(
        {"server.port": 9000, "server.host": None},
        environment={"SWELL_SERVER__PORT": "8500", "SWELL_DELIVERY__LEASE_S": "27.5"},
        folder=toml.parent,
    )
    assert loaded.settings.server.port == 9000
    assert loaded.settings.delivery.lease_s == 27.5
    assert loaded.settings.server.host == "0.0.0.0"
    assert loaded.settings.delivery.backoff_cap_s == 60


def test_every_value_knows_where_it_came_from(toml: Path) -> None:
    loaded = load(
        {"server.port": 9000},
        environment={"SWELL_DELIVERY__LEASE_S": "27"},
        folder=toml.parent,
    )
    assert loaded.origins["server.port"] == "flag"
    assert loaded.origins["delivery.lease_s"] == "environment (SWELL_DELIVERY__LEASE_S)"
    assert loaded.origins["server.host"] == str(toml)
    assert loaded.origins["data_dir"] == "default"


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [
        ("SWELL_SERVER__PROT", "SWELL_SERVER__PORT"),
        ("SWELL_PORT", "SWELL_SERVER__PORT"),
        ("SWELL_LEASE_S", "SWELL_DELIVERY__LEASE_S"),
        ("SWELL_DATADIR", "SWELL_DATA_DIR"),
    ],
)
def test_an_unknown_variable_is_a_warning_with_a_suggestion(
    variable: str, suggestion: str, tmp_path: Path
) -> None:
    loaded = load(environment={variable: "1"}, folder=tmp_path)
    [warning] = loaded.warnings
    assert warning.startswith(f"{variable} is ignored")
    assert f"did you mean '{suggestion}'" in warning
    assert loaded.settings == load(environment={}, folder=tmp_path).settings


def test_an_unknown_key_in_the_file_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("[server]\nprot = 1\n")
    with pytest.raises(UnknownSetting, match=r"other\.toml.*did you mean 'server\.port'"):
        load(environment={}, config=path)


def test_a_wrong_value_names_its_key_and_origin(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=r"server\.port \(environment \(SWELL_SERVER__PORT\)\)"
    ):
        load(environment={"SWELL_SERVER__PORT": "many"}, folder=tmp_path)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"lease_s": 1, "heartbeat_s": 100}, r"heartbeat_s \(100\) .* half of delivery.lease_s"),
        ({"lease_s": 19}, r"set it to 6.33 or so, or lease_s to 30"),
        ({"lease_s": 1, "heartbeat_s": 0.2, "sweep_every_s": 2}, r"sweep_every_s .* smaller"),
        ({"backoff_base_s": 90}, r"backoff_base_s \(90\) .*backoff_cap_s \(60\)"),
        ({"lease_s": "inf"}, r"delivery\.lease_s \(flag\).*finite"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_what_to_do(
    flags: dict[str, object], told: str, tmp_path: Path
) -> None:
    keyed = {f"delivery.{name}": value for name, value in flags.items()}
    with pytest.raises(InvalidRequest, match=told):
        load(keyed, environment={}, folder=tmp_path)


def test_settings_that_just_go_together_are_taken(tmp_path: Path) -> None:
    flags = {"delivery.lease_s": 20, "delivery.heartbeat_s": 10, "delivery.sweep_every_s": 20}
    load(flags, environment={}, folder=tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux has such a file")
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load(environment={}, config=Path("/proc/self/mem"))


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there is no file"):
        load(environment={"SWELL_CONFIG": str(tmp_path / "missing.toml")})


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "swell.toml"
    path.write_text("server: port")
    with pytest.raises(InvalidRequest, match="is not TOML"):
        load(environment={}, folder=tmp_path)


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("swell_abc\n")
    loaded = load(environment={"SWELL_WORKER__TOKEN_FILE": str(path)}, folder=tmp_path)
    assert loaded.settings.worker.token.get_secret_value() == "swell_abc"


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    loaded = load(environment={"SWELL_KEY": "swell_abc"}, folder=tmp_path)
    assert loaded.settings.client.key.get_secret_value() == "swell_abc"
    assert "swell_abc" not in repr(loaded)
    assert "swell_abc" not in str(loaded.values())


@pytest.mark.parametrize(
    "url",
    [
        "nats://canary@127.0.0.1:4222",
        "nats://me:canary@127.0.0.1:4222/x",
        "postgresql://u:it's-canary@h/db",
        "postgresql://u:a/canary@h/db",
        "postgresql://u:it's/canary@h/db",
        'postgresql://u:"canary@h/db',
        "postgresql://u:pa@canary@h/db",
        "sqs://eu-west-1/p?endpoint=http://u:canary@h/",
        "postgresql://h/db?password=canary",
    ],
)
def test_a_url_is_shown_without_what_opens_it(url: str, tmp_path: Path) -> None:
    flags = {"store.url": url, "broker.url": url, "worker.broker": url, "client.url": url}
    shown = load(flags, environment={}, folder=tmp_path).values()
    for key in flags:
        assert "canary" not in shown[key]
        assert shown[key].startswith(url.partition(":")[0] + "://")


@pytest.mark.parametrize(
    "line",
    [
        "nats://canary@127.0.0.1:4222: no answer",
        "'postgresql://u:it's-canary@h/db'",
        "{'authorization': 'Basic Y2FuYXJ5canary=='}",
        "GET https://h/p?token=canary&x=1",
        "GET https://h/p?a=1&access_token=canary",
        "DefaultEndpointsProtocol=https;AccountKey=canary+/==;x",
        "wss://h/?api_key=canary",
    ],
)
def test_a_line_of_the_log_has_nothing_that_opens_something(line: str) -> None:
    assert "canary" not in hide_secrets(line)


@pytest.mark.parametrize(
    "line", ["basic authentication", "key=outputs/a.png", "https://h/a@b", "https://h:80/x a@b"]
)
def test_a_line_of_the_log_that_opens_nothing_stays(line: str) -> None:
    assert hide_secrets(line) == line


@pytest.mark.parametrize(
    ("key", "given", "held"),
    [
        ("hosts", "Swell.Example., bücher.example", ("swell.example", "xn--bcher-kva.example")),
        ("hosts", "10.0.0.1,[fd00:0::1]", ("10.0.0.1", "fd00::1")),
        ("cors_origins", "*", ("*",)),
        ("cors_origins", "HTTPS://Shop.Example:443/", ("https://shop.example",)),
        ("cors_origins", "http://localhost:5173", ("http://localhost:5173",)),
        ("cors_origins", "http://[::1]:80,capacitor://app", ("http://[::1]", "capacitor://app")),
        ("upload_types", "Image/*,TEXT/Plain,*/*", ("image/*", "text/plain", "*/*")),
    ],
)
def test_names_are_held_as_they_are_compared(
    key: str, given: str, held: tuple[str, ...], tmp_path: Path
) -> None:
    loaded = load({f"server.{key}": given}, environment={}, folder=tmp_path)
    assert getattr(loaded.settings.server, key) == held


@pytest.mark.parametrize(
    ("key", "given"),
    [
        *(("hosts", word) for word in ("a.example:8443", "*.a.example", "https://a.example")),
        *(("hosts", word) for word in ("a..b", "a.example/x", "me@a.example", "a b", "x" * 64)),
        *(("cors_origins", word) for word in ("a.example", "https://a.example/app", "https://")),
        *(("cors_origins", word) for word in ("null", "https://*.a.example", "https://a:0")),
        *(("cors_origins", word) for word in ("https://me@a.example", "https://a.example:x")),
        *(("upload_types", word) for word in ("image", "image/", "*/png", "image/png;q=1")),
        *(("public_url", word) for word in ("a.example", "https://a..b", "ftp://a.example")),
        *(("public_url", word) for word in ("https://me:canary@a.example", "https://a/?b=c")),
    ],
)
def test_names_that_would_match_nothing_are_refused_with_what_to_write(
    key: str, given: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest, match=rf"server\.{key} \(flag\): .* write ") as caught:
        load({f"server.{key}": given}, environment={}, folder=tmp_path)
    assert "canary" not in caught.value.detail


@given(st.text(max_size=30), st.sampled_from(["hosts", "cors_origins", "upload_types"]))
def test_whatever_is_taken_stays_as_it_is_when_it_is_read_again(text: str, key: str) -> None:
    try:
        held = getattr(ServerSettings.model_validate({key: text}), key)
    except ValidationError:
        return
    assert getattr(ServerSettings.model_validate({key: held}), key) == held


def test_a_hub_is_named_by_what_its_own_client_reads(tmp_path: Path) -> None:
    environment = {"HF_TOKEN": "hf_abc", "HF_ENDPOINT": "https://hub.example", "HF_HOME": "x"}
    worker = load(environment=environment, folder=tmp_path).settings.worker
    assert worker.hub_url == "https://hub.example"
    assert worker.hub_token.get_secret_value() == "hf_abc"
    ours = environment | {"SWELL_WORKER__HUB_TOKEN": "hf_ours"}
    worker = load(environment=ours, folder=tmp_path).settings.worker
    assert worker.hub_token.get_secret_value() == "hf_ours"


def test_a_list_can_be_given_with_commas(tmp_path: Path) -> None:
    environment = {"SWELL_WORKER__MODELS": "demo/upper, ./poster.py"}
    assert load(environment=environment, folder=tmp_path).settings.worker.models == (
        "demo/upper",
        "./poster.py",
    )


def test_settings_travel_to_another_process_by_environment(tmp_path: Path) -> None:
    environment = environment_of({"worker.url": "http://x", "worker.token": "t"})
    settings = load(environment=environment, folder=tmp_path).settings
    assert settings.worker.url == "http://x"


def test_every_setting_says_what_it_is_and_in_which_unit() -> None:
    units = {"_s": "second", "_bytes": "byte"}
    for each in describe():
        assert each.description, each.key
        for suffix, unit in units.items():
            if each.key.endswith(suffix):
                assert unit in each.description, f"{each.key} does not tell its unit"


@pytest.mark.parametrize(
    ("device", "batching", "is_exact"),
    [
        ("cpu", None, True),
        ("cuda:1", None, False),
        ("cuda", "exact", True),
        ("cpu", "fast", False),
    ],
)
def test_steps_are_shared_freely_on_gpus_unless_asked_otherwise(
    device: str, batching: str | None, is_exact: bool
) -> None:
    settings = WorkerSettings.model_validate({"device": device, "batching": batching})
    assert settings.is_exact == is_exact
