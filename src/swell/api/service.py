"""What the handlers of one backend process share."""

import asyncio
import itertools
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import msgspec

from swell.adoption.life import Canary
from swell.adoption.traffic import drawn_as
from swell.api.audit import Audit
from swell.api.auth import Keys
from swell.api.body_queue import BodyQueue
from swell.api.calibration import Calibration, Promise, Situation
from swell.api.call import Call
from swell.api.canaries import Canaries, is_canary_served
from swell.api.cards import Cards
from swell.api.charges import Charges
from swell.api.classes import Classes
from swell.api.eta import (
    Estimate,
    EtaSeconds,
    Load,
    ServiceTimes,
    after_first,
    estimate,
    first_pace,
    load_of,
)
from swell.api.facades.unanswered import Unanswered
from swell.api.fleet import Fleet, Rival, never_dead
from swell.api.headers import Hosts, Origins, host_name
from swell.api.hook_bodies import Form, SealOf
from swell.api.hooks import Hooks
from swell.api.leadership import Leadership
from swell.api.limits import Limits
from swell.api.liveness import is_dead
from swell.api.lookups import Lookups
from swell.api.metered import metered
from swell.api.metrics import Metrics
from swell.api.places import Places
from swell.api.polled import Polled
from swell.api.quotas import Quotas
from swell.api.ratings import Ratings
from swell.api.requests import Requests
from swell.api.samples import drawn_of, drawn_of_stage, pack_of, pack_of_stage, samples_of
from swell.api.scaling import Scaling
from swell.api.settings import ApiSettings, Backend
from swell.api.skew import Skew
from swell.api.starts import Starts
from swell.api.streams import Streams
from swell.api.tariffs import Tariffs
from swell.api.thumbnails import Thumbnails
from swell.api.traces import Traces
from swell.api.views import UrlMaker
from swell.api.web import WebApp
from swell.api.writable import Writable
from swell.broker import NOT_STAGED, Backlog, Publisher, Rank, ServedWith
from swell.degrade import FIXED, time_share
from swell.errors import Unavailable
from swell.events import Brief, Lives, brief_of, brief_of_stage, event_of
from swell.fairness import band
from swell.money.ledger import cost_micros
from swell.objects import Objects
from swell.registry import KeyLimits, Scope
from swell.stages import Sight, Stage, stages_ahead
from swell.task import NewTask, Task, TaskState
from swell.weights.chunks import is_chunk_key
from swell.weights.store import Manifests, WeightStore

#: For how long a look at other models' backlogs is good enough for an estimate, in seconds.
_BACKLOG_S: Final = 0.1

#: So many pictures are decoded at once, whatever for.
_DECODED_AT_ONCE: Final = 2

#: A model, its queues where it was staged, and a band: what of it waits.
_Waiting = tuple[str, tuple[str, ...], int]

#: Under which name the registry keeps what tasks took.
_TIMES: Final = "service_times"


