// Server-sent events of a task, read by fetch: an EventSource cannot send a key.
import { authorization, base, Problem, send } from "./client";
import type { ArtifactView, EtaSeconds, TaskView } from "./schema";

/** What a task told; `id` is where a reader goes on that comes back. */
export type TaskEvent = { id: string } & (
  | { kind: "queued"; data: { position?: number; eta_s?: EtaSeconds | null; stage?: string } }
  | { kind: "started"; data: { attempt: number; worker?: string; stage?: string } }
  | { kind: "progress"; data: { step?: number; steps?: number; fraction?: number; stage?: string } }
  | { kind: "preview"; data: { image: string; index?: number } }
  | { kind: "artifact"; data: ArtifactView & { index?: number } }
  | { kind: "succeeded" | "failed" | "canceled" | "expired"; data: TaskView }
);

const ENDS = new Set(["succeeded", "failed", "canceled", "expired"]);

/** Waits between tries, in ms: doubled up to this. */
const LONGEST_MS = 15_000;

interface Following {
  /** The id of the last event that was seen; empty for none. */
  after: string;
  /** What there is to hear is on its way. */
  onopen: () => void;
  /** It broke off; it is tried again. */
  onbreak: () => void;
  tell: (event: TaskEvent) => void;
  signal: AbortSignal;
}

/**
 * Tell each event of a task until its end, and go on after the last one seen where the connection breaks.
 * Returns when the task has ended, or the signal says stop. Throws a `Problem` that trying again will not cure.
 */
export async function follow(id: string, { after, onopen, onbreak, tell, signal }: Following): Promise<void> {
  let last = after;
  let wait = 500;
  while (!signal.aborted) {
    try {
      const headers: Record<string, string> = { ...authorization(), accept: "text/event-stream" };
      if (last) headers["last-event-id"] = last;
      const answer = await send(new URL(`v1/tasks/${encodeURIComponent(id)}/events`, base), { headers, signal });
      if (answer.status === 204 || answer.body === null) return;
      onopen();
      for await (const event of parse(answer.body as ReadableStream<BufferSource>)) {
        wait = 500;
        if (event.id) last = event.id;
        tell({ id: last, kind: event.name, data: JSON.parse(event.data) } as TaskEvent);
        if (ENDS.has(event.name)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
      if (error instanceof Problem && error.retryAfter) wait = Math.min(error.retryAfter * 1000, LONGEST_MS);
    }
    onbreak();
    await pause(wait * (0.75 + Math.random() / 2), signal);
    wait = Math.min(wait * 2, LONGEST_MS);
  }
}

interface Message {
  id: string;
  name: string;
  data: string;
}

/** Yield the events of a stream of bytes; comments and what has no data are left out. */
async function* parse(body: ReadableStream<BufferSource>): AsyncGenerator<Message> {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const message = messageOf(block);
        if (message.data) yield message;
      }
    }
  } finally {
    void reader.cancel().catch(() => {});
  }
}

function messageOf(block: string): Message {
  const found: Message = { id: "", name: "message", data: "" };
  for (const line of block.split(/\r?\n/)) {
    const at = line.indexOf(":");
    const name = line.slice(0, at);
    const value = line.slice(at + 1).replace(/^ /, "");
    if (name === "id") found.id = value;
    else if (name === "event") found.name = value;
    else if (name === "data") found.data += (found.data ? "\n" : "") + value;
  }
  return found;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
