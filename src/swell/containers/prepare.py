"""Creates the models' separate environment while their image is built.

Workers find the environment in `worker.environments_dir` and need not create it.
"""

import json
import sys
from pathlib import Path

from swell.core.errors import SwellError
from swell.runtime.pep723 import Needs
from swell.runtime.venvs import Environments
from swell.settings.environment import process_environment


def main() -> int:
    """Entry point: `python -m swell.containers.prepare NEEDS.json FOLDER`; return the exit code."""
    told = json.loads(Path(sys.argv[1]).read_text())
    needs = Needs(tuple(told["requirements"]), told["python"])
    environments = Environments(Path(sys.argv[2]), process_environment())
    try:
        python = environments.python(needs, "the models' files", print)
    except SwellError as error:
        print(error.detail, file=sys.stderr)
        return 1
    # Link Swell into the environment, and let other users read it.
    environments.variables(python)
    # uv leaves a lock file that everyone may write.
    Path(python).parents[1].joinpath(".lock").unlink(missing_ok=True)
    for path in (Path(sys.argv[2]), *Path(sys.argv[2]).iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return 0


if __name__ == "__main__":
    sys.exit(main())
