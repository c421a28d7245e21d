"""Publishes changes of tasks, counts their ends, and learns from them."""

from swell.core.events import TaskSummary, event_of, summary_of, summary_of_stage
from swell.core.task import Task, TaskState
from swell.server.service import Service


async def publish_changes(service: Service, tasks: list[Task]) -> None:
    """Publish the states of tasks, after the store has written them."""
    if service.publisher is not None:
        service.publisher.publish(tasks)
    await service.bus.publish([event_of(task) for task in tasks])
    if service.traces is not None:
        service.traces.delivered(tasks)


def count_end(service: Service, task: Task) -> None:
    """Count and learn from a task that has ended."""
    has_succeeded = task.state is TaskState.SUCCEEDED
    service.limits.ended(task.key_id)
    service.quotas.ended(task)
    service.calibration.ended(task.id, service.clock, has_succeeded=has_succeeded)
    if task.finished_at is None:
        return
    if has_succeeded and task.started_at is not None:
        service.estimates.observe_size(task)
        learn(service, summary_of(task))
    metrics, model, timings = service.metrics, task.model, task.timings
    if task.dead:
        metrics.count("swell_tasks_dead_total", model)
    metrics.count("swell_tasks_total", (model, task.state.value))
    total_s = (task.finished_at - task.created_at).total_seconds()
    metrics.observe("swell_task_queue_seconds", model, timings.queue_s if timings else 0.0)
    metrics.observe("swell_task_run_seconds", model, timings.run_s if timings else 0.0)
    metrics.observe("swell_task_total_seconds", model, total_s)


def stage_passed(service: Service, task: Task) -> None:
    """Learn from an ended stage of a pipeline, and count the arrival of the next one."""
    assert task.run is not None, "it has stages"
    service.estimates.observe_size(task)
    learn(service, summary_of_stage(task, task.run.done[-1]))
    arrivals, queue = service.scaling.arrivals.fresh, task.queue
    arrivals[queue] = arrivals.get(queue, 0) + task.count


def learn(service: Service, summary: TaskSummary) -> None:
    """Learn from a task that has succeeded, here or at another backend."""
    worker = service.fleet.workers.get(summary.worker_id or "")
    device = "" if worker is None else worker.info.device
    service.times.observe(summary.model, summary.took_s, summary.count, device, summary.version)
    service.fleet.end(summary)
