import io
import json
import zipfile
from pathlib import Path

import pytest
from aiohttp import web

from loopback import listening
from swell.core.errors import NotFound
from swell.sdk.context import Item, Reject
from swell_models.argos_packages import RefusedPackage, bring

pytest.importorskip("swell_models")

from swell.models.onnx_sessions import weights
from swell_models.translate import Translate, Translator


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator()


@pytest.mark.parametrize(
    ("said", "language", "meant"),
    [
        ("un gato azul en la nieve", "es", "a blue cat in the snow"),
        ("un perro pequeño y feliz", "es", "a small and happy dog"),
        ("pastel de cumpleaños", "es", "birthday cake"),
        ("una manzana morada", "es", "a purple apple"),
        ("um leão feliz na floresta", "pt", "a happy lion in the forest"),
        ("coração vermelho", "pt", "red heart"),
        ("un chat noir sous la pluie", "fr", "a black cat in the rain"),
        ("ein blauer Hund im Schnee", "de", "a blue dog in the snow"),
        ("un'auto rossa in spiaggia", "it", "a red car at the beach"),
    ],
)
def test_what_a_prompt_says_is_said_in_english(
    translator: Translator, said: str, language: str, meant: str
) -> None:
    made = translator(said)
    assert (made.text, made.language, made.by, made.known) == (meant, language, "glossary", 1.0)


PEOPLE = {
    "es": "un niño|una niña|una chica|los niños|un hombre|una mujer|la abuela|una familia feliz",
    "pt": "um menino|uma menina|uma moça|os meninos|um homem|uma mulher|a avó|uma família feliz",
    "fr": "un garçon|une fille|une fille|les garçons|un homme|une femme|la grand-mère"
    "|une famille heureuse",
    "de": "ein Junge|ein Mädchen|ein Mädchen|die Jungs|ein Mann|eine Frau|die Oma"
    "|eine glückliche Familie",
    "it": "un ragazzo|una ragazza|una bambina|i ragazzi|un uomo|una donna|la nonna"
    "|una famiglia felice",
}
MEANT = "a boy|a girl|a girl|the boys|a man|a woman|the grandmother|a happy family"


@pytest.mark.parametrize("language", PEOPLE)
def test_people_are_who_they_are(translator: Translator, language: str) -> None:
    made = [translator(said) for said in PEOPLE[language].split("|")]
    assert [one.text for one in made] == MEANT.split("|")
    assert {one.language for one in made} == {language}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("bambine", "girls"),
        ("dos perros", "two dog"),
        ("eine junge Katze", "a young cat"),
        ("eine Taschenlampe und ein Eichhörnchen", "a flashlight and a squirrel"),
        ("un écureuil dans la forêt", "a squirrel in the forest"),
        ("una mariquita roja", "a red ladybug"),
        ("un nudo", "a knot"),
        ("uma joaninha", "a ladybug"),
        ("un pulcino giallo", "a yellow chick"),
        ("osito de peluche", "teddy bear"),
        ("un camion de pompiers rouge", "a red fire truck"),
        ("un vestido azul", "a blue dress"),
        ("une citrouille", "a pumpkin"),
        ("un dinosauro", "a dinosaur"),
        ("un gâteau d'anniversaire", "a birthday cake"),
        ("un chat sous l'eau", "a cat under water"),
        ("un pesce sott\u2019acqua", "a fish under water"),
    ],
)
def test_common_things_are_what_they_are(translator: Translator, said: str, meant: str) -> None:
    assert translator(said).text == meant


def test_what_the_list_is_written_from_is_what_it_says(translator: Translator) -> None:
    source = Path(__file__).parents[2] / "training" / "glossary.txt"
    if not source.is_file():
        pytest.skip("installed without what the list was made from")
    _, nouns = source.read_text(encoding="utf-8").split("[noun]\n")
    wrong = []
    for row in nouns.splitlines():
        english, words = row.split(": ", 1)
        for language, theirs in zip(PEOPLE, words.split(" | "), strict=True):
            # Words after the first may mean another thing first: bonito, cara.
            first = theirs.split(", ")[0]
            first = first[1:].capitalize() if first[0] == "^" else first
            made = translator(first, language).text if first != "-" else english
            wrong += [] if made == english else [(first, made, english)]
    assert wrong == []


