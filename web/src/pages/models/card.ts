// What a model's card says, in the shapes that pages need.
import type { ModelView } from "../../lib/api/client";
import type { SampleView } from "../../lib/api/schema";
import { makesPictures } from "../../lib/models.svelte";

/** The places of its page's address. */
export function place(name: string): Record<string, string> {
  const [owner = "", rest = ""] = name.split("/", 2);
  return { owner, name: rest };
}

/** The first words of its description that are no heading, without marks. */
export function about(model: ModelView): string {
  const parts = model.description.trim().split(/\n\s*\n/);
  return plain(parts.find((each) => !/^\s*#/.test(each)) ?? parts[0] ?? "");
}

/** Pictures by the model; of a pipeline without any, those of the first of its models that has some. */
export function facesOf(model: ModelView, all: readonly ModelView[]): SampleView[] {
  const own = pictures(model);
  if (own.length || !model.pipeline) return own;
  const stages = model.pipeline.stages.map((stage) => all.find((each) => each.name === stage.queue.split(":")[0]));
  return stages.map((each) => (each && makesPictures(each) ? pictures(each) : [])).find((each) => each.length) ?? [];
}

function pictures(model: ModelView): SampleView[] {
  return model.samples.filter((each) => each.content_type.startsWith("image/"));
}

export type Block =
  | { kind: "heading"; text: string }
  | { kind: "text"; text: string }
  | { kind: "list"; items: string[] }
  | { kind: "table"; head: string[]; rows: string[][] };

/** Markdown as blocks of plain text. */
export function blocks(text: string): Block[] {
  return text
    .trim()
    .split(/\n\s*\n/)
    .filter((each) => each.trim())
    .map(blockOf);
}

function blockOf(part: string): Block {
  const lines = part.split("\n").map((each) => each.trim());
  if (lines.length > 1 && /^\|[\s:|-]+\|$/.test(lines[1] ?? "")) {
    const [head = [], , ...rows] = lines.map(cellsOf);
    return { kind: "table", head: head.some(Boolean) ? head : [], rows };
  }
  if (/^([-*]|\d+\.)\s/.test(lines[0] ?? "")) {
    const items = part.split(/^\s*(?:[-*]|\d+\.)\s+/m).filter((each) => each.trim());
    return { kind: "list", items: items.map(plain) };
  }
  return { kind: part.trim().startsWith("#") ? "heading" : "text", text: plain(part) };
}

function cellsOf(line: string): string[] {
  return line.replace(/^\||\|$/g, "").split("|").map(plain);
}

function plain(text: string): string {
  return text
    .replace(/\s+/g, " ")
    .replace(/\[([^\]]+)\]\([^)]*\)/g, "$1")
    .replace(/[`*]/g, "")
    .replace(/^#+\s*/, "")
    .trim();
}
