"""Programs that use the clients of others, each in an environment with nothing of ours in it."""

import json
import os
import shutil
import subprocess
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["NODE", "VENVS", "Program", "Told"]

HERE = Path(__file__).parent

#: Where `.ci/services` installs the Python clients: one environment for each file in requirements/.
VENVS = HERE.parents[1] / ".venv" / "clients"

#: Where it installs those from npm.
NODE = HERE / "node"

PATIENCE_S = 100

#: Lines that must come first.
_IMPORTS = ("import ", "from ")

#: What every program begins with: `tell(name=value)` hands results to its test.
_PYTHON = """
import json, os, sys
def tell(**found): print("\\0" + json.dumps(found, default=str), flush=True)
"""
_JAVASCRIPT = """
const tell = (found) => console.log("\\0" + JSON.stringify(found));
"""


class Told(dict[str, Any]):
    """What a program told, by name."""


@dataclass(frozen=True)
class Program:
    """Runs programs in one language, with one set of packages.

    Args:
        command: What runs a program whose text is the last argument.
        beginning: Text before each.
        folder: Where it runs.
        variables: Its environment, beside a clean one.
    """

    command: tuple[str, ...]
    beginning: str
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @classmethod
    def python(cls, venv: str, folder: Path, **variables: str) -> "Program":
        """Return what runs Python with the packages of `requirements/VENV.txt`."""
        python = str(VENVS / venv / "bin" / "python")
        return cls((python, "-W", "ignore", "-c"), _PYTHON, folder, variables)

    @classmethod
    def javascript(cls, **variables: str) -> "Program":
        """Return what runs JavaScript with the packages of `node/package.json`."""
        node = shutil.which("node") or "node"
        return cls((node, "--input-type=module", "-e"), _JAVASCRIPT, NODE, variables)

    def __call__(self, text: str, **values: Any) -> Told:
        """Run a program to its end; return all that it told.

        Args:
            text: The program. `tell` is there, and so are the values, as constants.
            values: JSON values.
        """
        constants = "".join(
            f"{'const ' if 'node' in self.command[0] else ''}{name} = {self._literal(value)}\n"
            for name, value in values.items()
        )
        body = textwrap.dedent(text)
        lines = body.splitlines()
        imports = [line for line in lines if line.startswith(_IMPORTS)]
        rest = "\n".join(line for line in lines if not line.startswith(_IMPORTS))
        whole = "\n".join([*imports, self.beginning, constants, rest])
        done = subprocess.run(
            [*self.command, whole],
            cwd=self.folder,
            env=_clean() | self.variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{whole}"
        told = Told()
        for line in done.stdout.splitlines():
            if line.startswith("\0"):
                told.update(json.loads(line[1:]))
        return told

    def _literal(self, value: Any) -> str:
        return json.dumps(value) if "node" in self.command[0] else repr(value)


def _clean() -> dict[str, str]:
    """Return the environment without what other tests, or the machine, say of clients."""
    known = ("SWELL_", "REPLICATE_", "OPENAI_", "FAL_", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if not name.startswith(known)}
