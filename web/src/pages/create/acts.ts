// What can be done with a picture that was made.
import { type ArtifactView, own, Problem, send, type TaskView } from "../../lib/api/client";
import { renewed } from "../../lib/files";
import { t } from "../../lib/i18n/index.svelte";
import { type Job, jobs } from "../../lib/jobs.svelte";
import { models } from "../../lib/models.svelte";
import { say } from "../../lib/notices.svelte";
import { Press } from "../../lib/press";
import { sentence } from "../../lib/problems";
import { base } from "../../lib/api/client";
import { href } from "../../lib/router.svelte";
import { encode, recipeOf } from "./draft.svelte";
import { pace } from "./pace.svelte";

/** The model that makes pictures larger, if one is served. */
export function enlarger(): string | null {
  const found = models.all.find((each) => {
    const input = (each.input_schema["properties"] ?? {}) as Record<string, unknown>;
    return each.workers > 0 && "image" in input && "factor" in input;
  });
  return found?.name ?? null;
}

const press = new Press();

/** Ask for a picture of a task once more, larger. */
export async function enlarge(task: TaskView, picture: ArtifactView | undefined): Promise<void> {
  const model = enlarger();
  if (!model || !picture) return;
  const metadata = { create: recipeOf(task), enlarged: task.id };
  try {
    const image = await renewed(task, picture.url);
    await press.send([model, metadata], () => [{ model, input: { image, factor: 2 }, metadata }]);
    say(t("create.sent", { n: 1 }));
  } catch (error) {
    say(sentence(error), "bad");
  }
}

/** A link that opens the page with the same settings and seed. */
export function link(task: TaskView): string {
  return new URL(href("/", {}, { recipe: encode(recipeOf(task)) }), base).href;
}

export async function share(task: TaskView): Promise<void> {
  const url = link(task);
  if (matchMedia("(pointer: coarse)").matches && navigator.share) {
    await navigator.share({ url, title: recipeOf(task).prompt }).catch(() => {});
    return;
  }
  const done = await navigator.clipboard?.writeText(url).then(
    () => true,
    () => false,
  );
  say(done ? t("share.copied") : t("copy.failed"), done ? "good" : "bad");
}

/** Of a page that was left open the address may have ended. Throws a `Problem`. */
async function fetchPicture(task: TaskView, picture: ArtifactView): Promise<Response> {
  try {
    return await send(own(picture.url), {});
  } catch (error) {
    if (!(error instanceof Problem) || error.isUnreached) throw error;
    return send(own(await renewed(task, picture.url)), {});
  }
}

/** Save a picture of a task as a file, whose name leads back to how it was made. Throws where it cannot be had. */
export async function saveFile(task: TaskView, picture: ArtifactView): Promise<void> {
  const blob = await (await fetchPicture(task, picture)).blob();
  const url = URL.createObjectURL(blob);
  const made = document.createElement("a");
  made.href = url;
  made.download = `swell-${task.id}.${picture.content_type.split("/")[1] ?? "png"}`;
  made.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Save a picture, the first unless another is named, and say where that does not work. */
export async function save(job: Job, picture: ArtifactView | undefined = job.pictures[0]): Promise<void> {
  if (picture) await saveFile(job.task, picture).catch(() => say(t("problem.unreachable"), "bad"));
}

/** The id of the task in the name of a saved picture; empty for others. */
export function taskIn(filename: string): string {
  return /^swell-([A-Za-z0-9_-]{8,64}?)(?: ?\(\d+\))?\.\w+$/.exec(filename)?.[1] ?? "";
}

/** What a prompt was understood as; empty where it was not translated. */
export function translation(task: TaskView): string {
  const output = task.stages?.find((each) => each.name === "translate")?.output as { text?: string } | null | undefined;
  const text = output?.text ?? "";
  return text && text.trim().toLowerCase() !== String(task.input["prompt"] ?? "").trim().toLowerCase() ? text : "";
}

/** What an output says of the prompt, such as that its language is in doubt; empty if nothing, or if a warning says the same. */
export function note(task: TaskView): string {
  const said = new Set<unknown>(warningsOf(task).map((each) => each.message));
  const outputs = [...(task.stages ?? []), task].map((each) => each.output as { note?: unknown } | null);
  return outputs.map((each) => each?.note).find((each): each is string => typeof each === "string" && each !== "" && !said.has(each)) ?? "";
}

/** What a task warns of, such as a word that the model does not know. */
export interface Warning {
  code: string;
  message: string;
  /** Prompts that work better. */
  suggestions: string[];
}

export function warningsOf(task: TaskView): Warning[] {
  return (task as { warnings?: Warning[] }).warnings ?? [];
}

/** Words of a prompt for which it was refused; empty where nothing says so. */
export function refusedWords(task: TaskView): string[] {
  const outputs = (task.stages ?? []).map((each) => each.output as { found?: Record<string, unknown> } | null);
  const found = outputs.flatMap((each) => Object.values(each?.found ?? {})).flat();
  return [...new Set(found.filter((each): each is string => typeof each === "string"))];
}

/** When a job ends, in ms of the clock; null where nothing is known of it. */
export function endOf(job: Job): number | null {
  if (job.endsAt !== null) return job.endsAt;
  const each = pace.of(job.task.model, recipeOf(job.task).style ?? "");
  if (each === null) return null;
  const before = jobs.active.filter((other) => other.task.model === job.task.model && other.task.created_at < job.task.created_at);
  const begun = Date.parse(job.task.started_at ?? before.at(-1)?.task.started_at ?? job.task.created_at);
  return begun + each * 1000 * (job.task.started_at ? 1 : before.length + 1);
}

/** Width to height of a picture, as CSS has it: its own, or as the form asked for it. */
export function shapeOf(job: Job): string {
  const picture = job.isOver ? job.pictures[0] : undefined;
  if (picture?.width && picture.height) return `${picture.width} / ${picture.height}`;
  const said = Object.values(recipeOf(job.task).input ?? {}).find((each) => typeof each === "string" && /^\d+:\d+$/.test(each));
  return typeof said === "string" ? said.replace(":", " / ") : "1";
}
