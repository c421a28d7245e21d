"""Demand by scenario name, or from a file."""

from pathlib import Path
from typing import Final

import numpy as np

from swell.core.errors import InvalidInput
from swell.simulator import traces
from swell.simulator.crowds import Crowd, read_crowd
from swell.simulator.traces import Trace

#: Scenarios with their descriptions.
SCENARIOS: Final = {
    "v1": "14 days: 300,000 people a day become 4.1 million, and ten times as many within 3 hours",
    "v2": "4 days: ten times as many within two hours, without warning",
    "v3": "4 days: ten times as many within ten minutes",
    "spike": "2 days: ten times as many within a minute",
    "azure-conv": "an hour of conversations with a language model at Microsoft",
    "azure-code": "an hour of a model that completes code at Microsoft",
}

#: Requests per minute from the first request on; the last minute is incomplete.
#:
#: Source:
#:     Azure LLM inference trace 2023, conversations: Azure/AzurePublicDataset, CC-BY 4.0. Patel et
#:     al., "Splitwise: Efficient generative LLM inference using phase splitting", ISCA 2024.
_AZURE_CONV: Final = (
    *(191, 265, 329, 353, 307, 273, 268, 261, 322, 298, 301, 302, 345, 326, 283, 279, 280, 308),
    *(343, 351, 351, 343, 408, 396, 386, 398, 432, 480, 476, 453, 448, 507, 438, 413, 423, 418),
    *(465, 311, 329, 316, 333, 355, 319, 360, 334, 375, 330, 249, 221, 249, 265, 280, 256, 254),
    *(242, 260, 246, 225),
)

#: Requests per minute of a code completion service, same source.
_AZURE_CODE: Final = (
    *(63, 0, 0, 531, 187, 130, 15, 42, 38, 476, 421, 63, 0, 0, 632, 299, 0, 20),
    *(396, 315, 116, 78, 306, 447, 252, 34, 128, 111, 406, 234, 118, 169, 130, 306, 158, 0),
    *(339, 55, 285, 191, 0, 28, 205, 245, 99, 0, 0, 32, 0, 0, 0, 97, 212, 22),
    *(32, 113, 47, 196),
)


def azure_conv() -> Trace:
    """Return one hour of requests to a chat service, as requests for pictures."""
    return Trace("azure-conv", np.array(_AZURE_CONV, np.float64) / 60.0)


def azure_code() -> Trace:
    """Return one hour of requests to a code completion service, as requests for pictures."""
    return Trace("azure-code", np.array(_AZURE_CODE, np.float64) / 60.0)


def scenario(name: str) -> Trace | Crowd:
    """Return the demand of a scenario or CSV file.

    A file has the columns `minute` and `images_per_s`, or one line per task with `at_s`.

    Raises:
        InvalidInput: There is no such scenario or file, or the file is not valid.
    """
    if name == "azure-conv":
        return azure_conv()
    if name == "azure-code":
        return azure_code()
    if name in SCENARIOS:
        return traces.named(name)
    path = Path(name)
    if not path.is_file():
        known = ", ".join(SCENARIOS)
        raise InvalidInput(f"{name!r} is neither a file nor one of {known}")
    return read_crowd(path) if "at_s" in _columns(path) else traces.read(path)


def _columns(path: Path) -> list[str]:
    with path.open(encoding=traces.TEXT, errors="replace") as lines:
        return [column.strip().strip('"') for column in lines.readline().split(",")]
