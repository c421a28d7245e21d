"""Provider that simulates failures: it refuses launches, limits them, and reclaims instances.

For trials with real workers. A JSON file controls it. The file is read before each call, may change
at any time, and may be missing:

```json
{"refuse": "no capacity left", "is_quota": false, "retry_after_s": 20, "most": 3,
 "take_back_in_s": {"swell-gpu-0123456789abcdef-0": 15}}
```

The delay of `take_back_in_s` starts when the entry is first read. Until it ends there is a notice;
then the provider kills the instance.
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
    #: Limit of living instances.
    most: int | None = None
    take_back_in_s: Mapping[str, float] = {}


class RehearsalProvider:
    """Wraps a provider and simulates its failures.

    Args:
        inner: The provider.
        script: The JSON file.
        clock: The clock.
    """

    def __init__(self, inner: Provider, script: Path, clock: Clock) -> None:
        self._inner = inner
        self._script = script
        self._clock = clock
        self._notices: dict[str, datetime] = {}
        self._tidies = True

    @property
    def tidies(self) -> bool:
        """Whether listing also kills instances at the end of their delay."""
        return self._tidies

    @tidies.setter
    def tidies(self, tidies: bool) -> None:
        self._tidies = tidies
        if isinstance(self._inner, Tidying):
            self._inner.tidies = tidies

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Launch instances.

        Raises:
            Refused: The script says so.
            Unavailable, InvalidInput: See the wrapped provider.
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
        """Return the notices of living instances, and kill those that are due."""
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
        await self.notices()
        return await self._inner.instances(pool)

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        await self._inner.terminate(instance_ids, grace_s=grace_s)

    async def close(self) -> None:
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
