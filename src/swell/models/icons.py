"""Icons from words: a small flow-matching model that draws in the styles of four emoji sets.

Text: MiniLM-L6 (arXiv 2002.10957), 9,000 word pieces. Picture: 8x8 latents of 48 numbers (a fixed
PCA of 8x8-pixel patches), a UNet of 19.9 M parameters that predicts the velocity of a flow (Lipman
et al., "Flow Matching", arXiv 2210.02747), and a convolutional decoder to 128 px; then Real-ESRGAN.

    x_1 = noise,  x_{t - d} = x_t - d v,  v = u + g (c - u)

with c the velocity predicted with the words, u without them, and g the guidance (arXiv 2207.12598).
The words are always padded to 16 pieces. Without words all pieces are zeros, as in training.
Weights are int4 with a scale per 32 and int8 with a scale per output channel, and become float32
when they are read.

If there are at most as many cores as rows in a step (`Icons.bucket`), each core computes its own
rows: threads that share a row wait for each other after every operator, longer on a busy machine.
A row's result has the same bits in any batch, so this changes no picture.
"""

import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from swell import ui
from swell.core.records import Speed
from swell.models.onnx_sessions import session, weights
from swell.models.pictures import Pixels, closed
from swell.models.subjects import Subjects
from swell.models.upscale import Upscaler
from swell.models.word_lists import word_lists
from swell.sdk.context import Item
from swell.sdk.media import Image
from swell.sdk.step_model import Plan, Sampler, StepModel

Floats = NDArray[np.float32]

#: In the order of the numbers that the network was trained with; "none" is any of them.
STYLES = ("noto", "fluent", "flat", "ink")
LATENTS = (48, 8, 8)
#: Pixels a side before a picture is enlarged.
_SIDE = 128
#: Backdrops, each with whether the picture is mirrored. The seed selects one if the prompt leaves
#: it open. Pictures of one task have neighbouring seeds, so they differ.
LOOKS: Final = (
    ("", False),
    ("on a pink background", True),
    ("in a meadow", False),
    ("on a yellow background", True),
    ("on the beach", False),
    ("on a light blue background", True),
)
#: Words for subjects that a mirror makes wrong.
_ONE_SIDED: Final = frozenset(("mark", "note", "notes", "music", "watch", "wristwatch", "piano"))
#: Most pieces that the picture network reads, and most pieces of the whole sentence.
STATES, PIECES = 16, 64
#: Batch sizes that `warmup` compares: one row, one or two rows for each of a few threads, and more.
_LOOK = (1, 2, 5, 64)


def _not_blank(prompt: str) -> str:
    # Zero-width and control characters (Cf, Cc) are invisible.
    if all(c.isspace() or unicodedata.category(c) in ("Cc", "Cf") for c in prompt):
        raise PydanticCustomError(
            "blank", "The prompt is empty. Name what to draw, such as 'a red fox in the snow'."
        )
    return prompt


#: A prompt with a visible character. The pattern states the same in the JSON Schema.
Prompt = Annotated[str, AfterValidator(_not_blank), Field(json_schema_extra={"pattern": r"\S"})]


