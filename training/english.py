"""Make the list of English words that says whether a prompt is English.

    python english.py WORK TO      # writes TO/english.txt.gz

The words are those of Debian's packages `wamerican` and `wbritish` (SCOWL up to its level 60) with
names, in small letters and without possessives. More of the rarer words would be words of other
languages too. The words of `english.txt` are added, and each word with accents also without them.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import unicodedata
from pathlib import Path

from register import register

LISTS = {"wamerican": "american-english", "wbritish": "british-english"}
VERSION = "2020.12.07-4"


def fetch(work: Path) -> list[str]:
    """The lines of both lists; the packages are downloaded once into WORK, and not installed."""
    lines = []
    for package, name in LISTS.items():
        deb = work / f"{package}_{VERSION}_all.deb"
        if not deb.is_file():
            subprocess.run(["apt-get", "download", f"{package}={VERSION}"], cwd=work, check=True)
        subprocess.run(["dpkg-deb", "-x", str(deb), str(work / package)], check=True)
        lines += (work / package / "usr/share/dict" / name).read_text(encoding="utf-8").split()
    return lines


def added() -> list[str]:
    """The words of `english.txt`."""
    lines = Path(__file__).with_name("english.txt").read_text(encoding="utf-8").splitlines()
    rows = (line for line in lines if line and line[0] not in "#[")
    return [word for row in rows for word in row.replace("-", " ").split()]


def bare(word: str) -> str:
    """Without accents."""
    parts = unicodedata.normalize("NFKD", word)
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


def main(work: Path, to: Path) -> None:
    whole = [word for word in fetch(work) if not word.endswith("'s")]
    words = {word.lower() for word in (*whole, *added())}
    words |= {bare(word) for word in words}
    # A prompt is looked up in runs of letters: a letter alone, and a word with marks, never are.
    lines = sorted(word.encode() for word in words if word.isalpha() and len(word) > 1)
    path = to / "english.txt.gz"
    # Sorted by their bytes, as they are looked up; without a time, so that each run gives the same.
    path.write_bytes(gzip.compress(b"\n".join(lines), 9, mtime=0))
    source = f"Debian wamerican {VERSION} and wbritish (SCOWL), and training/english.txt"
    register(path, "LicenseRef-SCOWL AND Apache-2.0", f"{source}, by training/english.py")
    print(len(lines), "words")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
