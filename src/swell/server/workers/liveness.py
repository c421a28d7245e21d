"""Whether the process of a worker on this machine still runs."""

import socket

import psutil

from swell.core.records import WorkerInfo

#: A process that started this much after its worker registered is another one, in seconds.
_SLACK_S = 5.0


def is_dead(worker: WorkerInfo) -> bool:
    """Whether a worker registered from this machine and its process has ended.

    Workers on other machines count as alive.
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