@pytest.mark.parametrize(
    ("said", "language", "meant"),
    [
        ("aviao", "pt", "airplane"),
        ("pajaro", "es", "bird"),
        ("un leon", "es", "a lion"),
        ("un pinguino", None, "a penguin"),
        ("coracao vermelho", "pt", "red heart"),
        ("corazones rojos", "es", "red heart"),
        ("um leao", "pt", "a lion"),
        ("arbol", "es", "tree"),
        ("camion", None, "truck"),
        ("helicoptero", None, "helicopter"),
        ("sandia", "es", "watermelon"),
        ("gato no sofa", "pt", "cat in the couch"),
        ("un pajaro azul", "es", "a blue bird"),
        ("ein Madchen", "de", "a girl"),
        ("un chateau", "fr", "a castle"),
        ("PÁJARO", "es", "bird"),
        ("cao", "pt", "dog"),
        ("um pavao", "pt", "a peacock"),
        ("ninas", "es", "girls"),
        ("tulipan", "es", "tulip"),
        ("piña", "es", "pineapple"),
    ],
)
def test_words_are_known_without_their_accents_too(
    translator: Translator, said: str, language: str | None, meant: str
) -> None:
    made = translator(said)
    assert (made.text, made.by, made.known) == (meant, "glossary", 1.0)
    # Several languages write some of them alike.
    assert made.language == language or language is None


def test_a_word_means_first_what_it_is_written_as(translator: Translator) -> None:
    assert translator("pino", "es").text == "pine tree"
    assert translator("pina", "es").text == "pineapple"
    assert translator("as", "fr").text == "as"
    # Tea without its accent would be an article in English.
    assert translator("thé", "fr").text == "tea"
    assert translator("the", "fr").text == "the"


@pytest.mark.parametrize(
    ("said", "language", "note"),
    [
        ("cigüeñal", "en", "This may be Spanish; it was read as English."),
        ("ovečka", "en", "This may be "),
        ("plimbra rotolassi", "en", "This may be "),
        ("zabrinando tristolo pelugi", "pt", "This model knows none of these words in Portuguese"),
        (
            "czerwony lis na śniegu",
            "pl",
            "This looks like Polish, which this model cannot translate",
        ),
        (
            "karda k\u0131rm\u0131z\u0131 bir tilki",
            "tr",
            "This looks like Turkish, which this model cannot translate",
        ),
        ("en röd räv i snön", "sv", "This looks like Swedish, which this model cannot translate"),
        ("レッド", "ja", "This looks like Japanese, which this model cannot translate"),
    ],
)
def test_what_nobody_translates_stays_as_it_is_and_a_note_says_so(
    translator: Translator, said: str, language: str, note: str
) -> None:
    made = translator(said)
    assert (made.text, made.language, made.by, made.known) == (said, language, "none", 0.0)
    assert made.note.startswith(note)


@pytest.mark.parametrize("said", ["un gato azul", "a red fox", "portrait of Frida Kahlo"])
def test_a_text_whose_language_is_plain_has_no_note(translator: Translator, said: str) -> None:
    assert translator(said).note == ""


@pytest.mark.parametrize(
    "said",
    [
        *("a vintage typewriter", "vintage car", "retro car", "noir detective", "cozy typewriter"),
        *("an opulent ballroom", "a derelict ship", "verdant valley", "sinister clown"),
        *("translucent umbrella", "a taupe sweater", "idyllic meadow", "whimsical treehouse"),
        *("macabre carnival", "iridescent beetle", "a dilapidated barn", "petite ballerina"),
        *("piano", "marina", "grand piano", "a mosquito", "pasta", "animal print"),
    ],
)
def test_words_that_are_all_english_are_english(translator: Translator, said: str) -> None:
    made = translator(said)
    assert (made.text, made.language, made.note) == (said, "en", "")


@pytest.mark.parametrize(
    "said",
    [
        "Rio de Janeiro at sunset",
        "Los Angeles skyline",
        "Leonardo da Vinci painting a robot",
        "Notre Dame de Paris on fire",
        "Vincent van Gogh starry night",
        "Xenomorph queen",
        "my friend Zbigniew Brzezinski at the beach",
        "a beutiful castel on a hill",
        "a drak forest with mushroms",
        "a large orange ballon",
        "the cat's paw",
        "state-of-the-art kitchen",
        "a 3-year-old's birthday cake",
        "3d printer",
        "vitamin e",
        "rock 'n' roll",
        "we don't know",
    ],
)
def test_a_name_a_typo_a_number_or_a_mark_leaves_english_english(
    translator: Translator, said: str
) -> None:
    made = translator(said)
    assert (made.text, made.language) == (said, "en")


