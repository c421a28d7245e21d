"""The page of a model, and models in the list of the home page."""

import html
import json
import shlex
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from swell.api import markdown
from swell.api.call import Call, Reply
from swell.api.fields import fields
from swell.api.html_page import page
from swell.api.operators import model_name
from swell.api.route import page_route
from swell.api.service import Service
from swell.errors import NotFound
from swell.money.amounts import dollars
from swell.registry import ModelCard, Sample
from swell.samples import TEXT

#: So many of a model's inputs are shown, at most.
_MOST_EXAMPLES: Final = 6

#: A file within an input is shown up to here, in characters.
_LONG_TEXT: Final = 40

#: A picture within an input is shown if its data URI has no more characters.
_MOST_SHOWN: Final = 200_000

#: Data URIs that browsers show as pictures, and that cannot do anything else.
_SHOWN: Final = tuple(
    f"data:image/{kind};base64," for kind in ("png", "webp", "jpeg", "gif", "avif")
)

#: Models of this owner are for trying things out, and stand last.
_TRIALS: Final = "demo"


@page_route("/models/{owner}/{name}", errors=(NotFound,))
async def model_card(service: Service, call: Call) -> Reply:
    """A model's card."""
    target = await service.cards.target(model_name(call))
    card = target.card
    summary, rest = markdown.parted(card.description)
    body = f"""<p><a href="../../models">Swell</a></p><h1>{html.escape(card.name)}</h1>
{markdown.to_html(summary)}
{_chips(service, card)}
{_gallery(card)}
{markdown.to_html(rest)}
<h2>Facts</h2>{_facts(service, card)}
{_credits(card)}
<h2>Inputs that work</h2>{_examples(card)}
<h2>Ask it</h2>{_ask(card, service.base_url(call))}
<h2>Input</h2>{fields(card.input_schema)}
<details><summary>JSON Schema of the input</summary>
<pre><code>{_pretty(card.input_schema)}</code></pre></details>
<h2>Output</h2>{fields(card.output_schema, are_asked=False)}
<details><summary>JSON Schema of the output</summary>
<pre><code>{_pretty(card.output_schema)}</code></pre></details>
<p class="dim">version {html.escape(card.version)} · {html.escape(card.stage)}</p>"""
    return page(card.name, body)


def listed(cards: list[ModelCard]) -> str:
    """Return models as a list by owner, each with its first picture."""
    ordered = sorted(cards, key=lambda card: (_owner(card) == _TRIALS, card.name))
    parts = []
    for owner, group in groupby(ordered, _owner):
        rows = "".join(_row(card) for card in group)
        parts.append(f'<h3>{html.escape(owner)}</h3><ul class="models">{rows}</ul>')
    return "".join(parts) or "<p>None is served yet: start a worker.</p>"


def _owner(card: ModelCard) -> str:
    return card.name.partition("/")[0]


def _row(card: ModelCard) -> str:
    name = html.escape(card.name)
    picture = next((each for each in card.samples if _is_picture(each)), None)
    if picture is None:
        face = f'<span class="face" aria-hidden="true">{_initial(card)}</span>'
    else:
        source = f"v1/models/{name}/samples/{html.escape(picture.digest)}"
        face = f'<img class="face" src="{source}" alt="" loading="lazy">'
    about = html.escape(markdown.first_line(card.description))
    return (
        f'<li><a href="models/{name}">{face}<div><b>{name}</b><p>{about}</p>'
        f"<small>{html.escape(_first_licence(card))}</small></div></a></li>"
    )


def _initial(card: ModelCard) -> str:
    """Return a sign for a model without pictures: a note for sounds, else its first letter."""
    if any(each.content_type.startswith("audio/") for each in card.samples):
        return "♪"
    return html.escape(card.name.partition("/")[2][:1].upper())


def _first_licence(card: ModelCard) -> str:
    return card.licence.partition(";")[0] or "licence not stated"


def _chips(service: Service, card: ModelCard) -> str:
    """Return what people want to know first."""
    workers = len(service.fleet.live(card.name, card.version))
    told = [_first_licence(card)]
    if card.memory_bytes:
        told.append(memory_in_words(card.memory_bytes))
    if card.price_micros:
        told.append(f"{dollars(card.price_micros)} a sample elsewhere")
    if card.speed:
        told.append(f"{took_in_words(card.speed[0].took_s)} on {card.speed[0].device}")
    told.append("no worker now" if not workers else f"{workers} worker{'s' * (workers > 1)} now")
    return (
        '<ul class="chips">' + "".join(f"<li>{html.escape(each)}</li>" for each in told) + "</ul>"
    )


def _gallery(card: ModelCard) -> str:
    """Return the card's samples; relative addresses, which hold behind a proxy too."""
    figures = "".join(_figure(card, each) for each in card.samples)
    return f'<div class="samples">{figures}</div>' if figures else ""


