// Tasks that are under way. They live on the server: a page that is loaded again finds them there.
import { type ArtifactView, base, call, type EtaSeconds, Problem, type TaskRequest, type TaskView } from "./api/client";
import { follow, type TaskEvent } from "./api/events";
import { t } from "./i18n/index.svelte";
import { say } from "./notices.svelte";
import { person } from "./session.svelte";
import { promptOf } from "./telling";

/** What is asked for; whose it is, is added. */
export type Wish = Omit<TaskRequest, "user">;

const ENDED = new Set(["succeeded", "failed", "canceled", "expired"]);

/**
 * Over HTTP/1.1 a browser opens six connections to a server, for all its tabs together, and the pictures need
 * some. So a tab that is looked at has one stream, which goes round among the jobs that run; the others are asked
 * for now and then.
 */
const TURN_MS = 1000;
const POLL_MS = 2500;
/** Where the first look has failed, it is tried again so much later. */
const AGAIN_MS = 5000;
/** What went wrong while nobody looked is told so long. */
const TOLD_MS = 3_600_000;
/** A stream that has told nothing for so long may have died without a word, as lines of phones do. */
const SILENT_MS = 10_000;

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
  /** The last event that was heard. */
  heard = "";
  /** When it was heard last, as a number that counts. */
  turn = 0;
  isCanceling = $state(false);
  /** When it most probably ends, in ms of the clock; null before any measurement. */
  endsAt = $state<number | null>(null);
  /** The server cannot be reached: what is shown is what was known last. */
  isCut = $state(false);

  constructor(task: TaskView) {
    this.task = task;
    this.early = task.artifacts;
    this.expect(task.eta_s);
  }

  /** Take over how long it most probably takes from now on. */
  private expect(seconds: EtaSeconds | null | undefined): void {
    if (seconds) this.endsAt = Date.now() + seconds.median * 1000;
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

  /** Take over what the server says of the task now. */
  see(task: TaskView): void {
    this.task = task;
    this.isCut = false;
    this.expect(task.eta_s);
    if (task.artifacts.length > this.early.filter(Boolean).length) this.early = task.artifacts;
  }

  take(event: TaskEvent): void {
    this.heard = event.id;
    this.isCut = false;
    switch (event.kind) {
      case "queued":
        this.task = {
          ...this.task,
          state: "queued",
          position: event.data.position ?? this.task.position,
          eta_s: event.data.eta_s ?? this.task.eta_s,
        };
        this.stage = event.data.stage ?? this.stage;
        this.expect(event.data.eta_s);
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

/** Who is heard, and whether there is something to hear already. */
interface Turn {
  job: Job;
  control: AbortController;
  isOpen: boolean;
  /** When it told something last. */
  at: number;
}

class Jobs {
  /** Newest first. */
  all = $state<Job[]>([]);
  private current: Turn | null = null;
  private turns = 0;
  private timers: ReturnType<typeof setInterval>[] = [];
  private isPolling = false;
  private listeners: ((job: Job) => void)[] = [];
  /** To the other tabs of this browser, which show the same jobs. */
  private channel: BroadcastChannel | null = null;

  get active(): Job[] {
    return this.all.filter((job) => !job.isOver);
  }

  /** Find what this browser asked for and is under way, or went wrong lately; tried until it is known, or `stop`. */
  async load(): Promise<void> {
    this.channel ??= new BroadcastChannel(`swell ${base.pathname}`);
    this.channel.onmessage = (message: MessageEvent<TaskView>) => void (message.data.user === person && this.adopt(message.data));
    const { channel } = this;
    while (this.channel === channel && !(await this.look().then(() => true, () => false))) {
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  private async look(): Promise<void> {
    const since = new Date(Date.now() - TOLD_MS).toISOString();
    const asked = (["running", "queued", "failed", "expired"] as const).map((state) => {
      const isOver = ENDED.has(state);
      return call("GET /v1/tasks", { query: { state, user: person, since: isOver ? since : undefined, limit: isOver ? 20 : 100 } });
    });
    const { channel } = this;
    const lists = await Promise.all(asked);
    if (this.channel === channel) for (const list of lists) list.tasks.forEach((task) => this.adopt(task));
  }

  /** Ask for something; throws a `Problem`. The same `key` asks once, however often it is sent: see `Press`. */
  async start(wish: Wish, key: string): Promise<Job> {
    const body = { ...wish, user: person };
    return this.begin(await call("POST /v1/tasks", { body, headers: { "idempotency-key": key } }));
  }

  /** Know a task, and follow it until its end. */
  adopt(task: TaskView): Job {
    const known = this.all.find((job) => job.id === task.id);
    if (known) return known;
    const job = new Job(task);
    this.all = [job, ...this.all].sort((a, b) => b.task.created_at.localeCompare(a.task.created_at));
    this.watch();
    return job;
  }

  /** The job of a task that was found: followed where it is under way. */
  of(task: TaskView): Job {
    const job = new Job(task);
    return job.isOver ? (this.all.find((each) => each.id === job.id) ?? job) : this.adopt(task);
  }

  async cancel(job: Job): Promise<void> {
    job.isCanceling = true;
    try {
      this.see(job, await call("POST /v1/tasks/{id}/cancel", { path: { id: job.id } }));
    } finally {
      job.isCanceling = false;
    }
  }

  /** Cancel all that wait, one after the other, the last first; throws a `Problem`, and leaves the rest. */
  async cancelWaiting(): Promise<void> {
    const isWaiting = (job: Job): boolean => job.task.state === "queued";
    for (const job of this.active) {
      if (isWaiting(job)) await this.cancel(job);
    }
  }

  async retry(job: Job): Promise<Job> {
    return this.begin(await call("POST /v1/tasks/{id}/retry", { path: { id: job.id } }));
  }

  private begin(task: TaskView): Job {
    this.channel?.postMessage(task);
    return this.adopt(task);
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
    this.channel?.close();
    this.channel = null;
    this.rest();
    this.all = [];
  }

  /** See to it that what is under way is followed, and nothing else. */
  private watch(): void {
    if (!this.active.length) return this.rest();
    if (!this.timers.length) {
      this.timers = [setInterval(this.pass, TURN_MS), setInterval(() => void this.poll(), POLL_MS)];
      document.addEventListener("visibilitychange", this.pass);
    }
    if (!this.current && !document.hidden) void this.listen();
  }

  private rest(): void {
    this.current?.control.abort();
    this.timers.forEach(clearInterval);
    this.timers = [];
    document.removeEventListener("visibilitychange", this.pass);
  }

  /** End a turn where another job runs, or nobody looks; begin one where somebody looks again. */
  private pass = (): void => {
    const { current } = this;
    if (!current) return this.watch();
    const isWanted = this.active.some((each) => each !== current.job && each.task.state === "running");
    if (document.hidden || (current.isOpen && isWanted)) current.control.abort();
  };

  /** Whose turn it is: those that run have most to show, then those that were asked for first. */
  private next(): Job | undefined {
    const isRunning = (job: Job): number => Number(job.task.state === "running");
    return [...this.active].reverse().sort((a, b) => isRunning(b) - isRunning(a) || a.turn - b.turn)[0];
  }

  /** Hear one job until its end or that of its turn, then the next. */
  private async listen(): Promise<void> {
    for (let job = this.next(); job && !document.hidden; job = this.next()) {
      job.turn = ++this.turns;
      await this.hear(job);
    }
    this.current = null;
    // What has come meanwhile.
    if (this.active.length && !document.hidden) this.watch();
  }

  private async hear(job: Job): Promise<void> {
    const current: Turn = { job, control: new AbortController(), isOpen: false, at: performance.now() };
    this.current = current;
    const { signal } = current.control;
    try {
      await follow(job.id, {
        after: job.heard,
        onopen: () => void ((current.isOpen = true), (job.isCut = false)),
        onbreak: () => void (current.isOpen = false),
        tell: (event) => void ((current.at = performance.now()), this.take(job, event)),
        signal,
      });
      if (signal.aborted || job.isOver) return;
      // The end may have been told to another stream: ask once.
      this.see(job, await call("GET /v1/tasks/{id}", { path: { id: job.id } }));
    } catch (error) {
      if (isGone(error)) return this.drop(job);
    }
    // What cannot be heard now is asked for meanwhile.
    current.isOpen = false;
    if (!job.isOver) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }

  private take(job: Job, event: TaskEvent): void {
    if (job.isOver) return;
    const before = job.stage;
    job.take(event);
    if (job.isOver) this.ended(job);
    // What a prompt was understood as is worth a look before the picture is there.
    else if (before === "translate" && job.stage !== before) void this.lookAtStages(job);
  }

  private async lookAtStages(job: Job): Promise<void> {
    const task = await call("GET /v1/tasks/{id}", { path: { id: job.id } }).catch(() => null);
    if (task && !job.isOver) job.task = { ...job.task, stages: task.stages };
  }

  /** Ask for those that are not heard now. */
  private async poll(): Promise<void> {
    if (this.isPolling) return;
    this.isPolling = true;
    for (const job of this.active) {
      if (this.current?.job === job && this.current.isOpen && performance.now() - this.current.at < SILENT_MS) continue;
      try {
        this.see(job, await call("GET /v1/tasks/{id}", { path: { id: job.id } }));
      } catch (error) {
        // Where the server cannot be reached or wants less, the next time will do.
        if (!isGone(error)) {
          if (error instanceof Problem && error.isUnreached) for (const each of this.active) each.isCut = true;
          break;
        }
        this.drop(job);
      }
    }
    this.isPolling = false;
    this.watch();
  }

  private see(job: Job, task: TaskView): void {
    if (job.isOver) return;
    job.see(task);
    if (job.isOver) this.ended(job);
  }

  /** Forget a job that the server has forgotten. */
  private drop(job: Job): void {
    this.all = this.all.filter((each) => each !== job);
    say(t("job.gone", { what: promptOf(job.task) || job.task.model }), "bad");
  }

  private ended(job: Job): void {
    if (this.current?.job === job) this.current.control.abort();
    for (const tell of this.listeners) tell(job);
  }
}

export const jobs = new Jobs();

function isGone(error: unknown): boolean {
  return error instanceof Problem && (error.status === 404 || error.status === 410);
}
