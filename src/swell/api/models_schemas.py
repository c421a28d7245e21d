"""Request and response bodies of models. OpenAPI's schemas are made from these types."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from swell.api.eta import EtaSeconds
from swell.api.schemas import Moment
from swell.registry import Speed
from swell.stages import Pipeline


class MeasuredView(msgspec.Struct, frozen=True, kw_only=True):
    """Recent run times of a model on one kind of device."""

    device: Annotated[str, Meta(description="the workers' name for it, such as `cpu` or `cuda:0`")]
    tasks: int
    median_s: Annotated[float, Meta(description="for each task, including delivery")]


class SampleView(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, sound or text on a model's card; its URL needs no key and never changes."""

    url: str
    caption: str
    content_type: str
    width: Annotated[int, Meta(description="in px, for a picture; else 0")]
    height: Annotated[int, Meta(description="in px, for a picture; else 0")]
    text: Annotated[str, Meta(description="the text, for a text; else empty")]


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
    workers: Annotated[int, Meta(description="live workers that have it")]
    service_s: Annotated[EtaSeconds | None, Meta(description="recent task times, in seconds")]
    measured: Annotated[list[MeasuredView], Meta(description="the same by device")]
    licence: Annotated[
        str, Meta(description="of code and weights, as SPDX or text; empty if not stated")
    ]
    credits: Annotated[str, Meta(description="Markdown")]
    memory_bytes: Annotated[int | None, Meta(description="device memory; null if unknown")]
    price_micros: Annotated[
        int | None,
        Meta(
            description="price of a sample at a remote service, in millionths of a dollar; null "
            "if it has none"
        ),
    ]
    speed: Annotated[list[Speed], Meta(description="the author's measurements, in seconds")]
    samples: list[SampleView]
    eta_s: Annotated[
        EtaSeconds | None, Meta(description="seconds until a typical task sent now would end")
    ] = None
    start_s: Annotated[
        EtaSeconds | None, Meta(description="seconds until a typical task sent now would start")
    ] = None
    pipeline: Annotated[Pipeline | None, Meta(description="its stages; null for a model")] = None
    urls: dict[str, str]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Models, by name."""

    models: list[ModelView]


class StyleView(msgspec.Struct, frozen=True, kw_only=True):
    """A style of the web app."""

    name: str
    label: str
    labels: Annotated[dict[str, str], Meta(description="language → label")]
    prompt: Annotated[
        str, Meta(description="template with `{prompt}` for the prompt; empty for no change")
    ]
    input: Annotated[dict[str, Any], Meta(description="further input for the model")]
    models: Annotated[list[str], Meta(description="models it is for; empty for any")]
    picture: Annotated[str | None, Meta(description="URL without a key, with constant content")]


class StyleList(msgspec.Struct, frozen=True, kw_only=True):
    """Styles, in display order."""

    styles: list[StyleView]
