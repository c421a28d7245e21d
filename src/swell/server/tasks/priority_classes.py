"""Priority classes: names for priorities, and which of them a key may use."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from swell.core.errors import FieldError, Forbidden, InvalidInput
from swell.core.fair_queueing import USUAL_PRIORITY, band
from swell.core.records import ApiKey

if TYPE_CHECKING:
    from swell.server.tasks.task_schemas import TaskRequest


class Classes:
    """The classes of a service.

    Args:
        priorities: Name → priority.
    """

    def __init__(self, priorities: Mapping[str, int]) -> None:
        self._priorities = dict(priorities)

    @property
    def all(self) -> Mapping[str, int]:
        """Name → priority, the most urgent first."""
        return dict(sorted(self._priorities.items(), key=lambda each: each[1]))

    def check_known(self, names: list[str]) -> None:
        """Check that there are classes of these names.

        Raises:
            InvalidInput: There is one that is not known.
        """
        for place, name in enumerate(names):
            if name not in self._priorities:
                raise self._unknown(name, f"/classes/{place}")

    def apply(self, key: ApiKey, request: "TaskRequest") -> "TaskRequest":
        """Return a request with the priority of its class.

        A request of a key that has classes gets the first of them where it names none, and no
        priority that is more urgent than the most urgent of them.

        Raises:
            InvalidInput: The class is unknown, or the request has both a class and a priority.
            Forbidden: The key may not use it.
        """
        named = request.class_name
        if named is not None:
            if named not in self._priorities:
                raise self._unknown(named, "/class")
            if key.classes and named not in key.classes:
                raise self._forbidden(key, f"class {named!r}")
            if request.priority != USUAL_PRIORITY:
                detail = (
                    f"class {named!r} has a fixed priority, so it cannot be combined with "
                    f"{request.priority}: leave one of them out"
                )
                raise _refusal("/priority", detail, "class_and_priority")
            priority = self._priorities[named]
            return msgspec.structs.replace(request, priority=priority, class_name=None)
        own = self._priorities_of(key) if key.classes else []
        if not own:
            return request
        if request.priority == USUAL_PRIORITY:
            return msgspec.structs.replace(request, priority=own[0])
        if band(request.priority) < min(map(band, own)):
            raise self._forbidden(key, f"priority {request.priority}")
        return request

    def priority_of(self, key: ApiKey) -> int:
        """Return which priority requests of a key have that name none, nor a class."""
        return next(iter(self._priorities_of(key)), USUAL_PRIORITY)

    def _priorities_of(self, key: ApiKey) -> list[int]:
        return [self._priorities[each] for each in key.classes if each in self._priorities]

    def _unknown(self, name: str, pointer: str) -> InvalidInput:
        known = ", ".join(self.all) or "none"
        detail = f"there is no class {name[:60]!r}; there are: {known}"
        return _refusal(pointer, detail, "unknown_class")

    def _forbidden(self, key: ApiKey, what: str) -> Forbidden:
        return Forbidden(
            f"key {key.name!r} may not use {what}, only {', '.join(key.classes)}: leave it out, or "
            "ask the operator for another key"
        )


def _refusal(pointer: str, detail: str, code: str) -> InvalidInput:
    return InvalidInput(detail, errors=[FieldError(pointer=pointer, detail=detail, code=code)])
