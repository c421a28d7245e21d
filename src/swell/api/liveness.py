"""Whether a worker's process on this machine still runs."""

import socket

import psutil

from swell.registry import WorkerInfo

#: A process that started so much later than its worker registered, in seconds, is another one.
_SLACK_S = 5.0


def is_dead(worker: WorkerInfo) -> bool:
    """Whether a worker registered from this machine and its process has ended.

    Of a worker on another machine nothing is known here, so it counts as alive.
    """
    if worker.pid <= 0 or worker.host != socket.gethostname():
        return False
    try:
        process = psutil.Process(worker.pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return True
        return bool(process.create_time() > worker.registered_at.timestamp() + _SLACK_S)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False
