"""Draws the tasks of models that draw in steps, inside the model process.

Samples go to the denoiser as their tasks come, and take part from the next step on. A task's result
goes to the worker when all of its samples are done, whoever else is still being drawn.

Checkpoints are left for the worker (`slate.py`) as often as that takes no more than a hundredth of
the time: of small latents after each step.

Progress and previews are for people, so they are told only of what takes long enough to be looked
at: no progress in a task's first 50 ms, no preview in its first 0.4 s nor where nobody follows the
task, and all previews together take at most a twentieth of the time. Their files are made by the
thread that sends; what that takes counts when the next one is made.
"""

import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import pydantic

from swell.core.clock import Clock
from swell.core.records import ModelCard
from swell.core.results import TaskWarning
from swell.diffusion.batch_buffers import InvalidCheckpoint, SampleState
from swell.diffusion.sample_checkpoint import Drawn
from swell.diffusion.step_cost_store import read_step_costs, step_costs_path, write_step_costs
from swell.diffusion.step_engine import Request, StepEngine
from swell.runtime.checkpoint_shm import CheckpointMemory, Page
from swell.runtime.ipc import Pipe, Sent
from swell.runtime.ipc_messages import (
    DRAWN,
    Frame,
    HandedOver,
    Order,
    Preview,
    Step,
    StepEngineConfig,
    Swapped,
)
from swell.runtime.model_residency import Device
from swell.runtime.task_run import (
    EARLY_AFTER_S,
    FIRST_PROGRESS_S,
    PREVIEW_EVERY_S,
    Job,
    Outbox,
    Reader,
    engine_build,
    fault_of,
    fault_of_input,
    picture_of,
    small_jpeg,
    with_traceback,
)
from swell.sdk.context import Item, Listener
from swell.sdk.step_model import StepModel, whole

#: After a preview there is none for so many times what it took.
PREVIEW_REST: Final = 19

#: After checkpoints were left, from which samples go on if this process dies, none are for so many
#: times what leaving them usually takes, but for no longer than this, in seconds. Usual is the
#: lower quartile of so many times, looked at once in as many; at first of a few.
CHECKPOINT_REST: Final = 99
CHECKPOINT_EVERY_S: Final = 2.0
CHECKPOINT_TIMES: Final = 9
CHECKPOINT_LESSONS: Final = 3

#: Step costs are written this often while steps run, and sooner only when there is nothing to draw.
KEEP_EVERY_S: Final = 60.0
KEEP_IDLE_S: Final = 5.0


#: A frame, or what makes one.
_Word: TypeAlias = Frame | Callable[[], Preview | None]


class LoadedStepModel:
    """A model that draws in steps, and what is needed to read its orders."""

    def __init__(self, card: ModelCard, reader: Reader) -> None:
        self.card = card
        self.reader = reader


@dataclass(frozen=True, slots=True)
class _Work:
    """What a task wants drawn."""

    order: Order
    checked: Any
    #: See `StepModel.pack`.
    pack: int | None
    #: The inputs of its samples, where its fields are packs (`ui.pack`).
    inputs: list[Any] | None = None

    @property
    def count(self) -> int:
        """How many samples that is."""
        return self.order.count * (self.pack or 1)


class _Place(NamedTuple):
    """Where a sample's checkpoints lie; and the sample, until it has ended."""

    page: Page
    state: SampleState | None


class _Drawing(Job):
    """A task that is being drawn."""

    __slots__ = (
        "began_s",
        "checked",
        "finished",
        "ids",
        "inputs",
        "is_told",
        "kept",
        "model",
        "places",
        "steps",
    )

    def __init__(self, work: _Work, seed: int, model: str, pipe: Pipe, clock: Clock) -> None:
        order, checked = work.order, work.checked
        super().__init__(order.handle, work.count, seed, checked, pipe, clock)
        self.pack = work.pack
        self.model = model
        self.checked = checked
        self.inputs = work.inputs
        self.ids = [f"{order.handle}.{index}" for index in range(self.count)]
        #: Steps that are over, by sample.
        self.steps = [0] * self.count
        #: How many steps the checkpoints have that the worker has, by sample, and where they lie.
        self.kept = [0] * self.count
        self.places: dict[int, _Place] = {}
        #: Samples that ended before others of the task, until their last checkpoints are left.
        self.finished: dict[int, Drawn] = {}
        #: When its first step began.
        self.began_s: float | None = None
        self.is_told = False
        self.told_s = self.previewed_s = clock.monotonic_s()


