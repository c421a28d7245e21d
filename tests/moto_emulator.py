"""Amazon's services, imitated by moto, with an SQS that hands no message to two at once.

moto answers each request in a thread and looks for messages without a lock, so that two receivers
may find the same one visible. Here one looks at a time. The command line is moto's.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from moto.server import main
from moto.sqs.models import SQSBackend

_looking = threading.Lock()
_receive: Callable[..., list[Any]] = SQSBackend.receive_message


def receive_message(
    self: Any, queue_name: str, count: int, wait_s: int, hold_s: int, names: Any = None
) -> list[Any]:
    """Look for messages, again and again until there are some or the time is over."""
    over = time.monotonic() + wait_s
    queue = self.get_queue(queue_name)
    while True:
        with _looking:
            found = _receive(self, queue_name, count, 0, hold_s, names)
        if found or time.monotonic() >= over:
            return found
        queue.wait_for_messages(min(1.0, over - time.monotonic()))


if __name__ == "__main__":
    SQSBackend.receive_message = receive_message
    main()
