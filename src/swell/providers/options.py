"""Tables of provider options, validated before any call."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from swell.core.errors import InvalidRequest

#: Name of a deployment.
NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")


def _plain(text: str) -> str:
    if text and not NAME.fullmatch(text):
        raise ValueError("use up to 40 lower-case letters, digits and hyphens")
    return text


Name = Annotated[str, AfterValidator(_plain)]


class Options(BaseModel):
    """A table of options; an unknown option is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MachineOptions(Options):
    """Options that every cloud provider has."""

    image: str = Field(
        min_length=1,
        description="The worker's container image, which the machine may pull without a password.",
    )
    engine: str = Field(
        default="docker",
        pattern="^(docker|podman)$",
        description="Container engine: `docker` or `podman`, included in the machine image.",
    )
    gpus: bool = Field(
        default=True,
        description="Whether the container is given the machine's GPUs; its image must have the "
        "driver and NVIDIA's container toolkit.",
    )
    spot: bool = Field(
        default=False, description="Whether to use spot capacity, which the cloud may reclaim."
    )
    disk_gib: int = Field(default=100, ge=8, description="The size of its disk, in GiB.")
    weights_dir: Path = Field(
        default=Path("/var/lib/swell-weights"),
        description="Where fetched weights lie on the machine, for all its workers.",
    )
    start_limit_s: float = Field(
        default=1800.0,
        ge=60,
        description=(
            "A machine whose worker does not run after this time shuts itself down, in seconds."
        ),
    )
    drain_s: float = Field(
        default=90.0,
        ge=0,
        description="Time for a worker to finish its tasks when its machine shuts down, in "
        "seconds. A cloud that reclaims a machine may leave less.",
    )
    endpoint: str = Field(
        default="", description="Another address of the cloud's API, for trials and proxies."
    )


O = TypeVar("O", bound=Options)  # noqa: E741 - a type's name


def checked(kind: type[O], table: Mapping[str, Any], where: str) -> O:
    """Return a validated table of options.

    Args:
        kind: Class of the options.
        table: The table in the settings.
        where: Name of the table in the settings, such as `pools.gpu.options`.

    Raises:
        InvalidRequest: An option is unknown, missing or invalid.
    """
    try:
        return kind.model_validate(dict(table))
    except ValidationError as error:
        told = "; ".join(_told(each, kind, where) for each in error.errors())
        raise InvalidRequest(told) from None


def _told(error: Any, kind: type[Options], where: str) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{where}.{name} is missing: {kind.model_fields[name].description}"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, kind.model_fields, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(kind.model_fields)}"
        return f"{where}.{name} does not exist: {hint}"
    return (
        f"{where}.{name}: {error['msg'].removeprefix('Value error, ')}"
        if name
        else (f"{where}: {error['msg'].removeprefix('Value error, ')}")
    )