class _Listener(Listener):
    """Hears one sample. See `swell.sdk.context.Listener`."""

    __slots__ = ("_drawer", "_index", "_job")

    def __init__(self, drawer: "StepRunner", job: _Drawing, index: int) -> None:
        self._drawer = drawer
        self._job = job
        self._index = index

    def progress(self, done: int, total: int) -> None:
        self._job.steps[self._index] = done
        self._drawer.tell_progress(self._job, total, is_last=done == total)

    def preview(self, make: Callable[[], Any]) -> None:
        self._drawer.tell_preview(self._job, self._index, make)

    def is_cancelled(self) -> bool:
        return self._drawer.is_cancelled(self._job)

    def paid(self, micros: int) -> None:
        self._job.paid(micros)

    def warn(self, warning: TaskWarning) -> None:
        self._job.warn(warning)


def _spoken(words: Sequence[_Word]) -> list[Frame]:
    made = [word() if callable(word) else word for word in words]
    return [frame for frame in made if frame is not None]


def _write(drawn: Sequence[tuple[Page, Drawn]]) -> tuple[()]:
    for page, each in drawn:
        page.write(each.step, *each.read(), is_narrowed=each.is_narrowed)
    return ()


class StepRunner:
    """The step models of this process, and all that they draw.

    Args:
        easels: By the model's name.
        pipe: To the worker.
        slate: Where checkpoints are left for it.
        clock: What tells the time.
        device: The models, and which of them are there.
        studio: How they are run.
        moved: Called with what bringing a model took, in seconds.
    """

    def __init__(
        self,
        easels: Mapping[str, LoadedStepModel],
        pipe: Pipe,
        slate: CheckpointMemory,
        clock: Clock,
        *,
        device: Device,
        studio: StepEngineConfig,
        moved: Callable[[float], None],
    ) -> None:
        self._easels = easels
        self._pipe = pipe
        self._slate = slate
        self._clock = clock
        self._device = device
        self._moved = moved
        self._outbox = Outbox(DRAWN, pipe, clock, aside=True)
        self._jobs: dict[int, _Drawing] = {}
        #: Those of them that have begun.
        self._begun: dict[int, _Drawing] = {}
        self._samples: dict[str, tuple[_Drawing, int]] = {}
        #: Tasks that have ended, whose results have not left this process yet, and their pages.
        self._leaving: list[tuple[Sent, int, list[Page]]] = []
        #: Samples whose checkpoint was refused just now.
        self._refused: set[str] = set()
        self._previews_from_s = 0.0
        #: What the thread that sends took for previews so far; and what of it was counted.
        self._small_s = self._counted_s = 0.0
        #: Progress and previews of the present step.
        self._words: list[_Word] = []
        #: Whether all was handed over.
        self._is_over = False
        #: When checkpoints are left next.
        self._checkpoint_s = clock.monotonic_s()
        self._engine = engine_build(device.name, "exact" if studio.exact else "fast")
        #: Whether there was no memory for one, which is said once.
        self._has_no_room = False
        #: What leaving them took, of the next few times, and how long after one the next comes.
        self._leaving_s: list[float] = []
        self._rest_s = 0.0
        self._paths = (
            {}
            if studio.step_costs is None
            else {
                name: step_costs_path(Path(studio.step_costs), easel.card, device.name)
                for name, easel in easels.items()
            }
        )
        self._kept_s = clock.monotonic_s() - KEEP_IDLE_S
        self._has_news = False
        #: LoRA swaps that the worker has been told of, by model.
        self._told_swaps: dict[str, int] = {}
        step_costs = {}
        for path in self._paths.values():
            step_costs.update(read_step_costs(path))
        self._denoiser = StepEngine(
            clock,
            self._ended,
            exact=studio.exact,
            step_costs=step_costs,
            load=self._bring,
            before_network=pipe.begin,
            progress_every_s=FIRST_PROGRESS_S,
            preview_every_s=PREVIEW_EVERY_S,
        )
        #: The models as the denoiser knows them.
        self._known: dict[str, tuple[StepModel, bool, float]] = {}
        device.left = self.look
        self.look()

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self._samples) and not self._is_over

    @property
    def due_s(self) -> float:
        """When the next `step` is due, on the clock; the past for at once."""
        return self._denoiser.due_s

    def draws(self, model: str) -> bool:
        """Whether this model draws in steps."""
        return model in self._easels

    @property
    def wanted(self) -> set[str]:
        """The models of all that is to be drawn."""
        return {job.model for job in self._jobs.values()}

    # Models

    def look(self) -> None:
        """See which models are on the device, and tell who draws."""
        expected_s = self._device.expected_s()
        for name in self._easels:
            model = self._device.model(name)
            assert isinstance(model, StepModel), "it has an easel"
            seen = (model, self._device.has(name), expected_s[name])
            known = self._known.get(name)
            if known is not None and known[0] is not model:
                self._denoiser.replace(model)
            if known != seen:
                self._known[name] = seen
                self._denoiser.set_residency(model, loaded=seen[1], load_s=seen[2])

    def clear(self) -> None:
        """Finish what needs the device only once more, before another model takes it."""
        self._denoiser.decode_finished()

    def _bring(self, name: str) -> None:
        """Bring a model whose turn it is.

        Raises:
            CannotLoad: It cannot be loaded.
        """
        try:
            load_s = self._device.bring(name, self.wanted)
        finally:
            self.look()
        self._moved(load_s)
        for job in self._jobs.values():
            if job.model == name:
                job.load_s += load_s
                if job.began_s is not None:
                    # It has begun only in so far as its turn has come.
                    job.began_s += load_s

    # Tasks

    def add(self, model: str, orders: list[Order]) -> None:
        """Take tasks; their samples take part from the next step on."""
        easel, drawn_by = self._easels[model], self._known[model][0]
        for order in orders:
            try:
                checked = easel.reader.read(order)
                inputs = easel.reader.inputs(checked)
                pack = drawn_by.pack(checked) if inputs is None else len(inputs)
                work = _Work(order, checked, pack, inputs)
                seed = easel.reader.seed(order, checked, work.count)
            except pydantic.ValidationError as error:
                self._outbox.faults.append(fault_of_input(order.handle, error))
                continue
            except Exception as error:  # the model cannot say how many pictures are wanted
                fault = with_traceback(fault_of(order.handle, error, 0.0), error)
                self._outbox.faults.append(fault)
                continue
            job = _Drawing(work, seed, model, self._pipe, self._clock)
            job.engine = self._engine
            self._begin(order, job)
        self._flush()

    def _begin(self, order: Order, job: _Drawing) -> None:
        self._jobs[job.handle] = job
        deadline_s = None
        if order.within_s is not None:
            deadline_s = self._clock.monotonic_s() + order.within_s
        for index in range(job.count):
            self._add(job, index, deadline_s, order.checkpoints.get(index))

    def _add(
        self, job: _Drawing, index: int, deadline_s: float | None, checkpoint: bytes | None
    ) -> None:
        if job.error is not None:
            # A sample before this one could not even be prepared.
            self._count_off(job)
            return
        name = job.ids[index]
        item = Item(
            job.checked if job.inputs is None else job.inputs[index % len(job.inputs)],
            seed=job.seed + index,
            index=index,
            count=job.count,
            listener=_Listener(self, job, index),
        )
        self._samples[name] = (job, index)
        self._denoiser.add(
            [
                Request(
                    id=name,
                    model=self._known[job.model][0],
                    item=item,
                    deadline_s=deadline_s,
                    checkpoint=checkpoint,
                )
            ]
        )
        if name in self._refused:
            self._refused.discard(name)
            self._add(job, index, deadline_s, None)
            return
        # The worker has what it came with, and nothing was drawn yet.
        job.steps[index] = job.kept[index] = self._denoiser.step_of(name)

    def _ended(self, name: str, result: Any) -> None:
        job, index = self._samples.pop(name)
        if index in job.places:
            # Its latents are not held until others of the task have ended.
            job.places[index] = _Place(job.places[index].page, None)
        job.device_s += self._denoiser.take_share(name)
        if self._denoiser.is_narrowed(name):
            # As in fast mode, whatever the operator chose: its file is not to say otherwise.
            job.engine = {**self._engine, "batching": "fast"}
        if isinstance(result, InvalidCheckpoint):
            # Of another network or another Swell: nothing is lost by starting anew.
            sys.stderr.write(f"a sample is drawn again: {result}\n")
            self._refused.add(name)
            return
        if not isinstance(result, Exception):
            job.results[index] = result
            if job.left > 1:
                self._keep_finished(job, index)
                self._tell_early(job)
        elif job.error is None:
            job.error = result
            for other in job.ids:
                self._denoiser.cancel(other)
        self._count_off(job)

    def _keep_finished(self, job: _Drawing, index: int) -> None:
        """Keep the latents of a sample whose task is not done: only to decode them is lost."""
        drawn = self._denoiser.drawn_since(job.ids[index], 0)
        if drawn is not None:
            job.finished[index] = drawn

    def _tell_early(self, job: _Drawing) -> None:
        """Send what is whole of a task that is not done."""
        began_s = job.began_s
        if began_s is not None and self._clock.monotonic_s() - began_s >= EARLY_AFTER_S:
            self._pipe.send_made(job.parts)

    def _count_off(self, job: _Drawing) -> None:
        job.left -= 1
        if job.left:
            return
        del self._jobs[job.handle]
        self._begun.pop(job.handle, None)
        if job.began_s is not None:
            job.run_s = self._clock.monotonic_s() - job.began_s
        self._device.use(job.model)
        pages = [place.page for place in job.places.values()]
        job.places.clear()
        job.finished.clear()
        sent = self._outbox.add(job)
        if sent is None:
            self._give_back(pages)
        else:
            self._leaving.append((sent, job.handle, pages))
        self._pipe.forget(job.handle)

    # Steps

    def step(self) -> None:
        """Do what is due at a boundary, and one step."""
        if self._leaving:
            self._give_back_left()
        for handle in self._pipe.stopped and self._pipe.stopped & self._jobs.keys():
            for name in self._jobs[handle].ids:
                self._denoiser.cancel(name)
        self._has_news = True
        is_left = self._denoiser.boundary()
        self._flush()
        if self._words:
            words, self._words = self._words, []
            self._pipe.send_made(partial(_spoken, words))
        self._tell_swaps()
        now_s = self._clock.monotonic_s()
        if is_left and now_s >= self._checkpoint_s:
            self._leave_checkpoints()
            self._rest(now_s)
        if now_s - self._kept_s >= (KEEP_EVERY_S if is_left else KEEP_IDLE_S):
            self.keep_step_costs()

    def _give_back_left(self) -> None:
        """Take back the pages of those whose results have left this process, which may die."""
        over = [each for each in self._leaving if each[0].is_over]
        self._leaving = [each for each in self._leaving if not each[0].is_over]
        for _, handle, pages in over:
            # Whatever was said of it meanwhile.
            self._pipe.forget(handle)
            self._give_back(pages)

    def _give_back(self, pages: Iterable[Page]) -> None:
        for page in pages:
            self._slate.give_back(page)

    def _flush(self) -> None:
        if not self._outbox.is_empty:
            self._outbox.flush()

    def _tell_swaps(self) -> None:
        for model, swaps in self._denoiser.swaps.items():
            if swaps.count != self._told_swaps.get(model):
                self._told_swaps[model] = swaps.count
                self._pipe.send(Swapped(model, swaps.count, swaps.seconds))

    def _leave_checkpoints(self) -> None:
        later: list[tuple[Page, Drawn]] = []
        # Others have nothing to lose.
        for job in self._begun.values():
            if job.finished:
                for index, drawn in job.finished.items():
                    self._leave(job, index, drawn, later)
                job.finished.clear()
            for index, name in enumerate(job.ids):
                if name not in self._samples:
                    continue
                place = job.places.get(index)
                if place is not None and self._is_left(job, index, place):
                    continue
                since = self._denoiser.drawn_since(name, job.kept[index])
                if since is not None:
                    job.kept[index] = since.step
                    self._leave(job, index, since, later)
        if later:
            # Only the copies are made now: a thread waits for the device.
            self._pipe.send_made(partial(_write, later))

    def _is_left(self, job: _Drawing, index: int, place: _Place) -> bool:
        """Leave the checkpoint of a sample whose latents lie at hand; say whether they do.

        Of most samples it is all there is to do, after each step.
        """
        page, state = place
        if state is None or state.raw is None:
            return False
        if state.step != job.kept[index]:
            x, h = state.raw
            page.write(state.step, x, h, is_narrowed=state.is_narrowed)
            job.kept[index] = state.step
        return True

    def _leave(
        self, job: _Drawing, index: int, drawn: Drawn, later: list[tuple[Page, Drawn]]
    ) -> None:
        place = job.places.get(index)
        page = self._page(job, index, drawn) if place is None else place.page
        if page is None:
            return
        if drawn.is_at_hand:
            x, h = drawn.read()
            page.write(drawn.step, x, h, is_narrowed=drawn.is_narrowed)
        else:
            later.append((page, drawn))

    def _page(self, job: _Drawing, index: int, drawn: Drawn) -> Page | None:
        """Return a new page for a sample; None where there is no memory: it goes on without."""
        identity = drawn.state.identity
        try:
            page = self._slate.page(job.handle, index, job.seed, identity, *drawn.shape)
        except OSError as error:
            if not self._has_no_room:
                sys.stderr.write(f"samples have no checkpoints: {error}\n")
            self._has_no_room = True
            return None
        job.places[index] = _Place(page, None if drawn.state.is_finished else drawn.state)
        return page

    def _rest(self, began_s: float) -> None:
        """Leave no checkpoints for as long as those were worth that are left since `began_s`."""
        left_s = self._clock.monotonic_s()
        self._leaving_s.append(left_s - began_s)
        if len(self._leaving_s) >= (CHECKPOINT_TIMES if self._rest_s else CHECKPOINT_LESSONS):
            # What took longer, at a first time or for want of a processor, does not count.
            usual_s = sorted(self._leaving_s)[len(self._leaving_s) // 4]
            self._leaving_s.clear()
            self._rest_s = min(CHECKPOINT_REST * usual_s, CHECKPOINT_EVERY_S)
        self._checkpoint_s = left_s + self._rest_s

    def hand_over(self) -> None:
        """Leave checkpoints of all samples, and draw no more."""
        self._leave_checkpoints()
        # It is sent after all that the thread was given.
        device_s = {job.handle: job.device_s for job in self._jobs.values()}
        for name, (job, _) in self._samples.items():
            device_s[job.handle] += self._denoiser.share_so_far(name)
        self._pipe.send(HandedOver(device_s))
        self._is_over = True

    def keep_step_costs(self) -> None:
        """Write the step costs to disk."""
        if not self._has_news:
            return
        self._has_news = False
        self._kept_s = self._clock.monotonic_s()
        step_costs = self._denoiser.step_costs()
        for name, path in self._paths.items():
            own = {key: cost for key, cost in step_costs.items() if key.startswith(f"{name} ")}
            if own:
                write_step_costs(path, own)

    # What samples tell

    def tell_progress(self, job: _Drawing, total: int, *, is_last: bool) -> None:
        """Tell how far a task is, counting the steps of all its samples.

        Args:
            job: The task.
            total: Steps of each sample.
            is_last: Whether one of them has just had its last.
        """
        if not job.left:
            # What a device that works by itself is told is heard of later: by then the thread that
            # sends the results may have let go of them.
            return
        now_s = self._clock.monotonic_s()
        is_time = now_s - job.told_s >= (job.progress_every_s if job.is_told else FIRST_PROGRESS_S)
        if not (is_time or (is_last and job.is_told)):
            return
        # One that came with its last step says no word of it.
        of_each = zip(job.steps, job.results, strict=True)
        done = sum(step if result is None else total for step, result in of_each)
        whole = job.count * total
        if not (is_time or done >= whole):
            return
        job.is_told, job.told_s = True, now_s
        self._words.append(Step(job.handle, min(done, whole), whole))

    def tell_preview(self, job: _Drawing, index: int, make: Callable[[], Any]) -> None:
        """Show a sample, if it is time for it."""
        start_s = self._clock.monotonic_s()
        if start_s < self._previews_from_s or start_s - job.previewed_s < PREVIEW_EVERY_S:
            return
        if not job.is_shown:
            return
        job.previewed_s = start_s
        try:
            made = make()
        except Exception:
            traceback.print_exc()
            made = None
        now_s, small_s = self._clock.monotonic_s(), self._small_s
        took_s = now_s - start_s + small_s - self._counted_s
        self._counted_s = small_s
        self._previews_from_s = now_s + PREVIEW_REST * took_s
        if made is not None:
            self._words.append(partial(self._small, job.handle, index, made))

    def _small(self, handle: int, index: int, made: Any) -> Preview | None:
        """Make a preview's file, in the thread that sends, while the model goes on.

        Args:
            handle: The task.
            index: The sample.
            made: As `StepModel.preview` returns it.
        """
        picture = picture_of(partial(whole, made))
        # Waiting for the device costs this thread nothing.
        start_s = self._clock.monotonic_s()
        jpeg = None if picture is None else small_jpeg(picture)
        self._small_s += self._clock.monotonic_s() - start_s
        return None if jpeg is None else Preview(handle, index, jpeg)

    def is_cancelled(self, job: _Drawing) -> bool:
        """Say whether a task is to stop. Asked before each step, so the first time is its start."""
        if job.began_s is None:
            job.began_s = self._clock.monotonic_s()
            self._begun[job.handle] = job
        return job.is_cancelled()
