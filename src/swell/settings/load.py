"""Loads settings: flags > environment > `swell.toml` > defaults.

Every setting has one dotted key. `server.port` is `--port` where a command offers it,
`SWELL_SERVER__PORT` in the environment, and `port` under `[server]` in the file. An unknown
key is an error with a suggestion; an unknown variable is a warning. A secret may be given as a
file, by adding `_FILE` to its variable. Only this module and `swell.settings.environment` read the
environment.
"""

import difflib
import functools
import json
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from swell.core.errors import InvalidRequest, UnknownSetting
from swell.core.redact import hide_in_url
from swell.settings.backend_settings import (
    AdmissionSettings,
    DeliverySettings,
    LimitsSettings,
    LogSettings,
    RetentionSettings,
    ServerSettings,
    TelemetrySettings,
    WebhooksSettings,
)
from swell.settings.client_settings import ClientSettings
from swell.settings.group import Group, Json
from swell.settings.pool_settings import (
    AutoscaleSettings,
    CostsSettings,
    PoolTable,
    PricesSettings,
    check_pool_names,
)
from swell.settings.storage_settings import (
    BrokerSettings,
    BusSettings,
    ObjectsSettings,
    StoreSettings,
    WeightsSettings,
)
from swell.settings.worker_settings import PoolSettings, WorkerSettings

_PREFIX: Final = "SWELL_"

#: Short names of variables that people type by hand, and those that a hub's own client reads.
_ALIASES: Final = {
    "SWELL_URL": "client.url",
    "SWELL_KEY": "client.key",
    "HF_ENDPOINT": "worker.hub_url",
    "HF_TOKEN": "worker.hub_token",
    "SWELL_INSTANCE_ID": "worker.instance",
}

#: Our variable that is no setting: the path of the file.
_CONFIG: Final = "SWELL_CONFIG"


class Settings(Group):
    """Every setting.

    Attributes:
        data_dir: Data folder of the embedded store, files and caches.
        pools: Pools of workers that the autoscaler launches on demand, by name: `[pools.NAME]` in
            the file, JSON in the environment.
    """

    data_dir: Path = Path(".swell")
    pools: Annotated[Mapping[str, PoolTable], Json, AfterValidator(check_pool_names)] = {}
    server: ServerSettings = ServerSettings()
    limits: LimitsSettings = LimitsSettings()
    admission: AdmissionSettings = AdmissionSettings()
    store: StoreSettings = StoreSettings()
    broker: BrokerSettings = BrokerSettings()
    bus: BusSettings = BusSettings()
    objects: ObjectsSettings = ObjectsSettings()
    weights: WeightsSettings = WeightsSettings()
    retention: RetentionSettings = RetentionSettings()
    delivery: DeliverySettings = DeliverySettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    worker: WorkerSettings = WorkerSettings()
    pool: PoolSettings = PoolSettings()
    autoscale: AutoscaleSettings = AutoscaleSettings()
    prices: PricesSettings = PricesSettings()
    costs: CostsSettings = CostsSettings()
    client: ClientSettings = ClientSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and the origin of each."""

    settings: Settings
    #: Dotted key → `flag`, `environment (NAME)`, the file's path, or `default`.
    origins: Mapping[str, str]
    #: Unknown variables that were ignored, with suggestions.
    warnings: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """Return every setting by its key, JSON-ready, without secrets.

        Secrets, and users and passwords in URLs, are `********`.
        """
        return {key: _without_secrets(value) for key, value in values_of(self.settings).items()}


def fields() -> dict[str, FieldInfo]:
    """Return the field of each setting by its dotted key, in the order of the reference."""
    found: dict[str, FieldInfo] = {}
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Group):
            found |= {f"{name}.{inner}": each for inner, each in group.model_fields.items()}
        else:
            found[name] = field
    return found


def secret_keys() -> set[str]:
    """Return the keys of the settings that are secrets."""
    return {key for key, field in fields().items() if field.annotation is SecretStr}


def values_of(settings: Settings) -> dict[str, Any]:
    """Return every setting by its key, JSON-ready; secrets are masked."""
    tree = settings.model_dump(mode="json")
    paths = {key: key.split(".") for key in fields()}
    return {key: functools.reduce(dict.__getitem__, path, tree) for key, path in paths.items()}


def variable_of(key: str) -> str:
    """Return the variable of a setting."""
    return _PREFIX + key.upper().replace(".", "__")


def environment_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as environment variables for a process that we start.

    Args:
        values: Dotted key → JSON-ready value; None leaves the default.
    """
    return {variable_of(key): _text(value) for key, value in values.items() if value is not None}


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path = Path(),
) -> Loaded:
    """Return the settings of this call.

    Args:
        flags: Dotted key → value; None for a flag that was not given.
        config: The file to read instead of `swell.toml` in `folder`; it must exist.
        environment: Variables; None for the process's own.
        folder: The folder of `swell.toml`.

    Raises:
        UnknownSetting: A flag or a key of the file does not exist; the text suggests one that does.
        InvalidRequest: A value is not allowed, or a file cannot be read.
    """
    variables = os.environ if environment is None else environment
    known = fields()
    from_environment, warnings = _from_environment(variables, known)
    flags = {key: value for key, value in (flags or {}).items() if value is not None}
    #: Key → value and origin.
    given = {
        **_from_file(config, variables, folder),
        **from_environment,
        **{key: (value, "flag") for key, value in flags.items()},
    }
    tree: dict[str, Any] = {}
    for key, (value, origin) in given.items():
        if key not in known:
            raise UnknownSetting(f"there is no setting {key!r} ({origin}){_hint(key, known)}")
        group, _, name = key.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = value
    origins = {key: given[key][1] if key in given else "default" for key in sorted(known)}
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise _invalid(error, origins) from error
    return Loaded(settings=settings, origins=origins, warnings=tuple(warnings))


