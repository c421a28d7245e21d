"""Removes secrets from texts that logs, errors and `swell config` show."""

import re
from typing import Final

#: API keys, tokens, signatures of URLs, and passwords in URLs.
_SECRETS: Final = re.compile(
    r"(?<![A-Za-z0-9])swell_[\w-]{40,}"
    r"|(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}"
    r"|(?<=whsec_)[A-Za-z0-9+/=]{8,}"
    r"|(?i:(?<=bearer )[\w.~+/=-]{8,})"
    r"|(?i:(?<=basic ))(?=[A-Za-z+/]*[A-Z0-9=])[A-Za-z0-9+/=-]{8,}"
    r"|(?i:(?<=signature=)[\w%+/=-]+|(?<=[?&]sig=)[\w%+/=-]+|(?<=-security-token=)[\w%+/=-]+)"
    r"|(?i:(?<=[?&]password=)[^\s&'\"]+|(?<=[?&]sslpassword=)[^\s&'\"]+)"
    r"|(?i:(?<=[?&_]token=)|(?<=[?&]key=)|(?<=[?&]api_key=)|(?<=[?&]apikey=))"
    r"[^\s&'\"]+"
    r"|(?i:(?<=accountkey=)|(?<=sharedaccesskey=))[\w%+/=-]+"
    # A password may contain characters that should be escaped: slashes after a colon, or quotes.
    r"|(?<=://):?[^\s/'\":@]*:[^\s'\"]*(?=@)|(?<=://)[^\s/\"]+(?=@)"
)
_HIDDEN: Final = "********"

#: The user and password of a URL that is the whole value.
_USER: Final = re.compile(r"([\w+.-]+://)(?:[^/?#]*|[^/?#]*:[^?#]*)(?=@)")


def hide_secrets(text: str) -> str:
    """Return a text without keys, tokens, signatures of URLs, and users and passwords in URLs."""
    return _SECRETS.sub(_HIDDEN, text)


def hide_in_url(value: str) -> str:
    """Return a value that may be a URL as `hide_secrets` does, and without the URL's user."""
    user = _USER.match(value)
    return hide_secrets(f"{user[1]}{_HIDDEN}{value[user.end() :]}" if user else value)
