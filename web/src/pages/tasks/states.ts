// States of tasks and deliveries, in words and colours.
import type { StageView, TaskState } from "../../lib/api/client";
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

/** Of a pipeline's stage: those of tasks, and what only stages are. */
const STAGES: Record<string, { word: Word; tone: Tone }> = {
  ...STATES,
  waiting: STATES.queued,
  skipped: { word: "time.skipped", tone: "plain" },
  not_reached: { word: "time.unreached", tone: "plain" },
};

export function stateOf(stage: StageView): { word: Word; tone: Tone } {
  return STAGES[stage.state] ?? STATES.queued;
}

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
