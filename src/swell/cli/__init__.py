"""The command `swell`.

Data goes to stdout, talk to stderr. Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 not found,
4 refused by the server, 130 interrupted.
"""

from swell.cli import (
    config,
    dead,
    demo,
    doctor,
    fleet,
    keys,
    models,
    reference,
    run,
    tasks,
    up,
    worker,
)
from swell.cli.output import group

__all__ = ["app", "main"]

app = group("Serve open generative models to a crowd that may come overnight.")
app.command("up")(up.up)
app.command("serve")(up.serve)
app.command("worker")(worker.run_worker)
app.command("run")(run.run_model)
app.add_typer(tasks.app, name="tasks")
app.add_typer(models.app, name="models")
app.command("queues")(fleet.list_queues)
app.command("workers")(fleet.list_workers)
app.add_typer(dead.app, name="dead")
app.add_typer(keys.app, name="keys")
app.add_typer(config.app, name="config")
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("reference", hidden=True)(reference.reference)


def main() -> None:
    """Run the command line of this process."""
    app()
