// What several models have in common.
import type { ModelView, TaskView } from "../../lib/api/client";

interface Schema {
  properties?: Record<string, unknown>;
  required?: string[];
  $defs?: Record<string, unknown>;
}

/** Models that take words and can be compared by what they make of them. */
export function drawing(all: ModelView[]): ModelView[] {
  return all.filter((each) => "prompt" in ((each.input_schema as Schema).properties ?? {}));
}

/** The schema of the fields that all have, as the first has them, and what any of them must have. */
export function common(schemas: Record<string, unknown>[]): Schema {
  const [first, ...others] = schemas as Schema[];
  if (!first) return {};
  const shared = Object.entries(first.properties ?? {}).filter(([name]) => others.every((each) => name in (each.properties ?? {})));
  const required = new Set((schemas as Schema[]).flatMap((each) => each.required ?? []));
  return {
    properties: Object.fromEntries(shared),
    required: shared.map(([name]) => name).filter((name) => required.has(name)),
    $defs: first.$defs,
  };
}

interface Mark {
  /** Tells tasks of one comparison. */
  compared?: string;
  at?: number;
}

/** What tells a task's comparison from others; empty for other tasks. */
export function comparedOf(task: TaskView): string {
  return (task.metadata as Mark | null)?.compared ?? "";
}

/** Tasks of the newest comparison among some, in the order in which they were chosen; none where it is `done`. */
export function comparedIn(tasks: TaskView[], done: string): TaskView[] {
  const newest = tasks.map(comparedOf).find(Boolean);
  if (!newest || newest === done) return [];
  const place = (task: TaskView): number => (task.metadata as Mark | null)?.at ?? 0;
  return tasks.filter((each) => comparedOf(each) === newest).sort((a, b) => place(a) - place(b));
}
