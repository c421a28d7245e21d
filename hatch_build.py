"""Puts the web app into the wheel and the sdist.

It is built if it has changed; an sdist brings the built app along, so that installing from it needs
no Node.js. A release must not lack the app, so without npm this fails unless SWELL_WITHOUT_WEB=1
says to do without it. An editable installation takes the app from `web/dist` when it is there.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WebAppHook(BuildHookInterface):  # type: ignore[type-arg,misc]
    """The hook that hatchling calls before it builds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the app and have it packed."""
        if version == "editable":
            return
        if os.environ.get("SWELL_WITHOUT_WEB") == "1":  # noqa: TID251 - no setting of Swell's
            self.app.display_warning("SWELL_WITHOUT_WEB=1: this package has no web app")
            return
        web = Path(self.root) / "web"
        dist = _builder(web / "build.py").build(web)
        target = "web/dist" if self.target_name == "sdist" else "swell/web"
        build_data["force_include"][str(dist)] = target


def _builder(path: Path) -> Any:
    """Import web/build.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("swell_web_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
