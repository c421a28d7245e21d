"""Write down a file of weights: its size, SHA-256, licence and source, in `files.json` beside it.

python register.py FILE LICENCE SOURCE
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path


def register(path: Path, licence: str, source: str) -> None:
    """Add or replace what is told of one file.

    Args:
        path: The file, among the weights that ship.
        licence: SPDX identifier.
        source: Package and version that it came from, and the script that made it.
    """
    listed = path.with_name("files.json")
    files = json.loads(listed.read_text()) if listed.is_file() else {}
    data = path.read_bytes()
    files[path.name] = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "licence": licence,
        "source": source,
    }
    listed.write_text(json.dumps(dict(sorted(files.items())), indent=1) + "\n")
    print(f"{path.name}: {len(data) / 1e6:.2f} MB, {licence}")


if __name__ == "__main__":
    register(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