def _figure(card: ModelCard, sample: Sample) -> str:
    source = f"../../v1/models/{html.escape(card.name)}/samples/{html.escape(sample.digest)}"
    caption = html.escape(sample.caption)
    under = f"<figcaption>{caption}</figcaption></figure>"
    if _is_picture(sample):
        return (
            f'<figure><img src="{source}" alt="{caption}" width="{sample.width}" '
            f'height="{sample.height}" loading="lazy">{under}'
        )
    if sample.content_type == TEXT:
        text = html.escape(sample.text)
        return f'<figure class="long"><blockquote>{text}</blockquote>{under}'
    return (
        f'<figure class="long"><audio controls preload="metadata" src="{source}" '
        f'aria-label="{caption}"></audio>{under}'
    )


def _is_picture(sample: Sample) -> bool:
    return sample.content_type.startswith("image/")


def _facts(service: Service, card: ModelCard) -> str:
    """Return licence and memory, and a table of speed by device."""
    rows = [
        ("licence", card.licence or "not stated: ask its author before you use it"),
        ("memory", memory_in_words(card.memory_bytes)),
        ("together", _together(card)),
    ]
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows
    )
    speeds = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in _speeds(service, card)
    )
    if not speeds:
        return f"<table>{cells}</table><p>How fast it is shows here once tasks have run.</p>"
    return (
        f'<table>{cells}</table><h3>Speed</h3><div class="wide"><table><tr><th>device</th>'
        f"<th>what</th><th>takes</th><th>measured</th></tr>{speeds}</table></div>"
    )


def _speeds(service: Service, card: ModelCard) -> Iterator[tuple[str, str, str, str]]:
    for each in card.speed:
        yield each.device, each.what, took_in_words(each.took_s), each.measured_on or "its author"
    for device, tasks, median_s in service.times.by_device(card.name, card.version):
        yield device, f"half of the last {tasks} tasks", took_in_words(median_s), "here"


def _together(card: ModelCard) -> str:
    if card.step_rows:
        return f"draws in steps, which up to {card.step_rows} samples share"
    return f"up to {card.max_batch} inputs at once" if card.max_batch > 1 else "one input at a time"


def memory_in_words(size_bytes: int) -> str:
    """Return how much memory that is; 0 is not known."""
    if not size_bytes:
        return "not known"
    return f"{size_bytes / 2**20:,.0f} MiB" if size_bytes >= 2**20 else "less than 1 MiB"


def took_in_words(took_s: float) -> str:
    """Return how long that is."""
    if took_s >= 1:
        return f"{took_s:.3g} s"
    return f"{took_s * 1000:.3g} ms" if took_s >= 0.001 else "less than 1 ms"


def _credits(card: ModelCard) -> str:
    return f"<h2>Credits</h2>{markdown.to_html(card.credits)}" if card.credits else ""


def _examples(card: ModelCard) -> str:
    """Return inputs that work, with the pictures in them."""
    parts = []
    for example in card.examples[:_MOST_EXAMPLES]:
        pictures = "".join(
            f'<img src="{html.escape(value)}" alt="{html.escape(name)}">'
            for name, value in example.items()
            if isinstance(value, str) and value.startswith(_SHOWN) and len(value) < _MOST_SHOWN
        )
        text = html.escape(json.dumps(shortened(example), ensure_ascii=False))
        parts.append(
            f'<div class="inputs">{pictures}<pre class="wrap"><code>{text}</code></pre></div>'
        )
    return "".join(parts) or "<p>Its author gave none.</p>"


def _ask(card: ModelCard, base: str) -> str:
    example = shortened(card.examples[0]) if card.examples else {}
    body = json.dumps({"model": card.name, "input": example}, ensure_ascii=False)
    curl = (
        f'curl {base}/v1/tasks -H "Authorization: Bearer $SWELL_KEY" \\\n'
        '  -H "Content-Type: application/json" -H "Prefer: wait=60" \\\n'
        f"  -d {shlex.quote(body)}"
    )
    flags = "".join(f" -i {name}={_flag(value)}" for name, value in example.items())
    command = f"swell tasks submit {card.name}{flags} --watch"
    note = ""
    if "…" in body and card.examples and example != card.examples[0]:
        note = "<p>In place of a text that ends in … goes a URL or a data URI of a file.</p>"
    return (
        f"<pre><code>{html.escape(curl)}</code></pre>{note}"
        f'<pre class="wrap"><code>{html.escape(command)}</code></pre>'
    )


def _flag(value: Any) -> str:
    if not isinstance(value, str):
        return shlex.quote(json.dumps(value, ensure_ascii=False))
    return "@FILE" if value.startswith("data:") else shlex.quote(value)


def shortened(value: Any) -> Any:
    """Return an input for people to read: files in it, which are long texts, are cut."""
    if isinstance(value, dict):
        return {name: shortened(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shortened(each) for each in value]
    if isinstance(value, str) and len(value) > _LONG_TEXT and value.startswith("data:"):
        return f"{value[:_LONG_TEXT]}…"
    return value


def _pretty(value: Any) -> str:
    return html.escape(json.dumps(value, indent=2, ensure_ascii=False))
