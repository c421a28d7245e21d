"""Formats amounts of money. Pure."""


def dollars(micros: float) -> str:
    """Format millionths of a dollar for people, such as `$0.04`."""
    return f"${micros / 1e6:,.6f}".rstrip("0").rstrip(".")
