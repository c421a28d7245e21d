// Addresses of files end after a while (`server.signed_url_s`). Of a page that was left open the task is asked for new ones.
import { type ArtifactView, call, Problem, type TaskView } from "./api/client";

/** So long an answer is good for all pictures of a task. */
const FRESH_MS = 30_000;
const asked = new Map<string, Promise<TaskView>>();

/** A new address for a file of a task, in the same size; throws a `Problem` where there is none any more. */
export async function renewed(task: TaskView, url: string): Promise<string> {
  const place = task.artifacts.findIndex((each) => path(each.url) === path(url) || path(each.thumbnail_url ?? "") === path(url));
  const found = place < 0 ? undefined : (await ask(task.id)).artifacts[place];
  const again = found && sized(found, url);
  if (!again) throw new Problem(404, "gone", "");
  return again;
}

/** Addresses that stay: another one for the same file, signed anew, would have it loaded again. */
export class Steady {
  private readonly first = new Map<string, string>();
  private readonly renewed = new Set<string>();

  /** The address that was told first for the file. */
  of(url: string): string {
    const known = this.first.get(path(url));
    if (!known) this.first.set(path(url), url);
    return known ?? url;
  }

  /** Take the next address that is told, as where this one has ended; false where that was done before. */
  renew(url: string): boolean {
    const isFirst = !this.renewed.has(path(url));
    if (isFirst) this.first.delete(path(url));
    this.renewed.add(path(url));
    return isFirst;
  }
}

function ask(id: string): Promise<TaskView> {
  const known = asked.get(id);
  if (known) return known;
  const told = call("GET /v1/tasks/{id}", { path: { id } });
  asked.set(id, told);
  setTimeout(() => asked.delete(id), FRESH_MS);
  return told;
}

function sized(file: ArtifactView, url: string): string | null {
  const width = /[?&]w=(\d+)/.exec(url)?.[1];
  return width ? (file.thumbnail_url?.replace(/([?&]w=)\d+/, `$1${width}`) ?? null) : file.url;
}

const path = (url: string): string => url.split("?")[0] ?? "";
