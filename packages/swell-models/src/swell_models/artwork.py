"""From words in any of a few languages to a finished picture, in one request.

    translate → check prompt → generate → style → upscale → check picture

Each stage is a model of its own too; here they share a process, so that a request waits in one
queue, and pictures of many requests share the steps of `generate`. What a picture still needs when
it is drawn is done in another thread while the next ones are drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.core.clock import SystemClock
from swell.core.records import Speed
from swell.models.icons import Floats, Icons, Prompt
from swell.models.onnx_sessions import weights
from swell.models.pictures import Pixels, resized
from swell.models.prompt_check import CATEGORIES, PromptWords
from swell.models.safety import UNSAFE_FROM, SafetyScore
from swell.sdk.context import Item, Reject
from swell.sdk.media import Image
from swell.sdk.step_model import Plan, StepModel
from swell.settings.environment import argos_folders
from swell_models import paint
from swell_models.translate import READ, Translation, Translator

STAGES: Final = ("translate", "check_prompt", "generate", "style", "upscale", "check_picture")
#: The enlarger's.
_FACTOR: Final = 4


@dataclass(slots=True)
class _Piece:
    """What is known of one picture before it is drawn."""

    made: Translation
    #: Seconds of each stage that is over.
    stages: dict[str, float] = field(default_factory=dict)
    #: When it was ready to be drawn, in seconds of the clock.
    ready_s: float = 0.0


class Artwork(Icons):
    """From a prompt to a finished picture in one request.

    The model translates the prompt, checks it, draws it, paints it, enlarges it and checks the
    picture. The prompt may be in English, Spanish, Portuguese, French, German or Italian, and in
    more languages with packages of Argos Translate. `swell/icons` draws, so a prompt should name
    one thing; `art` paints it in one of 26 styles. Prompts and pictures that do not pass the checks
    are refused with a reason. Warnings on the task say when the language cannot be translated and
    when the subject is unknown. There are no previews, because a picture is shown only after its
    check.

    The result has the seconds that each stage took. `generate` includes waiting for others.

    | stage | model | time on one CPU core |
    |---|---|---|
    | translate | `swell/translate` | 1 ms |
    | check prompt | `swell/prompt-check` | 1 ms |
    | generate | `swell/icons` | 0.2 s |
    | style | `swell/paint`, at 512 px, to which it is enlarged first | 0.5 s |
    | upscale | `swell/upscale` | 0.2 s to 512 px; 0.8 s to 1024 px, 3 s to 2048 px |
    | check picture | `swell/safety` | 0.1 s |

    Each model's card has its licence.
    """

    name = "swell/artwork"
    licence = f"{Icons.licence}; BSD-2-Clause AND CC-BY-4.0"
    credits = """
    All that `swell/icons`, `swell/translate`, `swell/prompt-check`, `swell/paint`, `swell/upscale`
    and `swell/safety` credit.
    """
    memory_bytes = 540_000_000
    speed = (
        Speed("one core of an AMD EPYC", "a checked picture of 512 px", 0.52, "2026-11-25"),
        Speed("one core of an AMD EPYC", "the same, painted", 0.76, "2026-11-25"),
    )
    samples = {
        "a castle, starlight": "samples/artwork-castle.webp",
        "un zorro rojo en la nieve": "samples/artwork-fox.webp",
    }
    files = (
        *Icons.files,
        *(weights(n) for n in ("languages.npz", "prompt-words.json")),
        *(weights(n) for n in ("paint-styles.onnx", "safety.onnx")),
    )
    examples = (
        {"prompt": "a castle", "art": "starlight"},
        {"prompt": "un zorro rojo en la nieve"},
        {"prompt": "um gato azul", "style": "ink"},
    )

    class Input(BaseModel):
        """What to draw, how, and what must not be."""

        model_config = ConfigDict(extra="forbid")
        prompt: Annotated[
            Prompt,
            Field(
                max_length=500,
                title="Prompt",
                description="One subject, or two, perhaps with a colour, a background or a scene.",
                examples=["a red fox in the snow", "un gato azul", "foguete no espaço"],
            ),
            ui.textarea(rows=2, languages=READ),
        ]
        style: Annotated[
            Literal["noto", "fluent", "flat", "ink", "none"],
            Field(title="Hand", description="The icon set to draw like; none mixes them."),
            ui.styles(),
        ] = "noto"
        art: Annotated[
            Literal[("none", *paint.STYLES)],  # type: ignore[valid-type]
            Field(title="Art", description="The painting style; none leaves the icon as drawn."),
            ui.styles(),
        ] = "none"
        vary: Annotated[
            bool,
            Field(
                title="Vary",
                description="Let the seed choose a backdrop and a side where the prompt does not.",
            ),
            ui.hint(advanced=True),
        ] = True
        size: Annotated[
            Literal[512, 1024, 2048], Field(title="Size", description="Pixels per side.")
        ] = 512
        steps: Annotated[int, Field(ge=1, le=50, title="Steps"), ui.slider()] = 8
        guidance: Annotated[float, Field(ge=0, le=15, title="Guidance"), ui.slider(step=0.5)] = 3.0
        refuse: Annotated[
            list[Literal["minors", "sexual", "obscene", "gore", "hate", "self-harm"]],
            Field(
                title="Refuse",
                description="What prompts must not ask for. Minors are always refused.",
            ),
            ui.hint(advanced=True),
        ] = list(CATEGORIES)
        seed: Annotated[
            int | None,
            Field(
                ge=0, lt=2**63, title="Seed", description="The same seed gives the same picture."
            ),
            ui.seed(),
        ] = None

    class Output(BaseModel):
        """The picture, and how it came about."""

        picture: Image
        #: What was drawn, in English.
        prompt: str
        language: str
        translated_by: str
        #: Where the prompt's language is in doubt or not translated here, a sentence that says so.
        note: str
        unsafe: float
        stages: dict[str, float]

    #: None: a preview would show what `check_picture` has not seen yet.
    preview = StepModel.preview

    def __init__(self, threads: int | None = None) -> None:
        super().__init__(threads)
        self._clock = SystemClock()
        # Prompts are read before there is a device to load anything on.
        self._translator = Translator(argos_folders())
        self._forbidden = PromptWords(weights("prompt-words.json"))

    def load(self, device: str) -> None:
        """Read the weights; everything runs on the CPU whatever `device` says."""
        super().load(device)
        self._brush = paint.Brush(self._threads)
        self._score = SafetyScore(self._threads)

    def prepare(self, item: Item[Any]) -> Plan:
        """Bring the prompt into English, and refuse what should not or cannot be drawn.

        Raises:
            Reject: It asks for something that is refused, or has no word in it.
        """
        asked, stages = item.input, dict[str, float]()
        made = self._timed(stages, "translate", lambda: self._translator(asked.prompt))
        finding = self._timed(
            stages, "check_prompt", lambda: self._forbidden(asked.prompt, made.text)
        )
        if refused := finding.refused({*asked.refuse, "minors"}):
            raise Reject(
                f"The prompt is not allowed ({', '.join(refused)}). Ask for something else."
            )
        if not any(letter.isalpha() for letter in made.text):
            raise Reject("The prompt has no words. Name what to draw, such as 'a red fox'.")
        if made.note:
            item.warn("language", made.note)
        made = replace(made, text=self._read(item, made.text))
        item.kept = _Piece(made, stages, self._clock.monotonic_s())
        return self._plan(item, made.text)

    def decode(self, latents: Floats, item: Item[Any]) -> Callable[[], "Artwork.Output"]:
        """Draw one at 128 px; what is returned finishes it."""
        piece: _Piece = item.kept
        small = self._small(latents, item)
        piece.stages["generate"] = self._clock.monotonic_s() - piece.ready_s

        def finish() -> "Artwork.Output":
            return self._finished(small, item.input, piece)

        return finish

    def _finished(self, small: Pixels, asked: Any, piece: _Piece) -> "Artwork.Output":
        """Paint, enlarge and check it.

        Raises:
            Reject: The picture looks unsafe.
        """
        stages = piece.stages
        picture = self._timed(stages, "style", lambda: self._painted(small, asked.art))
        large = self._timed(stages, "upscale", lambda: self._enlarged(picture, asked.size))
        unsafe = self._timed(stages, "check_picture", lambda: self._score(large))
        if unsafe >= UNSAFE_FROM:
            raise Reject(
                "The picture did not pass the check for unsafe content. Try other words or a seed."
            )
        return self.Output(
            picture=Image(large),
            prompt=piece.made.text,
            language=piece.made.language,
            translated_by=piece.made.by,
            note=piece.made.note,
            unsafe=round(unsafe, 4),
            stages={name: round(stages[name], 6) for name in STAGES},
        )

    def _painted(self, small: Pixels, art: str) -> Pixels:
        """Enlarge it and paint it: at 128 px a stroke would be larger than an eye."""
        if art == "none":
            return small
        return paint.Painter(art, brush=self._brush)(self._upscaler(small))

    def _enlarged(self, picture: Pixels, size: int) -> Pixels:
        if picture.shape[0] == size:
            return picture
        seen = size // _FACTOR
        return self._upscaler(resized(picture, seen, seen))

    def _timed(self, stages: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
        begun_s = self._clock.monotonic_s()
        result = work()
        stages[name] = self._clock.monotonic_s() - begun_s
        return result
