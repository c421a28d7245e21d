"""Request and response bodies of models. OpenAPI's schemas are made from these types."""

from typing import Annotated, Any

import msgspec

from swell.api.eta import EtaSeconds
from swell.api.schemas import Moment, doc
from swell.registry import Speed
from swell.stages import Pipeline


class MeasuredView(msgspec.Struct, frozen=True, kw_only=True):
    """Recent run times of a model on one kind of device."""

    device: Annotated[str, doc("the workers' name for it, such as `cpu` or `cuda:0`")]
    tasks: int
    median_s: Annotated[float, doc("for each task, including delivery")]


class SampleView(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, sound or text on a model's card; its URL needs no key and never changes."""

    url: str
    caption: str
    content_type: str
    width: Annotated[int, doc("in px, for a picture; else 0")]
    height: Annotated[int, doc("in px, for a picture; else 0")]
    text: Annotated[str, doc("the text, for a text; else empty")]


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model."""

    name: str
    version: str
    description: str
    stage: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    examples: list[dict[str, Any]]
    registered_at: Moment | None
    workers: Annotated[int, doc("live workers that have it")]
    service_s: Annotated[EtaSeconds | None, doc("recent task times, in seconds")]
    measured: Annotated[list[MeasuredView], doc("the same by device")]
    licence: Annotated[str, doc("of code and weights, as SPDX or text; empty if not stated")]
    credits: Annotated[str, doc("Markdown")]
    memory_bytes: Annotated[int | None, doc("device memory; null if unknown")]
    price_micros: Annotated[
        int | None,
        doc(
            "price of a sample at a remote service, in millionths of a dollar; null if it has none"
        ),
    ]
    speed: Annotated[list[Speed], doc("the author's measurements, in seconds")]
    samples: list[SampleView]
    eta_s: Annotated[EtaSeconds | None, doc("seconds until a typical task sent now would end")] = (
        None
    )
    start_s: Annotated[
        EtaSeconds | None, doc("seconds until a typical task sent now would start")
    ] = None
    pipeline: Annotated[Pipeline | None, doc("its stages; null for a model")] = None
    urls: dict[str, str]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Models, by name."""

    models: list[ModelView]


class StyleView(msgspec.Struct, frozen=True, kw_only=True):
    """A style of the web app."""

    name: str
    label: str
    labels: Annotated[dict[str, str], doc("language → label")]
    prompt: Annotated[str, doc("template with `{prompt}` for the prompt; empty for no change")]
    input: Annotated[dict[str, Any], doc("further input for the model")]
    models: Annotated[list[str], doc("models it is for; empty for any")]
    picture: Annotated[str | None, doc("URL without a key, with constant content")]


class StyleList(msgspec.Struct, frozen=True, kw_only=True):
    """Styles, in display order."""

    styles: list[StyleView]
