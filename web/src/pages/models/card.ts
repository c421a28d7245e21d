// What a model's card says, in the shapes that pages need.
import type { ModelView } from "../../lib/api/client";

/** The places of its page's address. */
export function place(name: string): Record<string, string> {
  const [owner = "", rest = ""] = name.split("/", 2);
  return { owner, name: rest };
}

/** The first sentence of its description, without marks. */
export function about(model: ModelView): string {
  const first = model.description.trim().split(/\n\s*\n/)[0] ?? "";
  return plain(first);
}

/** Markdown as paragraphs of plain text; lists keep their lines. */
export function paragraphs(text: string): string[] {
  return text
    .trim()
    .split(/\n\s*\n/)
    .map((each) => (/^\s*([-*]|\d+\.)\s/m.test(each) ? each : plain(each)))
    .filter(Boolean);
}

function plain(text: string): string {
  return text
    .replace(/\s+/g, " ")
    .replace(/\[([^\]]+)\]\([^)]*\)/g, "$1")
    .replace(/[`*]/g, "")
    .replace(/^#+\s*/, "")
    .trim();
}