SENTENCES = {
    "es": "No quiero que aparezca gente en la imagen."
    "|El hombre camina solo por la calle vacía."
    "|Una vieja máquina de escribir sobre una mesa de madera."
    "|una pizza grande con queso y tomate",
    "pt": "Não quero pessoas na imagem."
    "|O homem caminha sozinho pela rua vazia."
    "|Uma velha máquina de escrever em cima de uma mesa."
    "|um prato de frutos do mar",
    "fr": "Je ne veux pas de personnes sur l'image."
    "|L'homme marche seul dans la rue vide."
    "|Une vieille machine à écrire sur une table en bois."
    "|une pizza avec du fromage et des tomates",
    "de": "Ich möchte keine Menschen auf dem Bild."
    "|Der Mann geht allein durch die leere Straße."
    "|Eine alte Schreibmaschine auf einem Holztisch."
    "|die Torheit begleitet uns in allen Lebensperioden",
    "it": "Non voglio persone nell'immagine."
    "|L'uomo cammina da solo per la strada vuota."
    "|Una vecchia macchina da scrivere su un tavolo di legno."
    "|una pizza grande con formaggio e pomodoro",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_are_known_by_their_function_words(translator: Translator, language: str) -> None:
    told = [translator.detect(said) for said in SENTENCES[language].split("|")]
    assert told == [language] * 4


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("a red fox en la nieve", "a red fox in the snow"),
        ("a red car con un perro", "a red car with a dog"),
        ("a red panda en un bosque", "a red panda in a forest"),
        ("un perro en a red car", "a dog in a red car"),
        ("fox con un gato rojo", "fox with a red cat"),
        ("blue gato", "blue cat"),
        ("the della", "the of the"),
    ],
)
def test_what_is_english_already_stays_so_beside_another_language(
    translator: Translator, said: str, meant: str
) -> None:
    assert translator(said).text == meant


def test_english_is_known_beside_another_language(translator: Translator) -> None:
    assert translator("a red fox en la nieve").known == 1.0
    # What is an article in both is one of the language, where that has every word.
    assert translator("a casa azul", "pt").text == "the blue house"


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("a fox\x00", "a fox"),
        ("back\x00", "back"),
        ("\ufeffa f\u200box", "a fox"),
        ("a\u200bred\u200bfox", "a red fox"),
        ("\u202ea fox\u202c", "a fox"),
        ("a f\u200dox", "a fox"),
        ("👩\u200d🚀", "👩\u200d🚀"),
    ],
)
def test_signs_that_nobody_sees_make_no_word_foreign(
    translator: Translator, said: str, seen: str
) -> None:
    made = translator(said)
    assert (made.text, made.language) == (seen, "en")


@pytest.mark.slow
def test_an_end_of_text_makes_no_word_of_the_pictures_foreign(translator: Translator) -> None:
    words = [
        line
        for line in weights("icons-vocab.txt").read_text(encoding="utf-8").splitlines()
        if line.isascii() and line.isalpha() and len(line) > 2
    ]
    assert len(words) > 7000
    foreign = [word for word in words if translator.detect(word) != "en"]
    assert [w for w in words if translator.detect(f"{w}\x00") != "en"] == foreign
    assert len(foreign) <= 20


@pytest.mark.parametrize(
    ("said", "language"),
    [
        ("裸の少女", "ja"),
        ("赤い狐", "ja"),
        ("女孩和猫", "zh"),
        ("소녀와 고양이", "ko"),
        ("рыжая лиса", "ru"),
        ("червона лисиця та їжак", "uk"),
        ("κόκκινη αλεπού", "el"),
        ("ثعلب أحمر", "ar"),
    ],
)
def test_a_script_tells_its_language(translator: Translator, said: str, language: str) -> None:
    assert translator.detect(said) == language


@pytest.mark.parametrize(
    "said",
    [
        "cat",
        "lama",
        "a kind nude",
        "a kind old man",
        "a red mano",
        "no fox",
        "a beach with no people",
        "all come",
        "a bella cat",
        "robot lama",
        "cute corgi puppy",
        "a hut in the forest",
        "a band on stage",
        "a ninja turtle",
        "capybara",
        "pizza",
        "a red fox in the snow",
        "spaceship flying to the moon",
        "Mona Lisa in the style of Van Gogh, 8k, trending on artstation",
        "masterpiece, best quality, 1girl",
        "1234 !?",
        "👾",
        "",
    ],
)
def test_english_stays_as_it_is(translator: Translator, said: str) -> None:
    made = translator(said)
    assert (made.text, made.language, made.by) == (said, "en", "none")


