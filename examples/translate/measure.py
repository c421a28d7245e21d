"""What a million letters take here: `python examples/translate/measure.py http://127.0.0.1:8100`.

Sends documents of made-up lines, each once and then all of them again, and prints what that took.
"""

import argparse
import json
import random
import time
import urllib.request
from typing import Any, Final

TEXT: Final = (
    "el gato azul rojo en la nieve casa perro grande pequeño bosque barco cielo noche sol luna "
    "flor árbol río montaña ciudad puente libro mesa silla café pan queso pez pájaro caballo"
)
WORDS: Final = TEXT.split()
#: Letters of a line, about, and lines of a document.
LINE, LINES = 400, 25


def document(number: int, random: random.Random) -> dict[str, str]:
    """Return a document of lines that nobody has sent before."""
    lines = []
    for _ in range(LINES):
        words: list[str] = []
        while sum(map(len, words)) + len(words) < LINE:
            words.append(random.choice(WORDS))
        lines.append(" ".join(words))
    return {"id": str(number), "text": "\n".join(lines)}


def ask(url: str, body: Any = None) -> Any:
    """Ask the app."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of the app")
    parser.add_argument("--letters", type=int, default=1_000_000)
    asked = parser.parse_args()
    drawn = random.Random()
    documents = [document(n, drawn) for n in range(-(-asked.letters // (LINE * LINES)))]
    letters = sum(len(each["text"]) for each in documents)
    before, walls = ask(f"{asked.url}/savings"), []
    for _ in range(2):
        started = time.perf_counter()
        for at in range(0, len(documents), 20):
            body = {"documents": documents[at : at + 20], "source": "es", "team": "measure"}
            ask(f"{asked.url}/documents", body)
        walls.append(time.perf_counter() - started)
    after = ask(f"{asked.url}/savings")
    fresh = (after["letters"] - before["letters"]) - (
        after["repeated_letters"] - before["repeated_letters"]
    )
    millions = fresh / 1e6
    told = {
        "letters": letters,
        "first_time_s": round(walls[0], 1),
        "again_s": round(walls[1], 1),
        "machine_s_per_million": round((after["machine_s"] - before["machine_s"]) / millions, 2),
        "repeated_letters": after["repeated_letters"] - before["repeated_letters"],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