class WordPiece:
    """BERT's tokenizer, lower case, with a vocabulary of one piece a line.

    Words are cut greedily into the longest known pieces; `##` marks one that continues a word.
    Source: Wu et al., arXiv 1609.08144, section 4.1.
    """

    def __init__(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines()
        self._ids = {piece: number for number, piece in enumerate(lines)}

    def ids(self, text: str) -> list[int]:
        """Return numbers of pieces, between those of `[CLS]` and `[SEP]`; at most `PIECES`."""
        plain = unicodedata.normalize("NFD", text.lower())
        plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
        words = re.findall(r"[^\W_]+|[^\w\s]|_", plain)
        pieces = [number for word in words for number in self._pieces(word)]
        return [self._ids["[CLS]"], *pieces[: PIECES - 2], self._ids["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self._ids), None)
            if end is None:
                return [self._ids["[UNK]"]]
            found.append(self._ids[prefix + word[start:end]])
            start = end
        return found


class Icons(StepModel):
    """Draws an icon from a few words.

    A small demonstration model that comes with Swell, so that a first picture needs no download and
    no GPU. It is not a general text-to-image model.

    **Subjects, styles.** One of 337 subjects: animals, food, faces, weather, vehicles, buildings,
    hearts and everyday things. It draws in one of four styles, in another colour ("a blue cat"), on
    a coloured background ("a fox on a yellow background"), or in a simple scene: snow, night,
    space, beach, meadow, sunset, rain, under water, desert, city. It understands English only.

    **Warnings.** If it does not know the subject of a prompt, it draws the closest one that it
    knows, or a thinking face, and adds the warning `unknown_subject` with three suggestions. It
    mends typos ("dargon") and adds the warning `typo`. Of 300 prompts outside its vocabulary it
    warned about 94 %, of 300 inside about none.

    **What the seed chooses.** If the prompt names no background and no colour, the seed chooses a
    backdrop. It also chooses whether the picture is mirrored, unless that would show letters or
    dials the wrong way round. Turn `vary` off to get the plain picture.

    **Not drawn.** Actions, counts, text, and real people. Two subjects become two small
    pictures side by side, often of the same thing.

    **Not checked.** Prompts and pictures. `swell/artwork` checks both.

    **It remembers.** It was trained on 1,348 icons and repeats them closely. Treat a picture as
    derived from the icon set of its style, under the licence of that set.

    **How it was judged.** A network that was trained on other icon sets recognised 96 % (`noto`),
    80 % (`fluent`) and 78 % (`flat`) of fifty things as drawn here, and 96, 80 and 82 % of the real
    icons. It cannot judge `ink`: it recognised 9 % of the drawn icons and 10 % of the real ones,
    because it never saw line drawings.

    | | |
    |---|---|
    | text encoder | all-MiniLM-L6-v2, Apache-2.0, cut to 9,000 word pieces |
    | picture network | UNet, 19.9 M parameters, flow matching, 3.5 hours on shared CPU cores |
    | upscaler | Real-ESRGAN animevideov3 x4, BSD-3-Clause |
    | weights on disk | 25 MB, int4 and int8 |
    | time | 0.3 s for 8 steps on one CPU core, and 0.2 s to enlarge |
    | memory | 310 MB |
    | steps | shared by pictures of many tasks, unpadded where rows are alike in any company |

    | style | trained on | by | licence |
    |---|---|---|---|
    | `noto` | Noto Emoji | Google | Apache-2.0 |
    | `fluent` | Fluent Emoji | Microsoft | MIT |
    | `flat` | Fluent Emoji Flat | Microsoft | MIT |
    | `ink` | Fluent Emoji High Contrast | Microsoft | MIT |

    It began as a network that had also seen Noto Emoji v1 (Google, Apache-2.0), Twemoji (Twitter,
    CC BY 4.0), EmojiTwo (EmojiTwo and Emoji One, CC BY 4.0), Firefox OS Emoji (Mozilla, Apache-2.0
    and CC BY 4.0) and Streamline Emojis (Streamline, CC BY 4.0). The scripts in `training/` show
    how it was made.
    """

    name = "swell/icons"
    licence = (
        "Apache-2.0 AND MIT AND BSD-3-Clause AND Unicode-3.0 AND LicenseRef-SCOWL; "
        "pictures under the licence of their style's set"
    )
    credits = """
    Noto Emoji by Google (Apache-2.0); Fluent Emoji by Microsoft (MIT). Trained from a network that
    had also seen Twemoji by Twitter, EmojiTwo, Firefox OS Emoji by Mozilla and Streamline Emojis
    ([CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)). Words: all-MiniLM-L6-v2 by
    sentence-transformers (Apache-2.0). Enlarged by Real-ESRGAN, (c) 2021 Xintao Wang
    (BSD-3-Clause). Word lists: SCOWL by Kevin Atkinson and others; names of emoji from the Unicode
    CLDR.
    """
    memory_bytes = 310_000_000
    speed: ClassVar[Sequence[Speed]] = (
        Speed("one core of an AMD EPYC", "8 steps, enlarged to 512 px", 0.44, "2026-11-25"),
    )
    samples = {
        "a red fox in the snow, noto": "samples/icons-fox.webp",
        "rocket in space, fluent": "samples/icons-rocket.webp",
        "a castle on a hill at sunset, ink": "samples/icons-castle.webp",
    }
    Output = Image
    #: Two pictures with guidance, if a row's result depends on the batch size (`warmup`). A larger
    #: bucket would slow down a single picture.
    bucket = 4
    #: A row costs 5 % less in a batch of 32 than of 16, another 1.8 % less in 48, no less in 64.
    most_rows = 64
    #: ONNX Runtime has kernels for any number of rows.
    padded = False
    files: ClassVar[Sequence[str | Path]] = (
        weights("icons-text.onnx"),
        weights("icons-vocab.txt"),
        weights("icons-names.npz"),
        weights("english.txt.gz"),
        weights("glossary.tsv.gz"),
        weights("icons-unet.onnx"),
        weights("icons-decoder.onnx"),
        weights("upscale.onnx"),
    )
    examples = (
        {"prompt": "a red fox in the snow"},
        {"prompt": "a blue cat", "style": "fluent"},
        {"prompt": "rocket in space", "style": "flat"},
    )

    class Input(BaseModel):
        """What to draw, and how."""

        prompt: Annotated[
            Prompt,
            Field(
                max_length=500,
                title="Prompt",
                description="One subject, perhaps with a colour, a background or a scene.",
                examples=["a red fox in the snow", "a blue cat", "rocket in space"],
            ),
            ui.textarea(rows=2),
        ]
        style: Annotated[
            Literal["noto", "fluent", "flat", "ink", "none"],
            Field(title="Style", description="The icon set to draw like; none mixes them."),
            ui.styles(),
        ] = "noto"
        vary: Annotated[
            bool,
            Field(
                title="Vary",
                description="Let the seed choose a backdrop and a side where the prompt does not.",
            ),
        ] = True
        steps: Annotated[
            int,
            Field(
                ge=1, le=50, title="Steps", description="More steps take longer and change little."
            ),
            ui.slider(),
        ] = 8
        guidance: Annotated[
            float,
            Field(
                ge=0,
                le=15,
                title="Guidance",
                description="How closely the picture follows the prompt.",
            ),
            ui.slider(step=0.5),
        ] = 3.0
        size: Annotated[
            Literal[128, 512],
            Field(title="Size", description="Pixels per side; 512 is 128 enlarged."),
        ] = 512
        seed: Annotated[
            int | None,
            Field(
                ge=0, lt=2**63, title="Seed", description="The same seed gives the same picture."
            ),
            ui.seed(),
        ] = None

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def load(self, device: str) -> None:
        """Read the weights. Everything runs on the CPU; `device` is ignored."""
        cores = self._threads or _cores()
        self._parts = cores if cores <= self.bucket else 1
        self._pool = ThreadPoolExecutor(max(1, self._parts - 1), "icons")
        self._words = WordPiece(weights("icons-vocab.txt"))
        spins = self._parts == 1
        self._text = self._text_session()
        self._unet = session("icons-unet.onnx", cores if self._parts == 1 else 1, spins=spins)
        self._decoder = session("icons-decoder.onnx", cores, spins=spins)
        if self._parts > 1:
            self._decoder_of_one = session("icons-decoder.onnx", 1)
        self._upscaler = Upscaler(cores)

    def warmup(self) -> None:
        """Draw one picture in one step, and check whether a row's result depends on the batch size.

        It does not on the processors seen so far; others may use another kernel for a single row.
        """
        self.run([Item(self.Input(prompt="cat", steps=1))])
        words = self._encode("cat")
        rows: dict[str, Any] = {n: np.stack([value] * _LOOK[-1]) for n, value in words.items()}
        rows["style"] = np.arange(_LOOK[-1]) % 2
        x = np.random.default_rng(0).standard_normal((_LOOK[-1], *LATENTS), np.float32)
        t = np.linspace(0.2, 1, _LOOK[-1], dtype=np.float32)
        said = [
            self.denoise(x[:n], t[:n], {name: value[:n] for name, value in rows.items()})
            for n in _LOOK
        ]
        self.batch_invariant = all(np.array_equal(each, said[-1][: len(each)]) for each in said)

    def prepare(self, item: Item[Input]) -> Plan:
        """Read the prompt, and warn about words that cannot be drawn."""
        return self._plan(item, self._read(item, item.input.prompt))

    def _read(self, item: Item[Any], prompt: str) -> str:
        """Return the words to draw; the seed chooses a backdrop where they have none."""
        reading = self._subjects.read(prompt, self.name)
        for warning in reading.warnings:
            item.warn(*warning)
        if not (reading.is_open and item.input.vary):
            return reading.prompt
        backdrop, _ = LOOKS[_seed(item) % len(LOOKS)]
        return f"{reading.prompt} {backdrop}".strip()

    def _small(self, latents: Floats, item: Item[Any]) -> Pixels:
        """Return the decoded picture, mirrored if the task asks for it, before it is enlarged."""
        return np.asarray(_drawn(self._decoder, latents, _is_mirrored(item)))

    @cached_property
    def _subjects(self) -> Subjects:
        """The subjects, loaded on first use: prompts are read before the model is loaded."""
        pieces, text = WordPiece(weights("icons-vocab.txt")), self._text_session()
        return Subjects(
            weights("icons-names.npz"),
            lambda words: _encoded(pieces, text, words)[1],
            *word_lists(),
        )

    def _text_session(self) -> Any:
        cores = self._threads or _cores()
        # Threads that spin until the next call would take the cores from the rows' own threads.
        return session("icons-text.onnx", cores, spins=cores > self.bucket)

    @staticmethod
    def _plan(item: Item[Any], words: str) -> Plan:
        asked = item.input
        # Guidance 1 needs no second row: u + (c - u) is c.
        return Plan(
            sampler=Sampler("flow_euler", asked.steps, spacing="even", train_steps=1),
            shape=LATENTS,
            words=words,
            guidance=None if asked.guidance == 1 else asked.guidance,
            values={"style": STYLES.index(asked.style) if asked.style in STYLES else -1},
            seed=_seed(item),
        )

    def encode(self, words: list[str]) -> list[Mapping[str, Floats]]:
        """Encode prompts. Shapes: states (16, 384), sentence (384,) of unit length."""
        return [self._encode(prompt) for prompt in words]

    def _encode(self, prompt: str) -> Mapping[str, Floats]:
        states, sentence = _encoded(self._words, self._text, prompt)
        padded = np.zeros((STATES, states.shape[1]), np.float32)
        padded[: len(states)] = states[:STATES]
        return {"states": padded, "sentence": sentence}

    def denoise(self, x: Floats, t: Floats, conditions: Mapping[str, Any]) -> Floats:
        """Return the velocity. Shapes: x (B, 48, 8, 8), t (B,) from 1, noise, to 0."""
        heard = {"latents": x, "time": t, **conditions}
        size = -(-len(x) // self._parts)
        if size == len(x):
            return self._say(heard)
        first, *others = (
            {name: rows[start : start + size] for name, rows in heard.items()}
            for start in range(0, len(x), size)
        )
        waiting = [self._pool.submit(self._say, part) for part in others]
        return np.concatenate([self._say(first), *(part.result() for part in waiting)])

    def _say(self, heard: Mapping[str, Any]) -> Floats:
        said: Floats = self._unet.run(None, heard)[0]
        return said

    def preview(self, latents: Floats, item: Item[Any]) -> PIL.Image.Image:
        """Decode one. Shapes: (48, 8, 8) -> 128 x 128 px."""
        return _drawn(self._decoder, latents, _is_mirrored(item))

    def decode(self, latents: Floats, item: Item[Any]) -> Any:
        """Decode one picture, and enlarge it if asked to.

        If each core computes its own rows, a separate thread decodes a picture of 128 px. Enlarging
        takes as long as drawing, so it uses all cores.
        """
        if item.input.size == _SIDE:
            if self._parts == 1:
                return Image(closed(self._small(latents, item)))
            return partial(_image, self._decoder_of_one, latents, _is_mirrored(item))
        return Image(closed(self._upscaler(self._small(latents, item))))


def _seed(item: Item[Any]) -> int:
    asked: int | None = item.input.seed
    return item.seed if asked is None else asked + item.index


def _is_mirrored(item: Item[Any]) -> bool:
    asked = item.input
    _, is_mirrored = LOOKS[_seed(item) % len(LOOKS)]
    return asked.vary and is_mirrored and _ONE_SIDED.isdisjoint(asked.prompt.lower().split())


def _encoded(pieces: WordPiece, text: Any, prompt: str) -> tuple[Floats, Floats]:
    """Return states and sentence. Shapes: (pieces, 384), (384,)."""
    # One at a time: a batch must be padded to its longest prompt, and costs more.
    ids = pieces.ids(prompt)
    fed = {"ids": np.array([ids], np.int64), "mask": np.ones((1, len(ids)), np.int64)}
    states, sentence = text.run(None, fed)
    return states[0], sentence[0]


def _image(decoder: Any, latents: Floats, is_mirrored: bool) -> Image:
    return Image(_drawn(decoder, latents, is_mirrored))


def _drawn(decoder: Any, latents: Floats, is_mirrored: bool) -> PIL.Image.Image:
    picture = _picture(decoder, latents)
    return PIL.ImageOps.mirror(picture) if is_mirrored else picture


def _picture(decoder: Any, latents: Floats) -> PIL.Image.Image:
    pixels = decoder.run(None, {"latents": latents[None]})[0][0]
    pixels = ((pixels.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    return PIL.Image.fromarray(pixels.transpose(1, 2, 0))


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
