"""Make the lists of words by which prompts are checked.

    python prompt_words.py WORK TO      # writes TO/prompt-words.json

Obscene words come from the "List of Dirty, Naughty, Obscene, and Otherwise Bad Words" (LDNOOBW,
CC BY 4.0, npm `naughty-words`). Left out are those that also mean something to draw: what
`glossary.tsv` in TO or a list of common English words has, but for the English list itself. What
else is looked for is in OWN. Nobody should have to read this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path

PACKAGE = "naughty-words"
LANGUAGES = ("en", "es", "pt", "fr", "de", "it", "nl", "pl", "ru", "tr", "ja", "zh", "ko")
# English words of the list that people write about pictures without meaning them.
INNOCENT = {
    *("snowballing", "domination", "eunuch", "suck", "sucks", "humping", "spunk", "escort"),
    *("sexy", "butt", "poof", "queer", "twink", "kinky", "pimp", "ass", "girl on", "hooker"),
}
OWN = {
    "sexual": (
        "nude, nudes, nudity, naked, topless, bottomless, undressed, nsfw, erotic, erotica, hentai,"
        "pornographic, porn, sexual, sex, fetish, desnudo, desnuda, desnudos, desnudas, erotico,"
        "erotica, porno, pelado, pelada, nu, nua, nackt, nackte, nudo, nuda, nue"
    ),
    "minors": (
        "child, children, kid, kids, boy, boys, girl, girls, teen, teens, teenage, teenager,"
        "toddler, infant, preteen, tween, schoolgirl, schoolboy, underage, minor, minors, loli,"
        "lolicon, shota, shotacon, little girl, little boy, nino, nina, ninos, ninas,"
        "menor de edad, adolescente,"
        "colegiala, crianca, criancas, menino, menina, meninos, meninas, enfant, enfants, fillette,"
        "kind, kinder, bambino, bambina, bambini"
    ),
    "gore": (
        "gore, gory, beheading, beheaded, decapitated, decapitation, dismembered, dismemberment,"
        "mutilated, mutilation, disemboweled, severed head, severed limbs, intestines spilling,"
        "corpse, decapitado, decapitada, descuartizado, mutilado, esquartejado"
    ),
    "hate": (
        "swastika, nazi, nazis, heil hitler, hitler, white power, white supremacy, ku klux klan,"
        "kkk, ethnic cleansing, gas the, lynching, esvastica, suastica, hakenkreuz"
    ),
    "self-harm": (
        "suicide, suicidal, kill myself, killing herself, killing himself, hang himself,"
        "hang herself, self harm, self-harm, slit wrists, cutting wrists, suicidio, suicidarse,"
        "selbstmord"
    ),
}


def bare(text: str) -> str:
    """Lower case without accents, as the check compares."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in parts if not unicodedata.combining(c)).strip()


def main(work: Path, to: Path) -> None:
    if not (found := sorted(work.glob(f"{PACKAGE}-*.tgz"))):
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=work, check=True)
        found = sorted(work.glob(f"{PACKAGE}-*.tgz"))
    rows = [row.split("\t") for row in (to / "glossary.tsv").read_text("utf-8").splitlines()]
    drawn = {bare(word) for _, word, _, _ in rows}
    drawn |= {bare(word) for _, _, _, english in rows for word in english.split()}
    drawn |= set((to / "icons-vocab.txt").read_text().split())
    obscene: set[str] = set()
    with tarfile.open(found[-1]) as tar:
        for language in LANGUAGES:
            listed = json.loads(tar.extractfile(f"package/{language}.json").read())
            words = {bare(word) for word in listed}
            obscene |= words - (INNOCENT if language == "en" else INNOCENT | drawn)
    lists = {name: sorted({bare(w) for w in words.split(",")}) for name, words in OWN.items()}
    lists["obscene"] = sorted(word for word in obscene if len(word) > 1)
    (to / "prompt-words.json").write_text(
        json.dumps(lists, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )
    print({name: len(words) for name, words in lists.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
