"""Amazon's services, imitated by moto, with an SQS that hands no message to two at once.

moto answers each request in a thread and looks for messages without a lock, so that two receivers
may find the same one visible; and it looks at the whole queue for each message. Here one looks at
a time, and only for as many messages as it takes.
"""

import copy
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from moto.server import main
from moto.sqs.models import SQSBackend

_looking = threading.Lock()


def receive_message(
    self: Any, queue_name: str, count: int, wait_s: int, hold_s: int, names: Any = None
) -> list[Any]:
    """Look for messages, again and again until there are some or the time is over."""
    over = time.monotonic() + wait_s
    queue = self.get_queue(queue_name)
    while True:
        with _looking:
            found = list(islice(_visible(queue), count))
            for message in found:
                queue.pending_messages.add(message)
                message.mark_received(visibility_timeout=hold_s)
        left_s = over - time.monotonic()
        if found or left_s <= 0:
            return [copy.copy(message) for message in found]
        with queue._messages_lock:
            queue._messages_lock.wait_for(lambda: any(_visible(queue)), min(1.0, left_s))


def _visible(queue: Any) -> Iterator[Any]:
    return (each for each in queue._messages if each.visible and not each.delayed)


if __name__ == "__main__":
    SQSBackend.receive_message = receive_message
    main()
