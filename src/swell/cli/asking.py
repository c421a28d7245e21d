"""Options of a request for a task, which several commands share."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from swell.cli.inputs import InputFile, parse_inputs
from swell.cli.options import Inputs, Prompt, in_place_of
from swell.cli.remote import Remote
from swell.core.errors import InvalidRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Options of a request; each field is an option, in this order."""

    model: Annotated[str, typer.Argument(help="owner/name, or owner/name:version.")]
    prompt: Prompt = None
    inputs: Inputs = field(default_factory=list)
    count: Annotated[int | None, typer.Option(min=1, help="Number of results.")] = None
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed; the same seed gives the same result.")
    ] = None
    priority: Annotated[int | None, typer.Option(min=0, help="Priority; 0 is the highest.")] = None
    class_name: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="Priority class, instead of --priority."),
    ] = None
    user: Annotated[
        str | None, typer.Option(help="User that the task belongs to, for fairness and quotas.")
    ] = None
    start_by_s: Annotated[
        float | None,
        typer.Option(help="Latest start in seconds. A later task is refused or dropped."),
    ] = None
    finish_by_s: Annotated[
        float | None,
        typer.Option(
            help="Deadline in seconds. The task is refused or dropped if it cannot finish in time."
        ),
    ] = None
    degrade_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="Reduce the steps to meet --finish-by-s, but not below this.",
        ),
    ] = None
    degrade_size_px: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_536,
            help="Reduce the size to meet --finish-by-s, but no side below this.",
        ),
    ] = None
    degrade_models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Fall back to this model if the deadline cannot be met or no worker has yours. "
            "May be repeated, the best first.",
        ),
    ] = None
    max_attempts: Annotated[int | None, typer.Option(min=1, help="Most attempts.")] = None

    async def request(self, remote: Remote) -> dict[str, Any]:
        """Parse the inputs by the model's schema, upload files, and return the request.

        Raises:
            InvalidRequest: Options conflict, or an input cannot be read.
            Refused: The model does not exist, or the server refuses a file.
            Unreachable: The server does not answer.
        """
        self._check()
        card = await remote.get(f"/v1/models/{self.model.partition(':')[0]}")
        degrade = {
            "steps": self.degrade_steps,
            "size_px": self.degrade_size_px,
            "models": self.degrade_models or None,
        }
        given = {name: value for name, value in degrade.items() if value is not None}
        members = {
            "count": self.count,
            "seed": self.seed,
            "priority": self.priority,
            "class": self.class_name,
            "user": self.user,
            "start_by_s": self.start_by_s,
            "finish_by_s": self.finish_by_s,
            "degrade": given or None,
            "max_attempts": self.max_attempts,
        }
        request: dict[str, Any] = {"model": self.model}
        request["input"] = await _uploaded(
            remote, parse_inputs(self.inputs, card["input_schema"], self.prompt)
        )
        return request | {name: value for name, value in members.items() if value is not None}

    def _check(self) -> None:
        if self.class_name is not None and self.priority is not None:
            raise InvalidRequest("a class sets the priority: give --class or --priority")
        needs_end = {
            "--degrade-steps": self.degrade_steps,
            "--degrade-size-px": self.degrade_size_px,
        }
        options = " and ".join(name for name, value in needs_end.items() if value is not None)
        if options and self.finish_by_s is None:
            raise InvalidRequest(
                f"{options}: without a deadline nothing is reduced; add --finish-by-s"
            )


def asks_model(command: Callable[..., T]) -> Callable[..., T]:
    """Replace a command's parameter `asked` with the options of `Asked`."""
    kinds = get_type_hints(Asked, include_extras=True)
    options = {each.name: (kinds[each.name], _default(each)) for each in fields(Asked)}
    return in_place_of(command, "asked", options, Asked)


def _default(option: Any) -> Any:
    if option.default is not MISSING:
        return option.default
    is_required = option.default_factory is MISSING
    return inspect.Parameter.empty if is_required else option.default_factory()


async def _uploaded(remote: Remote, values: dict[str, Any]) -> dict[str, Any]:
    """Upload the files of an input, and return the input with their URLs."""
    ready = dict(values)
    for name, value in values.items():
        if isinstance(value, InputFile):
            data = value.path.read_bytes()
            ready[name] = await remote.upload(data, value.content_type, value.path.name)
    return ready
