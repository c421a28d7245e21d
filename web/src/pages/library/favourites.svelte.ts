// What is liked best, as the service keeps it for whoever sits at this browser.
import { call, Problem, type TaskView } from "../../lib/api/client";
import { say } from "../../lib/notices.svelte";
import { sentence } from "../../lib/problems";
import { person } from "../../lib/session.svelte";
import { keep, kept } from "../../lib/stored";

/** A picture by its task and its place among what that made: `TASK-PLACE`. */
export const itemId = (task: string, place: number): string => `${task}-${place}`;

/** Where browsers kept favourites before the service did. */
const BEFORE = "favourites";

function tell(id: string, isOne: boolean): Promise<unknown> {
  const at = id.lastIndexOf("-");
  const ask = { path: { id: id.slice(0, at) }, query: { viewer: person, artifact: Number(id.slice(at + 1)) } };
  return isOne ? call("PUT /v1/tasks/{id}/favourite", ask) : call("DELETE /v1/tasks/{id}/favourite", ask);
}

class Favourites {
  private ids = $state.raw(new Set<string>());
  private isMoving = false;

  has(id: string): boolean {
    return this.ids.has(id);
  }

  /** Take over what the service says of tasks. */
  hear(tasks: TaskView[]): void {
    const next = new Set(this.ids);
    for (const task of tasks) for (const place of task.favourites ?? []) next.add(itemId(task.id, place));
    this.ids = next;
  }

  /** Change it here at once, and at the service; what was refused is changed back. */
  async set(ids: string[], isOne: boolean): Promise<void> {
    const changed = ids.filter((id) => this.ids.has(id) !== isOne);
    this.note(changed, isOne);
    try {
      while (changed.length) {
        await tell(changed[0] as string, isOne);
        changed.shift();
      }
    } catch (error) {
      this.note(changed, !isOne);
      say(sentence(error), "bad");
    }
  }

  /** Give the service, once, what this browser kept before; what could not be told is told another time. */
  async move(): Promise<void> {
    const old = kept<string[]>(BEFORE, []);
    if (this.isMoving || !old.length) return;
    this.isMoving = true;
    this.note(old, true);
    try {
      while (old.length) {
        await tell(old[0] as string, true).catch((error: unknown) => {
          // The task is gone, or another key's: nothing is left to like.
          if (!(error instanceof Problem && [404, 409, 422].includes(error.status))) throw error;
        });
        old.shift();
        keep(BEFORE, old.length ? old : null);
      }
    } catch {
      // Another time.
    } finally {
      this.isMoving = false;
    }
  }

  private note(ids: string[], isOne: boolean): void {
    const next = new Set(this.ids);
    for (const id of ids) {
      if (isOne) next.add(id);
      else next.delete(id);
    }
    this.ids = next;
  }
}

export const favourites = new Favourites();