def _from_file(
    config: Path | None, environment: Mapping[str, str], folder: Path
) -> dict[str, tuple[Any, str]]:
    if config is None and environment.get(_CONFIG):
        config = Path(environment[_CONFIG])
    path = config or folder / "swell.toml"
    if not path.is_file():
        if config is None:
            return {}
        raise InvalidRequest(f"there is no file {config}: check --config and {_CONFIG}")
    try:
        tree = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and name != "pools":
            values |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            values[name] = value
    return {key: (value, str(path)) for key, value in values.items()}


def _from_environment(
    environment: Mapping[str, str], known: Mapping[str, FieldInfo]
) -> tuple[dict[str, tuple[Any, str]], list[str]]:
    """Return the settings in the environment, and warnings about unknown variables."""
    given: dict[str, tuple[Any, str]] = {}
    warnings = []
    secrets = secret_keys()
    # The full name of a setting overrides its alias.
    for name in sorted(environment, key=lambda name: (name not in _ALIASES, name)):
        if name == _CONFIG or not (name.startswith(_PREFIX) or name in _ALIASES):
            continue
        key, value = _key_of(name), environment[name]
        secret = _key_of(name.removesuffix("_FILE"))
        if name.endswith("_FILE") and secret in secrets:
            key, value = secret, _read_secret(Path(value), name)
        if key in known:
            given[key] = (value, f"environment ({name})")
        else:
            # Other programs may use the prefix.
            hint = _hint(key, known, variable_of)
            warnings.append(f"{name} is ignored: no such setting{hint}")
    return given, warnings


def _key_of(variable: str) -> str:
    return _ALIASES.get(variable) or variable.removeprefix(_PREFIX).lower().replace("__", ".")


def _read_secret(path: Path, variable: str) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{variable} names {path}, which cannot be read: {error}") from error


def _hint(key: str, known: Iterable[str], spell: Callable[[str], str] = str) -> str:
    # `prot` alone is close to `server.port`'s last part, but not to the whole.
    last_parts = {each.rpartition(".")[2]: each for each in known}
    close = difflib.get_close_matches(key, known, n=1) or [
        last_parts[part]
        for part in difflib.get_close_matches(key.rpartition(".")[2], last_parts, n=1)
    ]
    if close:
        return f": did you mean {spell(close[0])!r}?"
    return ": `swell config` lists them all"


def _invalid(error: ValidationError, origins: Mapping[str, str]) -> InvalidRequest:
    lines = []
    for each in error.errors():
        key = ".".join(str(part) for part in each["loc"])
        if each["type"] == "value_error" and key in Settings.model_fields and key != "pools":
            # A check of the whole group: the text names the settings.
            lines.append(str(each["ctx"]["error"]))
            continue
        origin = origins.get(key) or origins.get(key.partition(".")[0]) or "default"
        where = "" if origin == "default" else f" ({origin})"
        problem = each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden" and key.startswith("pools."):
            hint = _hint(key.rpartition(".")[2], PoolTable.model_fields)
            problem = f"a pool has no such setting{hint}"
        lines.append(f"{key}{where}: {problem}")
    return InvalidRequest("; ".join(lines))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(each) for each in value]
    return hide_in_url(value) if isinstance(value, str) else value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
