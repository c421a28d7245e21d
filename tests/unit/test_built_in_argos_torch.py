"""A real package of Argos, made here with random weights: it needs CTranslate2, not torch."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swell_models.argos_packages import bring
from swell_models.translate import Translator

ctranslate2 = pytest.importorskip("ctranslate2")
sentencepiece = pytest.importorskip("sentencepiece")

from ctranslate2.specs import TransformerSpec  # noqa: E402 - not there without the extra

WIDTH, INNER = 16, 32
TEXTS = ["un gato azul en la nieve", "a blue cat in the snow", "el perro rojo", "the red dog"]


def linear(place: Any, rows: int, columns: int, random: np.random.Generator) -> None:
    place.weight = random.standard_normal((rows, columns)).astype(np.float32) / 4
    place.bias = np.zeros(rows, np.float32)


def norm(place: Any) -> None:
    place.gamma, place.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)


def network(tokens: list[str], folder: Path) -> None:
    """Write a transformer of one layer that has learnt nothing."""
    random = np.random.default_rng(0)
    spec = TransformerSpec.from_config(num_layers=1, num_heads=2, pre_norm=True)
    for place in (spec.encoder.embeddings[0], spec.decoder.embeddings):
        place.weight = random.standard_normal((len(tokens), WIDTH)).astype(np.float32)
    linear(spec.decoder.projection, len(tokens), WIDTH, random)
    for stack in (spec.encoder, spec.decoder):
        norm(stack.layer_norm)
        for layer in stack.layer:
            norm(layer.self_attention.layer_norm)
            linear(layer.self_attention.linear[0], 3 * WIDTH, WIDTH, random)
            linear(layer.self_attention.linear[1], WIDTH, WIDTH, random)
            norm(layer.ffn.layer_norm)
            linear(layer.ffn.linear_0, INNER, WIDTH, random)
            linear(layer.ffn.linear_1, WIDTH, INNER, random)
    for layer in spec.decoder.layer:
        norm(layer.attention.layer_norm)
        for part, rows in zip(layer.attention.linear, (WIDTH, 2 * WIDTH, WIDTH), strict=True):
            linear(part, rows, WIDTH, random)
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.validate()
    spec.optimize(quantization=None)
    spec.save(str(folder))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package from Spanish into English."""
    folder, pieces = tmp_path_factory.mktemp("argos"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=pieces,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    words = sentencepiece.SentencePieceProcessor(model_proto=pieces.getvalue())
    known = [words.id_to_piece(number) for number in range(3, words.get_piece_size())]
    (folder / "model").mkdir()
    network(["<blank>", "<unk>", "<s>", "</s>", *known], folder / "model")
    facts = {"from_code": "es", "to_code": "en", "package_version": "1.9"}
    path = folder / "es_en.argosmodel"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("es_en/metadata.json", json.dumps(facts))
        target.writestr("es_en/sentencepiece.model", pieces.getvalue())
        for file in (folder / "model").iterdir():
            target.write(file, f"es_en/model/{file.name}")
    return path


async def test_a_package_translates_as_its_own_library_does(archive: Path, tmp_path: Path) -> None:
    [package] = await bring(str(archive), tmp_path)
    made = Translator([tmp_path])("un gato azul en la nieve")
    pieces = sentencepiece.SentencePieceProcessor(
        model_file=str(package.folder / "sentencepiece.model")
    )
    [expected] = ctranslate2.Translator(str(package.folder / "model")).translate_batch(
        [pieces.encode("un gato azul en la nieve", out_type=str)],
        beam_size=4,
        length_penalty=0.2,
        replace_unknowns=True,
    )
    assert (made.language, made.by) == ("es", "argos")
    assert made.text == "".join(expected.hypotheses[0]).replace("▁", " ").strip()


async def test_sentences_are_translated_one_by_one(archive: Path, tmp_path: Path) -> None:
    await bring(str(archive), tmp_path)
    translator = Translator([tmp_path])
    one, other = (translator(text, "es").text for text in ("un gato azul.", "el perro rojo."))
    assert translator("un gato azul. el perro rojo.", "es").text == f"{one} {other}"


def test_without_a_package_the_list_is_asked(tmp_path: Path) -> None:
    assert Translator([tmp_path])("un gato azul").by == "glossary"
