// How long pictures took lately: what is shown where the service has measured too little to say.
import type { TaskView } from "../../lib/api/client";
import { recipeOf } from "./draft.svelte";

const MOST = 5;

const keyOf = (model: string, style: string): string => `${model} ${style}`;
const median = (list: number[]): number => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)] ?? 0;

class Pace {
  /** Model and style → seconds from start to end, the newest first. */
  private took = $state.raw<Record<string, number[]>>({});

  /** Take note of a task that has ended. */
  note(task: TaskView): void {
    if (task.state !== "succeeded" || !task.started_at || !task.finished_at) return;
    const key = keyOf(task.model, recipeOf(task).style ?? "");
    const seconds = (Date.parse(task.finished_at) - Date.parse(task.started_at)) / 1000;
    this.took = { ...this.took, [key]: [seconds, ...(this.took[key] ?? [])].slice(0, MOST) };
  }

  /** Seconds that one picture takes; null where none was made yet. */
  of(model: string, style: string): number | null {
    const own = this.took[keyOf(model, style)] ?? Object.entries(this.took).find(([key]) => key.startsWith(`${model} `))?.[1];
    return own ? median(own) : null;
  }
}

export const pace = new Pace();
