"""libretranslatepy, unmodified."""

from collections.abc import Callable

import pytest
from client_harness import Served
from programs import Program


@pytest.fixture(scope="module")
def client(served: Served, python: Callable[..., Program]) -> Program:
    return python("python", served)


def test_texts_are_translated_by_the_built_in_model(client: Program, served: Served) -> None:
    told = client(
        """
        from libretranslatepy import LibreTranslateAPI
        lt = LibreTranslateAPI(url, key)
        tell(auto=lt.translate("un gato azul en la nieve", "auto", "en"))
        tell(told=lt.translate("eine rote Katze im Schnee", "de", "en"))
        tell(found=lt.detect("un gato azul en la nieve"))
        tell(codes=[each["code"] for each in lt.languages()])
        long = "\\n".join(["un gato azul"] * 300)
        tell(lines=len(lt.translate(long, "es", "en").splitlines()))
        """,
        url=f"{served.url}/libretranslate",
        key=served.key,
    )
    assert told["auto"] == "a blue cat in the snow"
    assert told["told"] == "a red cat in the snow"
    assert told["found"][0]["language"] == "es"
    assert told["found"][0]["confidence"] > 50
    assert {"en", "es", "de", "fr", "it", "pt"} == set(told["codes"])
    assert told["lines"] == 300


def test_errors_are_told_in_its_words(client: Program, served: Served) -> None:
    told = client(
        """
        import urllib.error
        from libretranslatepy import LibreTranslateAPI
        def failed(name, lt, *words):
            try: lt.translate(*words)
            except urllib.error.HTTPError as error:
                tell(**{name: [error.code, json.load(error)["error"]]})
        failed("target", LibreTranslateAPI(url, key), "hola", "es", "fr")
        failed("source", LibreTranslateAPI(url, key), "hola", "xx", "en")
        failed("key", LibreTranslateAPI(url), "hola", "es", "en")
        """,
        url=f"{served.url}/libretranslate",
        key=served.key,
    )
    assert told["target"] == [400, "target: fr is not supported: there is en"]
    assert told["source"][0] == 400
    assert told["key"][0] == 403
