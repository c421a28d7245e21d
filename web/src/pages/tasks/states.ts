// States of tasks and deliveries, in words and colours.
import type { TaskState } from "../../lib/api/client";
import type { Word } from "../../lib/i18n/index.svelte";

type Tone = "plain" | "accent" | "good" | "warn" | "bad";

export const STATES: Record<TaskState, { word: Word; tone: Tone }> = {
  queued: { word: "tasks.queued", tone: "plain" },
  running: { word: "tasks.running", tone: "accent" },
  succeeded: { word: "tasks.succeeded", tone: "good" },
  failed: { word: "tasks.failed", tone: "bad" },
  canceled: { word: "tasks.canceled", tone: "warn" },
  expired: { word: "tasks.expired", tone: "warn" },
};

export const DELIVERIES: Record<string, { word: Word; tone: Tone }> = {
  waiting: { word: "hooks.waiting", tone: "plain" },
  delivered: { word: "hooks.delivered", tone: "good" },
  failed: { word: "hooks.failed", tone: "bad" },
  skipped: { word: "hooks.skipped", tone: "warn" },
};

/** Whether it has ended. */
export function isOver(state: TaskState): boolean {
  return state !== "queued" && state !== "running";
}
