"""Creates the models' separate environment while their image is built.

Workers find the environment in `worker.environments_dir` and need not create it.
"""

import sys
from pathlib import Path

from swell.core.errors import SwellError
from swell.runtime.pep723 import Needs
from swell.runtime.venvs import Environments
from swell.settings.environment import process_environment


def main() -> int:
    """Entry point: `prepare FOLDER PYTHON REQUIREMENT…`; return the exit code."""
    _, folder, version, *requirements = sys.argv
    needs = Needs(tuple(requirements), version)
    environments = Environments(Path(folder), process_environment())
    try:
        python = environments.python(needs, "the models' files", print)
    except SwellError as error:
        print(error.detail, file=sys.stderr)
        return 1
    # Link Swell into the environment, and let other users read it.
    environments.variables(python)
    # uv leaves a lock file that everyone may write.
    Path(python).parents[1].joinpath(".lock").unlink(missing_ok=True)
    for path in (Path(folder), *Path(folder).iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return 0


if __name__ == "__main__":
    sys.exit(main())