def test_what_is_not_known_stays_as_it_is_and_is_told(translator: Translator) -> None:
    made = translator("el gato Xoloitzcuintle en la nieve")
    assert "Xoloitzcuintle" in made.text
    assert "cat" in made.text
    assert made.known == 0.833


def test_a_language_without_a_list_is_told_and_left(translator: Translator) -> None:
    made = translator("кот в снегу")
    assert (made.text, made.language, made.known) == ("кот в снегу", "ru", 0.0)


def test_marks_stay_where_they_were(translator: Translator) -> None:
    assert translator("un gato, un perro (azul)!").text == "a cat, a dog (blue)!"


def test_a_language_that_is_named_is_not_looked_for(translator: Translator) -> None:
    assert translator("casa", "it").text == "house"


def test_the_model_refuses_a_language_that_nobody_can_translate() -> None:
    model = Translate()
    model.load("cpu")
    good, bad = (Item(Translate.Input(text="un gato", source=source)) for source in ("auto", "tlh"))
    [made, refused] = model.run([good, bad])
    assert made.text == "a cat"
    assert isinstance(refused, Reject)
    assert "es" in str(refused)


# --- packages of Argos ---------------------------------------------------------------------------


def packed(members: dict[str, bytes], root: str = "es_en") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{root}/{name}", data)
    return target.getvalue()


def package(**facts: str) -> bytes:
    told = {"from_code": "es", "to_code": "en", "package_version": "1.9"} | facts
    return packed(
        {
            "metadata.json": json.dumps(told).encode(),
            "sentencepiece.model": b"pieces",
            "model/model.bin": b"numbers",
            "model/shared_vocabulary.json": b"[]",
            "stanza/es.pt": b"could carry a program",
            "README.md": b"licence: MIT",
        }
    )


async def test_packages_of_a_folder_are_unpacked_without_what_could_run(tmp_path: Path) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    (source / "a.argosmodel").write_bytes(package())
    (source / "b.argosmodel").write_bytes(package(from_code="en", to_code="es"))
    [found] = await bring(str(source), target)
    assert (found.language, found.version) == ("es", "1.9")
    names = {str(p.relative_to(found.folder)) for p in found.folder.rglob("*") if p.is_file()}
    assert names == {
        *("metadata.json", "README.md", "sentencepiece.model"),
        *("model/model.bin", "model/shared_vocabulary.json"),
    }
    assert [path.name for path in target.iterdir()] == [found.folder.name]


async def test_a_newer_package_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "a.argosmodel"
    for version in ("1.0", "1.1"):
        path.write_bytes(package(package_version=version))
        [found] = await bring(str(path), tmp_path / "to")
    assert json.loads((found.folder / "metadata.json").read_text())["package_version"] == "1.1"


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        packed({"metadata.json": b"no JSON"}),
        packed({"model/model.bin": b""}),
        packed({"metadata.json": b'{"from_code": "../es", "to_code": "en"}'}),
        packed({"metadata.json": b'{"from_code": "es", "to_code": "en"}', "bpe.model": b""}),
    ],
)
async def test_what_is_no_package_is_refused_and_leaves_nothing(
    tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "a.argosmodel").write_bytes(data)
    with pytest.raises(RefusedPackage):
        await bring(str(tmp_path / "a.argosmodel"), tmp_path / "to")
    assert not list(tmp_path.glob("to/*"))


async def test_no_package_of_a_language_that_was_named_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.argosmodel").write_bytes(package())
    with pytest.raises(NotFound, match="pt"):
        await bring(str(tmp_path), tmp_path / "to", ["es", "pt"])


async def test_a_mirror_is_asked_for_what_is_wanted_only(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path == "/argos/index.json":
            rows = [
                {"from_code": code, "to_code": "en", "links": [f"{code}.argosmodel"]}
                for code in ("es", "fr")
            ]
            return web.json_response(rows)
        return web.Response(body=package())

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with listening(app) as url:
        mirror = f"{url}/argos"
        [found] = await bring(mirror, tmp_path / "to", ["es"])
        with pytest.raises(NotFound):
            await bring(f"{mirror}/nothing/index.json.gz", tmp_path / "to")
    assert found.language == "es"
    assert asked[:2] == ["/argos/index.json", "/argos/es.argosmodel"]
