"""Turns models into a build context, for `swell build`."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from swell.containers.baking import find_listed
from swell.containers.dockerfile import DATA, HOME, Recipe, written
from swell.containers.look import look
from swell.containers.packing import WEIGHTS, Packed, Packer
from swell.containers.pins import Pins, pins
from swell.containers.places import MODELS
from swell.containers.secrets_in import line_with_secret
from swell.containers.wheels import wheel_name
from swell.core.errors import InvalidRequest
from swell.core.redact import hide_secrets

if TYPE_CHECKING:
    from swell.runtime.venvs import Home

#: Index of torch without CUDA.
CPU_TORCH: Final = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Options of a build.

    Args:
        refs: References for `load_models`.
        home: The Python that runs these models here.
        base: Base image; empty for the default.
        is_cuda: Whether the image is for an NVIDIA GPU.
        torch_index: Index of torch; empty for the default of `is_cuda`.
        extras: Extras of Swell to install.
        include: Additional files and folders next to the models' code.
        constraints: Constraints file; None for the versions that are installed here.
        is_baked: Whether the image contains weights.
        cache_dir: Weight cache of this machine.
    """

    refs: Sequence[str]
    home: "Home"
    base: str = ""
    is_cuda: bool = False
    torch_index: str = ""
    extras: Sequence[str] = ()
    include: Sequence[Path] = field(default=())
    constraints: Path | None = None
    is_baked: bool = False
    cache_dir: Path = Path(".swell/weights")


def contents_of(wanted: Wanted) -> Packed:
    """Return the contents of a build context, with the Dockerfile.

    Args:
        wanted: Options of the build.

    Raises:
        NotFound: A model does not exist.
        InvalidModel: A model has no code that can be packed.
        InvalidRequest: An extra or a file does not exist.
    """
    packed = packed_of(wanted)
    # Adds the listed weights to what is packed.
    if wanted.is_baked:
        find_listed(packed, wanted.cache_dir)
        packed.is_baked = bool(packed.contents)
        if not packed.contents:
            packed.notes.append("nothing to bake: the models declare no weights")
    # A separate environment has the distributions of its models.
    found = pins([] if packed.needs else packed.distributions, wanted.extras)
    if wanted.constraints is None:
        packed.notes += _check_pins(found)
        constraints: Sequence[str] = found.constraints
    else:
        constraints = _constraints(wanted.constraints)
    index = wanted.torch_index or ("" if wanted.is_cuda else CPU_TORCH)
    recipe = Recipe(
        base=wanted.base or "docker.io/library/python:{}.{}-slim".format(*sys.version_info[:2]),
        wheel=wheel_name(),
        names=list(packed.versions),
        variables=_variables(packed, wanted),
        requirements=found.requirements,
        constraints=constraints,
        torch_index=index if found.has("torch") else "",
        needs=[packed.needs.python, *packed.needs.requirements] if packed.needs else (),
        is_baked=packed.is_baked,
        is_cuda=wanted.is_cuda and found.has("torch"),
    )
    packed.dockerfile = written(recipe)
    return packed


def _check_pins(found: Pins) -> list[str]:
    """Return notes for the user about the packages of an image.

    Raises:
        InvalidRequest: An index may have other packages of the same names.
    """
    if found.elsewhere:
        told = ", ".join(f"{name} ({hide_secrets(url)})" for name, url in found.elsewhere.items())
        raise InvalidRequest(
            f"these packages were not installed from an index: {told}. The build "
            "would install packages of the same name from the index, published by "
            "anyone: name the right ones in --constraints FILE, as NAME==VERSION or"
            " NAME @ URL"
        )
    if found.missing:
        return [
            f"{', '.join(found.missing)}: not installed here, so the image gets the "
            "newest version, untested. Install the version that you tested, or pin "
            "it with --constraints"
        ]
    return []


def packed_of(wanted: Wanted) -> Packed:
    """Collect the files of the models.

    Args:
        wanted: Options of the build.

    Raises:
        NotFound, InvalidModel, InvalidRequest: As `parts_of` does.
    """
    # Other processes load the models while this one parses their code.
    with ThreadPoolExecutor() as threads:
        looked = {ref: threads.submit(look, ref, wanted.home) for ref in wanted.refs}
        packer = Packer(lambda ref: looked[ref].result(), wanted.include, is_baked=wanted.is_baked)
        return packer.pack(wanted.refs)


def tag_of(packed: Packed) -> str:
    """Return the default tag of an image, from the name of its first model."""
    return next(iter(packed.versions)).lower() + ":latest"


def _variables(packed: Packed, wanted: Wanted) -> dict[str, str]:
    told = {
        "PATH": f"{HOME}/venv/bin:$PATH",
        "HOME": str(DATA),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SWELL_DATA_DIR": str(DATA),
        "SWELL_WORKER__CACHE_DIR": str(DATA / "weights"),
        # Not in the data folder, which containers may share.
        "SWELL_WORKER__HEALTH_FILE": "/tmp/swell-health",
        "SWELL_WORKER__ADDED": "false",
        "SWELL_WORKER__MODELS": ",".join(packed.refs),
    }
    if packed.roots:
        told["PYTHONPATH"] = ":".join(map(str, packed.roots))
    if packed.is_baked:
        told["SWELL_WORKER__BAKED_DIR"] = str(WEIGHTS)
    elif packed.listings:
        told["SWELL_WORKER__WEIGHTS_FILE"] = str(MODELS / "weights.json")
    if packed.wanted and not packed.is_baked:
        told["SWELL_WORKER__WEIGHTS"] = ",".join(map(str, packed.wanted))
    if packed.needs:
        told["SWELL_WORKER__ENVIRONMENTS_DIR"] = str(HOME / "environments")
    if wanted.is_cuda:
        told |= {
            "SWELL_WORKER__DEVICE": "cuda:0",
            "NVIDIA_VISIBLE_DEVICES": "all",
            "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        }
    return told


def _constraints(path: Path) -> list[str]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cannot read {path} ({error}): check --constraints") from None
    number = line_with_secret(text)
    if number is not None:
        raise InvalidRequest(
            f"line {number} of {path} has a password or token in an address, and the file stays in "
            "the image: name the address without it, and give pip the password on this machine "
            "(pip.conf or PIP_INDEX_URL), from where the build has it and the image does not"
        )
    return text.splitlines()
