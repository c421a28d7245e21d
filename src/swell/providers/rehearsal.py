"""A provider that has bad days: it refuses, gives fewer, and takes back, as a file tells it.

For trying out what happens then, with real workers. The file is JSON, read before each call; it may
change at any time, and need not be there:

```json
{"refuse": "no capacity left", "is_quota": false, "retry_after_s": 20, "most": 3,
 "take_back_in_s": {"swell-gpu-0123456789abcdef-0": 15}}
```

What is taken back is told as a notice from the first time that it is read, and killed when its time
has come.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from swell.core.clock import Clock
from swell.core.errors import InvalidRequest
from swell.core.provider import (
    Instance,
    InstanceState,
    LaunchRequest,
    Notice,
    Provider,
    Refused,
    Tidying,
)


class _Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    refuse: str = ""
    is_quota: bool = False
    retry_after_s: float | None = None
    #: At most so many instances live at a time.
    most: int | None = None
    take_back_in_s: Mapping[str, float] = {}


class RehearsalProvider:
    """Another provider on its bad days.

    Args:
        inner: Who launches.
        script: The file.
        clock: The time.
    """

    def __init__(self, inner: Provider, script: Path, clock: Clock) -> None:
        self._inner = inner
        self._script = script
        self._clock = clock
        self._notices: dict[str, datetime] = {}
        self._tidies = True

    @property
    def tidies(self) -> bool:
        """Whether what is due is taken back while this looks."""
        return self._tidies

    @tidies.setter
    def tidies(self, tidies: bool) -> None:
        self._tidies = tidies
        if isinstance(self._inner, Tidying):
            self._inner.tidies = tidies

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Ask for instances.

        Raises:
            Refused: The script says so.
            Unavailable, InvalidInput: See the other provider.
        """
        script = self._read()
        known = [each for each in await self._inner.instances() if each.token == request.token]
        if known and request.token:
            return known
        if script.refuse:
            raise Refused(
                script.refuse, is_quota=script.is_quota, retry_after_s=script.retry_after_s
            )
        if script.most is not None:
            living = [each for each in await self._inner.instances() if _lives(each)]
            left = script.most - len(living)
            if left <= 0:
                raise Refused(
                    f"there are {script.most} already", retry_after_s=script.retry_after_s
                )
            request = msgspec.structs.replace(request, n=min(request.n, left))
        return await self._inner.launch(request)

    async def notices(self) -> list[Notice]:
        """Return what is about to be taken back."""
        now = self._clock.now()
        living = {each.id for each in await self._inner.instances() if _lives(each)}
        for each, in_s in self._read().take_back_in_s.items():
            self._notices.setdefault(each, now + timedelta(seconds=in_s))
        due = [each for each, at in self._notices.items() if each in living and now >= at]
        if due and self.tidies:
            await self._inner.terminate(due, grace_s=0.0)
        told = [Notice(instance_id=each, at=at) for each, at in self._notices.items()]
        return [each for each in told if each.instance_id in living]

    async def instances(self, pool: str | None = None) -> list[Instance]:
        """Return the instances of a pool, or of all."""
        await self.notices()
        return await self._inner.instances(pool)

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """See the other provider."""
        await self._inner.terminate(instance_ids, grace_s=grace_s)

    async def close(self) -> None:
        """See the other provider."""
        await self._inner.close()

    def _read(self) -> _Script:
        try:
            return msgspec.json.decode(self._script.read_bytes(), type=_Script)
        except FileNotFoundError:
            return _Script()
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidRequest(f"{self._script} is not a rehearsal: {error}") from error


def _lives(instance: Instance) -> bool:
    return instance.state is not InstanceState.ENDED
