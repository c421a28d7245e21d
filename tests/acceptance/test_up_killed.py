import signal

from commandline import Swell, ready_line, stop


def test_nothing_is_accepted_for_workers_that_died_with_a_killed_backend(swell: Swell) -> None:
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
    ready_line(process, swell.folder)
    stop(process, signal.SIGKILL)
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/noop")
    try:
        ready_line(process, swell.folder)
        late = swell.run("tasks", "submit", "demo/upper", "-i", "text=late")
        assert late.returncode != 0
        assert "no live worker has demo/upper" in late.stderr
        assert [list(worker["models"]) for worker in swell.json("workers")] == [["demo/noop"]]
    finally:
        assert stop(process) == 0