class Service:
    """Contracts, and the few things that are kept in memory beside them.

    Args:
        backend: The contracts.
        forms: How webhooks' bodies are written, by name.
        seals: What signs such bodies besides, by the same names.
    """

    def __init__(
        self,
        backend: Backend,
        forms: Mapping[str, Form] = MappingProxyType({}),
        seals: Mapping[str, SealOf] = MappingProxyType({}),
    ) -> None:
        settings = backend.settings
        self.metrics = Metrics()
        backend = metered(backend, self.metrics)
        self.backend = backend
        self.settings = settings
        self.store = backend.store
        self.broker = backend.broker
        self.bus = backend.bus
        self.objects = backend.objects
        self.registry = backend.registry
        self.clock = backend.clock
        self.keys = Keys(backend.registry, backend.clock, settings.key_cache_s)
        self.audit = Audit(backend.registry, backend.clock)
        self.classes = Classes(settings.admission.classes)
        self.limits = Limits(
            backend.registry,
            backend.store,
            backend.clock,
            msgspec.convert(settings.limits, KeyLimits, from_attributes=True),
            Quotas(
                backend.registry,
                backend.store,
                backend.clock,
                self.expected_micros,
                lambda task: samples_of(self.cards, task),
                settings.admission.sample_micros,
            ),
        )
        self.hosts = _hosts(settings)
        self.origins = (
            Origins(settings.server.cors_origins) if settings.server.cors_origins else None
        )
        self.cards = Cards(backend.registry, backend.clock)
        self.times, self.calibration = (
            ServiceTimes(lives=self.cards.live_versions),
            Calibration(),
        )
        self.fleet = Fleet(
            backend.registry,
            backend.clock,
            self.times,
            alive_s=settings.alive_s,
            lost_s=settings.lost_s,
            # Of processes of another machine nothing is known, and this may look like one.
            is_dead=never_dead if backend.is_shared else is_dead,
        )
        #: Tells this process from the others on the same store.
        self.name = secrets.token_hex(8)
        self.leadership = Leadership(
            backend.registry,
            backend.bus,
            backend.clock,
            self.name,
            is_shared=backend.is_shared,
            skew=self.skew,
        )
        # What an autoscaler tells.
        self.scaling = Scaling(backend.registry, backend.clock, self.name)
        self.hooks = (
            Hooks(backend, backend.outbox, forms, seals, self.metrics) if backend.outbox else None
        )
        self.requests = Requests(backend.clock, settings.log.level_of_requests)
        self.traces = Traces(backend.tracer, backend.clock)
        self.streams, self.canaries = Streams(), Canaries()
        self.thumbnails = Thumbnails(backend.objects, self.lanes)
        self.weights = backend.weights or WeightStore(backend.objects, "weights")
        self._has_weights_apart = backend.weights is not None
        self.manifests = Manifests(self.weights)
        self.lookups, self.body_queue = Lookups(backend.store), BodyQueue()
        self.polled, self.unanswered = (
            Polled(backend.bus, backend.clock),
            Unanswered(backend.clock),
        )
        self.starts = Starts(backend.clock)
        self.charges = Charges(backend.registry, backend.clock, self.metrics)
        self._places = Places(self._ranks, backend.clock)
        #: (model, its queues, band) → (good until, what waits of it).
        self._backlogs: dict[_Waiting, tuple[float, Backlog]] = {}
        #: Between start and end; outside, nobody is kept waiting.
        self.is_ready = self.is_ending = False
        self._makers: dict[tuple[str, bytes, str], UrlMaker] = {}
        self._request_ids = _request_ids()

    @property
    def publisher(self) -> Publisher | None:
        """Sends task IDs to an external queue service; None without one."""
        return self.backend.publisher

    @property
    def quotas(self) -> Quotas:
        """How much keys and their users may use in a day and a month."""
        return self.limits.quotas

    def new_request_id(self) -> str:
        """Return an id for a request."""
        return next(self._request_ids)

    def need_hooks(self) -> Hooks:
        """Return what looks after webhooks.

        Raises:
            Unavailable: This service sends none.
        """
        if self.hooks is None:
            raise Unavailable("this service sends no webhooks: leave them out")
        return self.hooks

    async def check_again(self, call: Call) -> None:
        """Check that the key still works of a request that has waited, or goes on.

        Raises:
            Unauthenticated: It was revoked, or its time is over.
        """
        if call.key is None or not self.keys.remembers(call.key):
            await self.keys.find(call.header(b"authorization"))

    def objects_of(self, key: str) -> Objects:
        """Return where a file lies of which we have signed a URL: weights may lie apart."""
        if self._has_weights_apart and is_chunk_key(key):
            return self.weights.objects
        return self.objects

    @cached_property
    def lanes(self) -> asyncio.Semaphore:
        """What is held by whatever decodes a picture."""
        return asyncio.Semaphore(_DECODED_AT_ONCE)

    @cached_property
    def skew(self) -> Skew:
        """How far the clock is from the database's."""
        return Skew(self.backend.store, self.backend.clock, self.fleet.wake_all)

    @property
    def refusal(self) -> str:
        """Why no tasks are handed out; empty while they are."""
        return self.skew.refusal or self.writable.refusal

    @cached_property
    def writable(self) -> Writable:
        """Whether the object store takes files."""
        return Writable(self.objects, self.fleet.wake_all)

    @cached_property
    def tariffs(self) -> Tariffs:
        """What workers cost."""
        return Tariffs(self.registry, self.scaling, self.settings)

    @cached_property
    def ratings(self) -> Ratings:
        """What votes say of models, reckoned when it is first asked for."""
        return Ratings(self.registry)

    @cached_property
    def web_app(self) -> WebApp:
        """The files of the web app, read when the first is asked for."""
        return WebApp(self.settings)

    def urls(self, call: Call) -> UrlMaker:
        """Return what makes URLs that this client can follow."""
        if self.settings.server.public_url is not None:
            return self._url_maker(self.settings.server.public_url.rstrip("/"))
        scope = call.scope
        host = call.header(b"host") or b"127.0.0.1"
        known = (scope.get("scheme", "http"), host, scope.get("root_path", ""))
        maker = self._makers.get(known)
        if maker is None:
            if len(self._makers) > 1000:
                self._makers.clear()
            text = host.decode("latin-1") if _is_plain_host(host) else "127.0.0.1"
            maker = self._makers[known] = self._url_maker(f"{known[0]}://{text}{known[2]}")
        return maker

    def _url_maker(self, base: str) -> UrlMaker:
        shows_trace = self.settings.telemetry.in_tasks
        return UrlMaker(
            base, self.objects, self.settings.server.signed_url_s, shows_trace=shows_trace
        )

    def base_url(self, call: Call) -> str:
        """Return scheme and host as the client reached them, or as they were configured."""
        return self.urls(call).base

    def may_see(self, call: Call, task: Task) -> bool:
        """Whether the caller may know of a task: its own, or any for an admin."""
        key = call.caller
        if task.key_id == key.id:
            return True
        call.of_others = Scope.ADMIN in key.scopes
        return call.of_others

    async def place(
        self, task: Task, *, is_new: bool = False
    ) -> tuple[int | None, Estimate | None]:
        """Return the position (1 is next) and the estimate of a task; None where unknown."""
        if task.state is not TaskState.QUEUED:
            return None, None
        return (await self.places([task], are_new=is_new))[0]

    async def places(
        self, tasks: Sequence[Task], *, are_new: bool = False
    ) -> list[tuple[int | None, Estimate | None]]:
        """Return position and estimate of tasks; only those that wait have a position."""
        places: list[tuple[int | None, Estimate | None]] = []
        ranks = await self._places.ahead(tasks, are_new=are_new)
        # A quick worker may hold some of them by now: nothing that waits is before these, and of
        # what it holds only what it took earlier.
        is_held = [
            rank is not None and self.fleet.held_attempt(task.id) is not None
            for task, rank in zip(tasks, ranks, strict=True)
        ]
        later = sum(is_held)
        for task, rank, held in zip(tasks, ranks, is_held, strict=True):
            if rank is None:
                places.append((None, None))
            else:
                ahead, samples = (0, 0) if held else (rank.ahead, rank.samples)
                told = await self._at(task, ahead, samples, later=later if held else 0)
                places.append((rank.ahead + 1, await self._on(task, told and told[0])))
                if are_new and told is not None and task.run is None:
                    self.calibration.promised(task.id, told[1])
            later -= held
        return places

    async def _ranks(self, tasks: Sequence[Task]) -> list[Rank | None]:
        served_with = self.served_with(task.queue for task in tasks)
        return await self.broker.ranks(tasks, served_with=served_with)

    async def rank_of_new(self, new: NewTask) -> Rank:
        """Return how many tasks would come before one that were sent now."""
        return await self.broker.rank_of_new(new, served_with=self.served_with([new.queue]))

    def served_with(self, queues: Iterable[str]) -> ServedWith:
        """Return the queues of a model that its workers serve together with some, where it was
        staged.
        """
        lives = self.cards.lives
        if not lives:
            return NOT_STAGED
        found = {}
        for queue in queues:
            model = queue.partition(":")[0]
            version = self.cards.served_version(queue, self._has_workers)
            if model in lives and version is not None:
                found[queue] = self.cards.queues_served(model, [version], self._has_workers)
        return found

    def _has_workers(self, model: str, canary: Canary) -> bool:
        return is_canary_served(self, model, canary)

    async def expected(self, new: NewTask, rank: Rank) -> Estimate | None:
        """Return when a task would start and end that was sent now and had this rank.

        None as long as no task of its model has ended.
        """
        told = await self._at(new, rank.ahead, rank.samples)
        return await self._on(new, told and told[0])

    async def expected_last(self, queue: str, ready: int, samples: int) -> Estimate | None:
        """Return when a usual task would start and end behind all that is ready in a queue."""
        model = queue.partition(":")[0]
        stats = self.times.stats(model, self.cards.served_version(queue, self._has_workers))
        count = 1 if stats is None else max(1, round(stats.mean_count))
        new = NewTask(model=model, queue=queue, input=msgspec.Raw(b"{}"), count=count)
        told = await self._at(new, ready, samples, size=1.0)
        return told and told[0]

    async def _at(
        self,
        task: Task | NewTask,
        ahead: int,
        samples: int,
        *,
        later: int = 0,
        size: float | None = None,
    ) -> tuple[Estimate, Promise] | None:
        """Return when a task starts and ends, and from what that was told; None before one of its
        model has ended.

        Args:
            task: Which one.
            ahead: How many wait before it.
            samples: Of these.
            later: How many that its workers hold come not before it, itself included.
            size: As of `_pack_size`, where that is known.
        """
        version = self.cards.served_version(task.queue, self._has_workers)
        stats = self.times.stats(task.stage_model, version)
        if stats is None:
            return None
        usual = self.times.pace(task.stage_model, version) or first_pace(stats)
        # Without a live worker one is better than no answer: somebody will start it.
        workers, held, at_once, pace = self.fleet.pace(task.stage_model, version, usual)
        load = load_of(stats, ahead, samples, pace=pace)
        rivals = self.fleet.rivals(task.stage_model, version, staged=self.cards.lives)
        if rivals:
            load += await self._load_of_rivals(rivals, task, ahead)
            for model, n in self.fleet.running(task.stage_model, version).items():
                n = max(0, n - later) if model == task.stage_model else n
                other = self.times.stats(model)
                load += (
                    load_of(stats, n, pace=pace)
                    if other is None
                    else load_of(other, n, pace=self.times.pace(model))
                )
        else:
            load += load_of(stats, max(0, held - later), pace=pace)
        life = self.cards.lives.get(task.stage_model)
        drawn = task.stage_model if life is None or version is None else drawn_as(life, version)
        coming = self.scaling.coming(drawn)
        ready_in_s = (0.0, 0.0)
        if not workers:
            ready_in_s, coming = self.scaling.ready_in_s(drawn), after_first(coming)
        raw = estimate(
            stats,
            load,
            workers=max(1, workers),
            at_once=at_once,
            count=task.count * (self._pack_size(task) if size is None else size),
            ready_in_s=ready_in_s,
            coming=coming,
        )
        situation = Situation.of(workers, raw)
        told = self.calibration.corrected(task.stage_model, situation, raw)
        now_s = self.clock.monotonic_s()
        return told, Promise(task.stage_model, situation, raw.finish.median, told.finish, now_s)

    def expected_micros(self, new: NewTask, time_share: float = 1.0) -> int | None:
        """Return what nine in ten such tasks cost at most, in millionths of a dollar.

        None where no task of its model has ended, or the pools of its workers have no price, and
        nothing is paid to others for it; of a pipeline, where that is so of a stage that may run.

        Args:
            new: The task.
            time_share: Which part of its usual time it takes. Others ask no less for that.
        """
        stages: Sequence[Stage | None] = (None,)
        if new.run is not None:
            stages = stages_ahead(new.run, new.input)
        found = [self._stage_micros(new, stage, time_share) for stage in stages]
        costs = [each for each in found if each is not None]
        return sum(costs) if len(costs) == len(found) else None

    def _stage_micros(self, new: NewTask, stage: Stage | None, time_share: float) -> int | None:
        """Return what a stage costs at most: its time, and what is paid to others for it."""
        queue = new.queue if stage is None else stage.queue
        count = new.count if stage is None or stage.counts else 1
        machine = self._expected_micros(queue, count, self._pack_size(new, stage))
        if machine is not None:
            machine = round(machine * time_share)
        card = self.cards.of_queue(queue)
        if card is None or not card.price_micros:
            return machine
        _, size = self._pack(new, stage)
        return (machine or 0) + card.price_micros * count * size

    def _pack_size(self, task: Task | NewTask, stage: Stage | None = None) -> float:
        """Return how many times as much a task asks for as those of its model usually: samples of a
        pack, and what the steps and the area of each of them take.

        Args:
            task: Which one.
            stage: Of its pipeline; the one that it is at where it is None.
        """
        model, size = self._pack(task, stage)
        more = size / (self.times.pack(model) or size)
        usual = self.times.drawn(model)
        return more if usual is None else more * time_share(self._drawn(task, stage) / usual)

    def _pack(self, task: Task | NewTask, stage: Stage | None) -> tuple[str, int]:
        """Return the model of a task, or of a stage of it, and how many samples its pack has."""
        run = task.run
        if run is None:
            return task.model, pack_of(self.cards, task)
        stage = stage or run.stage
        sight = Sight(run.pipeline, task.input, run.done)
        return stage.model, pack_of_stage(self.cards, stage, sight)

    def _drawn(self, task: Task | NewTask, stage: Stage | None) -> float:
        """Return how much a task, or a stage of it, draws of each sample."""
        run = task.run
        if run is None:
            return drawn_of(self.cards, task)
        sight = Sight(run.pipeline, task.input, run.done)
        return drawn_of_stage(self.cards, stage or run.stage, sight)

    def fixed_share(self, new: NewTask) -> float:
        """Return which part of its time a task takes whatever it asks to draw: a tenth of what is
        usual of its model.
        """
        usual = None if new.run is not None else self.times.drawn(new.model)
        if usual is None:
            return FIXED
        return FIXED / time_share(self._drawn(new, None) / usual)

    def weighs_drawn(self, new: NewTask) -> bool:
        """Whether estimates of a task follow how much it asks to draw."""
        models = (
            [new.model]
            if new.run is None
            else [stage.model for stage in stages_ahead(new.run, new.input)]
        )
        return any(self.times.drawn(model) is not None for model in models)

    def _expected_micros(self, queue: str, count: int, size: float) -> int | None:
        model, version = queue.partition(":")[0], None
        if model in self.cards.lives:
            version = self.cards.served_version(queue, self._has_workers)
        stats = self.times.stats(model, version)
        prices = [
            price
            for worker in self.fleet.live(model, version)
            if (price := self.tariffs.hour_micros(worker.info)) is not None
        ] or self.scaling.prices(model)
        if stats is None or not prices:
            return None
        pace = self.times.pace(model, version) or first_pace(stats)
        load = load_of(stats, 1, count, pace=pace)
        return cost_micros(size * load.seconds * max(1.0, stats.ratio_p90), max(prices))

    async def _on(self, task: Task | NewTask, eta: Estimate | None) -> Estimate | None:
        """Return the estimate of a whole task: of a pipeline, with the stages that still follow.

        To each of these it is taken to come as a new task would now.
        """
        run = task.run
        if run is None or eta is None:
            return eta
        for stage in stages_ahead(run, task.input)[1:]:
            new = NewTask(
                model=stage.model,
                queue=stage.queue,
                input=msgspec.Raw(b"{}"),
                count=task.count if stage.counts else 1,
                priority=task.priority,
                key_id=task.key_id,
                user=task.user,
            )
            rank = await self.rank_of_new(new)
            size = self._pack_size(task, stage)
            later = await self._at(new, rank.ahead, rank.samples, size=size)
            if later is None:
                return None
            eta = msgspec.structs.replace(eta, finish=_sum(eta.finish, later[0].finish))
        return eta

    async def can_launch(self, model: str, version: str | None = None) -> bool:
        """Whether a worker can be started for a model, here or by the autoscaler.

        Args:
            model: Which one.
            version: Which one a worker must have; any, if it is None.
        """
        life = self.cards.lives.get(model)
        if life is None or version is None:
            if model in self.backend.launchable() or await self.scaling.can_launch(model):
                # What is launched brings the version that a request without one gets.
                current = version and await self.cards.target(model)
                return not current or current.card.version == version
            return False
        if await self.scaling.can_launch(drawn_as(life, version)):
            return True
        # Until an autoscaler has told which version its pools bring, that is not known.
        is_told = self.scaling.status is not None
        return not is_told and version == life.live and model in self.backend.launchable()

    async def _load_of_rivals(
        self, rivals: dict[str, Rival], task: Task | NewTask, ahead: int
    ) -> Load:
        """Return what other models' tasks do on the same workers before a task starts.

        More urgent ones come first. With the others the models take turns, so that as many of each
        come first as of the task's own model, and one.
        """
        own = self.times.stats(
            task.stage_model, self.cards.served_version(task.queue, self._has_workers)
        )
        load = Load()
        for model, backlog in zip(
            rivals, await self._backlogs_of(rivals, task.priority), strict=True
        ):
            stats = self.times.stats(model) or own
            if stats is None:
                continue
            turns = min(backlog.equal, ahead + 1)
            samples = backlog.equal_samples * turns / max(1, backlog.equal)
            part = rivals[model].part
            load += load_of(
                stats,
                part * (backlog.urgent + turns),
                part * (backlog.urgent_samples + samples),
                pace=self.times.pace(model),
            )
        return load

    async def _backlogs_of(self, rivals: Mapping[str, Rival], priority: int) -> list[Backlog]:
        """Return what waits of other models for the same workers; one look serves all requests of
        a moment.
        """
        now_s, urgency = self.clock.monotonic_s(), band(priority)
        served_with = {
            model: self.cards.queues_served(model, sorted(rival.versions), self._has_workers)
            for model, rival in rivals.items()
            if model in self.cards.lives
        }
        wanted = [(model, served_with.get(model, ()), urgency) for model in rivals]
        known = [self._backlogs.get(each) for each in wanted]
        if any(each is None or each[0] <= now_s for each in known):
            found = await self.broker.backlogs(list(rivals), priority, served_with=served_with)
            self._backlogs = {
                each: kept for each, kept in self._backlogs.items() if kept[0] > now_s
            }
            for each, backlog in zip(wanted, found, strict=True):
                self._backlogs[each] = (now_s + _BACKLOG_S, backlog)
            return found
        return [each[1] for each in known if each is not None]

    async def recall_times(self) -> None:
        """Take up what tasks took before the last restart."""
        kept = await self.registry.note(_TIMES)
        if kept is not None:
            self.times.load(kept)

    async def keep_times(self) -> None:
        """Keep what tasks took, where that has changed; of several backends one does."""
        if self.times.has_news and await self.leadership.leads("times"):
            await self.registry.put_note(_TIMES, self.times.dump())

    async def changed(self, tasks: list[Task]) -> None:
        """Publish what became of tasks, after the store has written it."""
        if self.publisher is not None:
            self.publisher.publish(tasks)
        await self.bus.publish([event_of(task) for task in tasks])
        self.traces.told(tasks)

    def learn(self, brief: Brief) -> None:
        """Learn from a task that has succeeded, here or at another backend."""
        worker = None if brief.worker_id is None else self.fleet.get(brief.worker_id)
        device = "" if worker is None else worker.info.device
        self.times.observe(brief.model, brief.took_s, brief.count, device, brief.version)
        self.fleet.end(brief)

    def learn_lives(self, lives: Lives) -> None:
        """Learn from attempts that began and ended at another backend."""
        worker = None if lives.worker_id is None else self.fleet.get(lives.worker_id)
        device = "" if worker is None else worker.info.device
        for took_s in lives.took_s:
            self.times.observe(lives.model, took_s, lives.count, device, lives.version)
        self.fleet.note_lives(lives)

    def stage_passed(self, task: Task) -> None:
        """Learn from a stage of a pipeline that is over, and note that the next is wanted."""
        assert task.run is not None, "it has stages"
        self._learn_asked(task)
        self.learn(brief_of_stage(task, task.run.done[-1]))
        arrivals, queue = self.scaling.arrivals.fresh, task.queue
        arrivals[queue] = arrivals.get(queue, 0) + task.count

    def _learn_asked(self, task: Task) -> None:
        """Learn how large packs are and how much is drawn, from a task that has succeeded or a
        stage that is over.
        """
        run, cards, times = task.run, self.cards, self.times
        model = task.model if run is None else run.done[-1].model
        if model not in cards.packed and model not in cards.drawing:
            return
        stage = None
        if run is not None:
            name = run.done[-1].name
            stage = next(each for each in run.pipeline.stages if each.name == name)
            run = msgspec.structs.replace(run, done=run.done[:-1])
            task = msgspec.structs.replace(task, run=run)
        if model in cards.packed:
            times.observe_pack(model, self._pack(task, stage)[1])
        if model in cards.drawing:
            times.observe_drawn(model, self._drawn(task, stage))

    def count_end(self, task: Task) -> None:
        """Learn from a task that has ended."""
        self.limits.ended(task.key_id)
        self.quotas.ended(task)
        self.calibration.ended(task.id, self.clock, has_succeeded=task.state is TaskState.SUCCEEDED)
        finished_at = task.finished_at
        if finished_at is None:
            return
        timings = task.timings
        if task.started_at is not None and task.state is TaskState.SUCCEEDED:
            self._learn_asked(task)
            self.learn(brief_of(task))
        if task.dead:
            self.metrics.dead[task.model] = self.metrics.dead.get(task.model, 0) + 1
        self.metrics.task_ended(
            task.model,
            task.state._value_,
            queue_s=0.0 if timings is None else timings.queue_s,
            run_s=0.0 if timings is None else timings.run_s,
            total_s=(finished_at - task.created_at).total_seconds(),
        )


def _request_ids() -> Iterator[str]:
    """Yield ids that tell the process and the request apart; random, so that they say no more."""
    prefix = secrets.token_hex(5)
    return (f"req_{prefix}{number:08x}" for number in itertools.count(1))


def _sum(one: EtaSeconds, other: EtaSeconds) -> EtaSeconds:
    return EtaSeconds(
        low=one.low + other.low, median=one.median + other.median, high=one.high + other.high
    )


def _hosts(settings: ApiSettings) -> Hosts | None:
    names = list(settings.server.hosts)
    if settings.server.public_url is not None:
        names.append(host_name(urlsplit(settings.server.public_url).netloc) or "")
    return Hosts(names) if names else None


def _is_plain_host(host: bytes) -> bool:
    return len(host) <= 255 and host.decode("latin-1").translate(_HOST_CHARACTERS) == ""


_HOST_CHARACTERS: Final = {
    ord(letter): None
    for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]"
}
