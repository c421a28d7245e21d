"""The plain function that service_plain.py serves: typed, without batching, as in the README."""

import swell


@swell.model("demo/plain")
def plain(text: str) -> str:
    return text
