// Demand and capacity of the last half hour: rebuilt from tasks and workers, then as this browser sees them.
import type { TaskView, WorkerView } from "../../lib/api/client";

const SPAN_S = 1800;
const STEP_S = 20;
const MOST = 1000;

export interface Moment {
  at: number;
  waiting: number;
  running: number;
  slots: number;
  /** Unknown of the time before this page was open. */
  desired: number | null;
}

class History {
  moments = $state.raw<Moment[]>([]);

  add(moment: Moment): void {
    this.moments = [...this.moments.slice(1 - MOST), moment];
  }

  /** Put the past before what was seen; `isWhole` says that there are no tasks older than these. */
  begin(tasks: TaskView[], workers: WorkerView[], isWhole: boolean): void {
    const seconds = (at: string | null): number => (at === null ? Infinity : Date.parse(at) / 1000);
    const now = this.moments[0]?.at ?? Date.now() / 1000;
    const oldest = isWhole ? 0 : Math.min(...tasks.map((each) => seconds(each.created_at)));
    const count = <T>(all: T[], from: (each: T) => number, to: (each: T) => number, at: number): T[] => all.filter((each) => from(each) <= at && at < to(each));
    const past: Moment[] = [];
    for (let at = Math.max(now - SPAN_S, oldest); at < now; at += STEP_S) {
      const ended = (each: TaskView): number => seconds(each.finished_at);
      const started = (each: TaskView): number => Math.min(seconds(each.started_at), ended(each));
      past.push({
        at,
        waiting: count(tasks, (each) => seconds(each.created_at), started, at).length,
        running: count(tasks, started, ended, at).length,
        slots: count(workers, (each) => seconds(each.registered_at), (each) => seconds(each.gone_at), at).reduce((sum, each) => sum + each.slots, 0),
        desired: null,
      });
    }
    this.moments = [...past, ...this.moments];
  }
}

export const history = new History();
