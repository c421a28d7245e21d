// Tasks that are under way. They live on the server: a page that is loaded again finds them there.
import { type ArtifactView, call, Problem, type TaskRequest, type TaskView } from "./api/client";
import { follow, type TaskEvent } from "./api/events";
import { person } from "./session.svelte";

const ENDED = new Set(["succeeded", "failed", "canceled", "expired"]);

/** Streams that are open at once: over HTTP/1.1 a browser opens six connections, and the pictures need some. */
const STREAMS = 3;
const POLL_MS = 2500;

export class Job {
  task = $state.raw<TaskView>() as TaskView;
  /** Of a pipeline: the stage at work. */
  stage = $state("");
  /** 0 to 1; null while nobody knows. */
  fraction = $state<number | null>(null);
  step = $state<[number, number] | null>(null);
  /** Small pictures of what is being drawn, by the number of the sample. */
  previews = $state<Record<number, string>>({});
  /** Files that have come before the end, each in its place. */
  early = $state.raw<ArtifactView[]>([]);
  /** Cannot be followed; it goes on nevertheless. */
  isLost = $state(false);
  isCanceling = $state(false);

  constructor(task: TaskView) {
    this.task = task;
    this.early = task.artifacts;
  }

  get id(): string {
    return this.task.id;
  }

  get isOver(): boolean {
    return ENDED.has(this.task.state);
  }

  /** Pictures, as far as they have come. */
  get pictures(): ArtifactView[] {
    const files = this.isOver ? this.task.artifacts : this.early;
    return files.filter((each) => each.content_type.startsWith("image/"));
  }

  take(event: TaskEvent): void {
    switch (event.kind) {
      case "queued":
        this.task = {
          ...this.task,
          state: "queued",
          position: event.data.position ?? this.task.position,
          eta_s: event.data.eta_s ?? this.task.eta_s,
        };
        this.stage = event.data.stage ?? this.stage;
        break;
      case "started":
        this.task = { ...this.task, state: "running", position: null, started_at: this.task.started_at ?? new Date().toISOString() };
        this.stage = event.data.stage ?? "";
        this.fraction = this.step = null;
        break;
      case "progress":
        this.fraction = event.data.fraction ?? null;
        this.step = event.data.steps ? [event.data.step ?? 0, event.data.steps] : null;
        this.stage = event.data.stage ?? this.stage;
        break;
      case "preview":
        this.previews[event.data.index ?? 0] = event.data.image;
        break;
      case "artifact":
        // A later attempt tells anew what an earlier one has told.
        this.early = Object.assign([...this.early], { [event.data.index ?? this.early.length]: event.data });
        break;
      default:
        this.task = event.data;
        this.fraction = 1;
    }
  }
}

class Jobs {
  /** Newest first. */
  all = $state<Job[]>([]);
  private streams = new Map<string, AbortController>();
  private timer: ReturnType<typeof setInterval> | undefined;
  private listeners: ((job: Job) => void)[] = [];

  get active(): Job[] {
    return this.all.filter((job) => !job.isOver);
  }

  /** Find what this browser asked for and is under way. */
  async load(): Promise<void> {
    const asked = (["running", "queued"] as const).map((state) =>
      call("GET /v1/tasks", { query: { state, user: person, limit: 100 } }),
    );
    for (const list of await Promise.all(asked)) list.tasks.forEach((task) => this.adopt(task));
  }

  /** Ask for something; throws a `Problem`. The same `key` asks once, however often it is sent. */
  async start(request: Omit<TaskRequest, "user">, key: string = crypto.randomUUID()): Promise<Job> {
    const body = { ...request, user: person };
    const task = await call("POST /v1/tasks", { body, headers: { "idempotency-key": key } });
    return this.adopt(task);
  }

  /** Know a task, and follow it until its end. */
  adopt(task: TaskView): Job {
    const known = this.all.find((job) => job.id === task.id);
    if (known) return known;
    const job = new Job(task);
    this.all = [job, ...this.all].sort((a, b) => b.task.created_at.localeCompare(a.task.created_at));
    this.watch();
    // The proxy of the list, whose changes are seen.
    return this.all.find((each) => each.id === task.id) ?? job;
  }

  async cancel(job: Job): Promise<void> {
    job.isCanceling = true;
    try {
      const task = await call("POST /v1/tasks/{id}/cancel", { path: { id: job.id } });
      if (!job.isOver) job.task = task;
    } finally {
      job.isCanceling = false;
    }
  }

  async cancelWaiting(): Promise<void> {
    await Promise.all(this.active.filter((job) => job.task.state === "queued").map((job) => this.cancel(job)));
  }

  async retry(job: Job): Promise<Job> {
    return this.adopt(await call("POST /v1/tasks/{id}/retry", { path: { id: job.id } }));
  }

  /** Leave ended ones out of the list. */
  clear(): void {
    this.all = this.active;
  }

  /** Be told when a job ends. */
  onEnd(tell: (job: Job) => void): () => void {
    this.listeners.push(tell);
    return () => (this.listeners = this.listeners.filter((each) => each !== tell));
  }

  /** Stop following, such as when somebody signs out. */
  stop(): void {
    for (const stream of this.streams.values()) stream.abort();
    this.streams.clear();
    clearInterval(this.timer);
    this.timer = undefined;
    this.all = [];
  }

  private watch(): void {
    // Running ones first: they have most to show. Those that were asked for first come next.
    const order = [...this.active].reverse().sort((a, b) => Number(b.task.state === "running") - Number(a.task.state === "running"));
    for (const job of order) {
      if (this.streams.size >= STREAMS) break;
      if (!this.streams.has(job.id) && !job.isLost) void this.stream(job);
    }
    const isMore = this.active.some((job) => !this.streams.has(job.id));
    if (isMore) this.timer ??= setInterval(() => void this.poll(), POLL_MS);
    else this.timer = void clearInterval(this.timer);
  }

  private async stream(job: Job): Promise<void> {
    const control = new AbortController();
    this.streams.set(job.id, control);
    try {
      await follow(job.id, (event) => this.hear(job, event), control.signal);
      // The end may have been told to another stream: ask once.
      if (!control.signal.aborted && !job.isOver) job.task = await call("GET /v1/tasks/{id}", { path: { id: job.id } });
    } catch (error) {
      if (!(error instanceof Problem && error.status === 429)) job.isLost = true;
    } finally {
      this.streams.delete(job.id);
    }
    if (control.signal.aborted) return;
    if (job.isOver) this.ended(job);
    this.watch();
  }

  private hear(job: Job, event: TaskEvent): void {
    const before = job.stage;
    job.take(event);
    // What a prompt was understood as is worth a look before the picture is there.
    if (before === "translate" && job.stage !== before && !job.isOver) void this.lookAtStages(job);
  }

  private async lookAtStages(job: Job): Promise<void> {
    const task = await call("GET /v1/tasks/{id}", { path: { id: job.id } }).catch(() => null);
    if (task && !job.isOver) job.task = { ...job.task, stages: task.stages };
  }

  private async poll(): Promise<void> {
    for (const job of this.active) {
      if (this.streams.has(job.id) || job.isLost) continue;
      const task = await call("GET /v1/tasks/{id}", { path: { id: job.id } }).catch(() => null);
      if (task === null || job.isOver) continue;
      job.task = task;
      if (job.isOver) this.ended(job);
    }
    this.watch();
  }

  private ended(job: Job): void {
    for (const tell of this.listeners) tell(job);
  }
}

export const jobs = new Jobs();
