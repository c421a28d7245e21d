"""Control loop of the autoscaler: observes, asks the policy for a plan, and acts on it.

Leader election leaves one active process. It writes its intended actions before it acts: after a
crash, the next leader reads them and repeats unconfirmed launches with the same token. Slow
provider calls run in parallel to the loop.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from swell.autoscaler.decide import Actions, End, Limits, decide
from swell.autoscaler.ends import Ends
from swell.autoscaler.live_prices import LivePrices
from swell.autoscaler.memory import Keeping, Launch, Memory
from swell.autoscaler.observe import Observer, Sight
from swell.autoscaler.outlook import Observation, Plan, Relief, State
from swell.autoscaler.pools import Pool
from swell.autoscaler.report import status_of
from swell.core.background_tasks import keep_running
from swell.core.clock import Clock
from swell.core.errors import InvalidInput, SwellError
from swell.core.provider import Instance, Refused, looking_only
from swell.db.registry import Registry
from swell.protocol.autoscaler_messages import DECISIONS, DECISIONS_KEPT, STATUS, Decision, read

_log = structlog.get_logger("swell.autoscaler")

#: `plan(observation, state)`, with its settings.
Policy = Callable[[Observation, State], Plan]

#: Name of the leader's duty.
DUTY: Final = "autoscaler"

#: A dead leader is replaced after the lease; a living one renews it more often. In seconds.
_LEASE_S: Final = 10.0
_RENEW_S: Final = 2.5

#: Timeouts of a provider's launch and terminate calls, in seconds.
_LAUNCH_S: Final = 300.0
_END_S: Final = 60.0

#: Limit of machines in one terminate call.
_END_N: Final = 100

#: A change between met and unmet demand is announced once it has lasted this long, in seconds.
_RELIEF_S: Final = 15.0

#: Delay before a failed launch is retried, in seconds.
_AGAIN_S: Final = 5.0


@dataclass(slots=True)
class _Result:
    """Result of a launch."""

    launch: Launch
    #: Time of the result, as a Unix time in seconds.
    at: float
    given: Sequence[Instance] = ()
    error: Exception | None = None


@dataclass(slots=True)
class _Leading:
    """State of the leader."""

    memory: Memory
    #: Published and unpublished decisions.
    decisions: list[Decision] = field(default_factory=list)
    untold: list[Decision] = field(default_factory=list)
    #: Models with announced unmet demand; per model, the observed state and when it last changed.
    relieved: set[str] = field(default_factory=set)
    turned: dict[str, tuple[bool, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Terms:
    """Settings of a controller process."""

    #: Unique name of the process.
    holder: str
    #: Interval between steps, in seconds.
    every_s: float = 3.0
    #: Whether this is the only controller, so that it needs no leader election.
    is_alone: bool = False
    limits: Limits = field(default_factory=Limits)
    #: Live prices; None if no provider reports any.
    prices: LivePrices | None = None


def _new_token() -> str:
    return secrets.token_hex(8)


async def _tell_nobody() -> None:
    """Do nothing: backends poll."""


class Controller:
    """Scales pools.

    Args:
        observer: Observes queues, workers and machines.
        registry: Stores the memory and the status, and drains workers.
        pools: Pools to scale.
        clock: The clock.
        plan: The policy.
        terms: Settings of this process.
        wake: Called after draining workers, so that backends notify them at once.
    """

    def __init__(
        self,
        observer: Observer,
        registry: Registry,
        pools: Sequence[Pool],
        clock: Clock,
        plan: Policy,
        terms: Terms,
        wake: Callable[[], Awaitable[None]] = _tell_nobody,
    ) -> None:
        self._observer = observer
        self._registry = registry
        self._set_up = pools
        self._pools = {pool.name: pool for pool in pools}
        self._prices = terms.prices
        self._clock = clock
        self._plan = plan
        self._terms = terms
        self._wake = wake
        self._keeping = Keeping(registry, clock)
        self._ends = Ends(registry)
        self._leading: _Leading | None = None
        self._launching: dict[str, asyncio.Task[_Result]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Scale until cancelled."""
        renewing = asyncio.create_task(
            keep_running(self._renew, self._clock, name="autoscaler lease")
        )
        try:
            while True:
                try:
                    await self.step()
                except SwellError as error:
                    _log.warning("pools are not scaled now", detail=error.detail)
                except Exception:
                    _log.exception("pools are not scaled now")
                await self._clock.sleep(self._terms.every_s)
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def close(self) -> None:
        """Resign as the leader, and cancel provider calls in progress."""
        running = [*self._launching.values(), *self._ending]
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._leading is not None and not self._terms.is_alone:
            with contextlib.suppress(SwellError):
                await self._registry.leave_duty(DUTY, self._terms.holder)
        if self._prices is not None:
            await self._prices.close()
        self._leading = None

    async def step(self) -> bool:
        """Observe, plan and act once; return whether this process leads."""
        if not await self._leads():
            self._leading = None
            return False
        leading = self._leading
        if leading is None:
            leading = self._leading = await self._take_over()
        self._take_results(leading)
        sight = await self._observer.look(leading.memory)
        if sight is None:
            return True
        plan = self._plan(sight.observation, leading.memory.state)
        pools = list(self._pools.values())
        actions = decide(
            sight,
            plan,
            leading.memory,
            pools,
            self._terms.limits,
            _new_token,
            under_way=self._launching,
        )
        if not await self._keeping.save(actions.memory):
            _log.warning("another process leads: it has written newer state")
            self._leading = None
            return False
        leading.memory = actions.memory
        await self._act(actions)
        await self._tell(leading, sight, plan, actions)
        await self._ends.tell(sight.crews.values())
        with contextlib.suppress(SwellError):  # the next step retries the write
            await self._observer.keep()
        if self._prices is not None:
            await self._prices.step(sight.machines)
            self._reprice(self._prices)
        return True

    async def settled(self) -> None:
        """Wait until all provider calls have finished."""
        await asyncio.gather(*self._launching.values(), *self._ending)

    async def look(self) -> tuple[Sight, Plan, Actions] | None:
        """Return the observation, the plan and the actions, without acting.

        If a pool has ready workers, it first waits some seconds for the backends' report of held
        tasks.
        """
        memory = await self._remembered()
        await self._load_prices()
        with looking_only(pool.provider for pool in self._pools.values()):
            sight = await self._observer.look(memory)
            has_ready = sight is not None and any(each.ready for each in sight.crews.values())
            if has_ready and await self._observer.hear():
                sight = await self._observer.look(memory)
        if sight is None:
            return None
        plan = self._plan(sight.observation, memory.state)
        pools = list(self._pools.values())
        return sight, plan, decide(sight, plan, memory, pools, self._terms.limits, _new_token)

    async def _leads(self) -> bool:
        if self._terms.is_alone:
            return True
        return await self._registry.take_duty(DUTY, self._terms.holder, lease_s=_LEASE_S)

    async def _renew(self) -> None:
        while True:
            await self._clock.sleep(_RENEW_S)
            if self._leading is not None:
                with contextlib.suppress(SwellError):
                    await self._leads()

    async def _take_over(self) -> _Leading:
        self._observer.take_over()
        memory = await self._remembered()
        await self._load_prices()
        told = read(await self._registry.note(DECISIONS), list[Decision])
        _log.info("pools are scaled by this process", pools=list(self._pools))
        return _Leading(memory, told or [])

    async def _remembered(self) -> Memory:
        """Return the stored memory of the configured pools."""
        return (await self._keeping.load()).of_pools(self._pools)

    async def _load_prices(self) -> None:
        if self._prices is not None:
            await self._prices.load()
            self._reprice(self._prices)

    def _reprice(self, prices: LivePrices) -> None:
        """Replace the pools' prices by the current ones."""
        pools = [prices.priced(pool) for pool in self._set_up]
        self._pools = {pool.name: pool for pool in pools}
        self._observer.reprice(pools)

    def _take_results(self, leading: _Leading) -> None:
        """Process the results of launches since the last step."""
        over = [token for token, task in self._launching.items() if task.done()]
        tasks = [self._launching.pop(token) for token in over]
        results = [task.result() for task in tasks if not task.cancelled()]
        # Process errors first: a successful launch in parallel does not undo a refusal.
        for result in sorted(results, key=lambda each: each.error is None):
            self._take_result(leading, result)

    def _take_result(self, leading: _Leading, result: _Result) -> None:
        launch, memory, now = result.launch, leading.memory, result.at
        others = tuple(each for each in memory.launches if each.token != launch.token)
        if len(others) == len(memory.launches):
            return  # the pool was removed
        if isinstance(result.error, Refused | InvalidInput):
            # A definite refusal: the launch created nothing and is not retried.
            refused = result.error if isinstance(result.error, Refused) else None
            memory = msgspec.structs.replace(memory, launches=others).refused(
                launch.pool,
                now,
                result.error.detail,
                asked_at=launch.next_at,
                is_quota=refused is not None and refused.is_quota,
                retry_after_s=None if refused is None else refused.retry_after_s,
            )
            memory = self._note(leading, memory, launch, "refused", launch.n, result.error.detail)
        elif result.error is not None:
            why = getattr(result.error, "detail", "") or repr(result.error)
            tried = msgspec.structs.replace(
                launch, tries=launch.tries + 1, next_at=now + _AGAIN_S * 2.0**launch.tries
            )
            memory = msgspec.structs.replace(memory, launches=(*others, tried))
            memory = self._note(leading, memory, launch, "failed", launch.n, why)
        else:
            given = tuple(each.id for each in result.given)
            done = msgspec.structs.replace(launch, given=given)
            memory = msgspec.structs.replace(memory, launches=(*others, done))
            if len(given) < launch.n:
                short = launch.n - len(given)
                why = f"{short} of {launch.n} were not given"
                memory = memory.refused(launch.pool, now, why, asked_at=launch.next_at)
                memory = self._note(leading, memory, launch, "refused", short, "there are no more")
            else:
                memory = memory.given(launch.pool, launch.next_at)
        leading.memory = memory

    def _note(
        self, leading: _Leading, memory: Memory, launch: Launch, what: str, n: int, why: str
    ) -> Memory:
        told = Decision(at=self._clock.now(), about=launch.pool, what=what, n=n, why=(why,))
        leading.untold.append(told)
        _log.warning("a launch came to nothing", pool=launch.pool, what=what, n=n, why=why)
        return memory.counting(launch.pool, what, n)

    async def _act(self, actions: Actions) -> None:
        now = self._clock.now()
        for worker in actions.forget:
            await self._registry.remove_worker(worker.id, now)
        for worker in actions.drain:
            await self._registry.drain_worker(worker.id)
        for pool, grace_s, ids in together(actions.ends):
            self._ending.add(task := asyncio.create_task(self._end(pool, grace_s, ids)))
            task.add_done_callback(self._ending.discard)
        for launch in actions.launches:
            if launch.token not in self._launching:
                self._launching[launch.token] = asyncio.create_task(self._launch(launch))
        if actions.drain or actions.forget:
            await self._wake()

    async def _launch(self, launch: Launch) -> _Result:
        pool = self._pools[launch.pool]
        try:
            async with asyncio.timeout(_LAUNCH_S):
                given = await pool.provider.launch(pool.asking(launch.n, launch.token))
        except Exception as error:  # any exception of a provider's library
            return _Result(launch, self._clock.now().timestamp(), error=error)
        return _Result(launch, self._clock.now().timestamp(), given)

    async def _end(self, pool: str, grace_s: float, ids: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(_END_S):
                await self._pools[pool].provider.terminate(ids, grace_s=grace_s)
        except Exception as error:  # any exception of a provider's library
            # The next step retries, unless the provider lists them as ending.
            detail = getattr(error, "detail", "") or repr(error)
            _log.warning("cannot be ended", pool=pool, instances=list(ids), detail=detail)

    async def _tell(self, leading: _Leading, sight: Sight, plan: Plan, actions: Actions) -> None:
        """Publish the status and the decisions."""
        for each in actions.decisions:
            _log.info("pool scaled", pool=each.about, what=each.what, n=each.n, why=each.why)
        leading.untold += actions.decisions
        leading.untold += self._changed_relief(leading, sight, plan.relief)
        if leading.untold:
            kept = [*leading.decisions, *leading.untold][-DECISIONS_KEPT:]
            await self._registry.put_note(DECISIONS, msgspec.json.encode(kept))
            leading.decisions, leading.untold = kept, []
        pools = list(self._pools.values())
        status = status_of(sight, plan, leading.memory, pools, leader=self._terms.holder)
        await self._registry.put_note(STATUS, msgspec.json.encode(status))
        if sight.stale_notes:
            await self._registry.drop_notes(sight.stale_notes)

    def _changed_relief(
        self, leading: _Leading, sight: Sight, relief: Sequence[Relief]
    ) -> list[Decision]:
        """Return decisions for models with a change of unmet demand that has lasted `_RELIEF_S`."""
        at, found = sight.now.timestamp(), []
        by_model = {each.model: each for each in relief}
        for model in sorted({*by_model, *leading.relieved}):
            is_so, since = leading.turned.get(model, (model in leading.relieved, at))
            if (model in by_model) != is_so:
                is_so, since = model in by_model, at
            leading.turned[model] = (is_so, since)
            if is_so == (model in leading.relieved) or at - since < _RELIEF_S:
                continue
            leading.relieved ^= {model}
            why = _relief_in_words(by_model.get(model))
            found.append(Decision(at=sight.now, about=model, what="relief", n=0, why=(why,)))
        return found


def together(ends: Sequence[End]) -> list[tuple[str, float, list[str]]]:
    """Group machines into terminate calls: pool, grace period in seconds, and ids.

    Many providers list all machines of a deployment for each call. Pure.
    """
    groups: dict[tuple[str, float], list[str]] = {}
    for each in ends:
        groups.setdefault((each.pool, each.grace_s), []).append(each.instance_id)
    return [
        (pool, grace_s, ids[at : at + _END_N])
        for (pool, grace_s), ids in groups.items()
        for at in range(0, len(ids), _END_N)
    ]


def _relief_in_words(relief: Relief | None) -> str:
    if relief is None:
        return "all new tasks can start in time again"
    return (
        f"no more than {relief.admitted:.0%} of new tasks can start in time; they wait about "
        f"{relief.wait_s:.0f} s"
    )
