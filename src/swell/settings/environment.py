"""The process environment, for everything but settings (see `swell.settings.load`)."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: Variables for libraries that models import. Some silence progress bars and advice; torch's lets
#: its allocator join freed GPU memory, which pictures of many sizes would fragment.
_LIBRARIES: Final = {
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TRANSFORMERS_VERBOSITY": "error",
}


def process_environment(*, without_settings: bool = False) -> dict[str, str]:
    """Return the environment of this process, optionally without `SWELL_…` variables."""
    return {
        name: value
        for name, value in os.environ.items()
        if not (without_settings and name.startswith("SWELL_"))
    }


def replace_environment(environment: Mapping[str, str]) -> None:
    """Replace the environment of this process."""
    os.environ.clear()
    os.environ.update(environment)


def configure_libraries() -> None:
    """Set variables for libraries that models import, unless the environment already has them."""
    for name, value in _LIBRARIES.items():
        os.environ.setdefault(name, value)


def argos_folders() -> tuple[Path, ...]:
    """Return the folders with packages of Argos Translate; new ones go into the first.

    Source: argostranslate 1.11, `settings.py`; its own tools use the same folders.
    """
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    named = os.environ.get("ARGOS_PACKAGES_DIR")
    return ((Path(named),) if named else ()) + (Path(data) / "argos-translate" / "packages",)


def state_folder() -> Path:
    """Return the folder that all Swell processes of this user share.

    Raises:
        RuntimeError: The user has no home.

    Source:
        XDG Base Directory Specification 0.8: `XDG_STATE_HOME`, unless it is relative.
    """
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (state if state.is_absolute() else Path.home() / ".local" / "state") / "swell"


def has_desktop() -> bool:
    """Whether the user of this process can see a browser that it opens."""
    has_display = sys.platform == "darwin" or any(
        map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))
    )
    return has_display and not any(map(os.environ.get, ("CI", "SSH_CONNECTION")))


def notify_socket() -> str | None:
    """Return the socket on which systemd waits for the message that this service is ready.

    Source: sd_notify(3); a leading `@` marks an abstract socket.
    """
    return os.environ.get("NOTIFY_SOCKET") or None
