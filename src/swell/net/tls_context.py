"""TLS of clients: the certificates that they trust."""

import ssl
from pathlib import Path

from swell.core.errors import InvalidRequest


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """Return the TLS context of a client.

    Args:
        ca_file: Certificates that are trusted in addition to the system's.

    Raises:
        InvalidRequest: They cannot be read.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A server's own certificate may be trusted without its issuer.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise InvalidRequest(
                f"the certificates in {ca_file} cannot be read ({error.strerror or error}): name "
                "a file in PEM with client.ca_file or worker.ca_file"
            ) from error
    return context
