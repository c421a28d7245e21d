// What a task is doing, and what it was asked, in words.
import type { TaskView } from "./api/client";
import { duration, t, type Word } from "./i18n/index.svelte";
import type { Job } from "./jobs.svelte";
import { words } from "./form/schema";

/** What was typed; empty for a task without words. */
export function promptOf(task: TaskView): string {
  for (const name of ["prompt", "text"]) {
    const value = task.input?.[name];
    if (typeof value === "string") return value;
  }
  return "";
}

/** What a task has answered, as text; empty where it has not. */
export function answerOf(task: TaskView): string {
  if (task.output === null || task.output === undefined) return "";
  return typeof task.output === "string" ? task.output : JSON.stringify(task.output, null, 2);
}

/** In how long a task ends, as `about 8 s`; empty where nobody knows. */
export function eta(seconds: { low: number; median: number; high: number } | null | undefined): string {
  if (!seconds) return "";
  const { low, median, high } = seconds;
  // A range where it is worth telling one.
  if (high - low < 4 || high < low * 1.6) return t("eta.about", { time: duration(Math.max(1, median)) });
  return t("eta.range", { low: duration(Math.max(1, low)), high: duration(high) });
}

/** `about 8 s, 2 ahead`. */
export function wait(position: number | null, seconds: Parameters<typeof eta>[0]): string {
  const ahead = position !== null && position > 1 ? t("eta.ahead", { n: position - 1 }) : "";
  return [eta(seconds), ahead].filter(Boolean).join(", ");
}

const ENDS: Partial<Record<TaskView["state"], Word>> = {
  succeeded: "job.succeeded",
  failed: "job.failed",
  canceled: "job.canceled",
  expired: "job.expired",
};

const STAGES: Record<string, Word> = {
  translate: "stage.translate",
  check: "stage.check",
  draw: "stage.draw",
  paint: "stage.paint",
  enlarge: "stage.enlarge",
  look: "stage.look",
};

/** The name of a pipeline's stage. */
export function stageName(stage: string): string {
  const known = STAGES[stage];
  return known ? t(known) : words(stage);
}

/** What a job is doing now, without how long it takes. */
export function stageOf(job: Job): string {
  if (job.isCut) return t("job.cut");
  const { position, state } = job.task;
  if (state === "queued") return position !== null && position > 1 ? t("eta.ahead", { n: position - 1 }) : t("job.waiting");
  if (job.fraction !== null && job.fraction >= 1) return t("job.saving");
  return job.stage ? stageName(job.stage) : t("job.running");
}

/** What a job is doing now. */
export function doing(job: Job): string {
  const { task } = job;
  const end = ENDS[task.state];
  if (end) return task.error ? task.error.detail || task.error.title : t(end);
  if (job.isCut) return t("job.cut");
  if (task.state === "queued") {
    const told = wait(task.position, task.eta_s);
    return told ? `${t("job.waiting")} · ${told}` : t("job.waiting");
  }
  const what = job.stage ? stageName(job.stage) : t("job.running");
  if (job.fraction !== null && job.fraction >= 1) return t("job.saving");
  return job.step ? t("job.step", { what, step: job.step[0], steps: job.step[1] }) : what;
}
