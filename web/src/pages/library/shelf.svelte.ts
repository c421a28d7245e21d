// Everything that was made, newest first, as it comes page by page.
import { type ArtifactView, call, type TaskView } from "../../lib/api/client";
import { person } from "../../lib/session.svelte";
import { t } from "../../lib/i18n/index.svelte";
import { promptOf } from "../../lib/telling";
import { models } from "../../lib/models.svelte";
import { draft, recipeOf } from "../create/draft.svelte";
import { sceneName, scenesOf } from "../portraits/scenes";
import { favourites, itemId } from "./favourites.svelte";

const PAGE = 100;

export interface Item {
  id: string;
  task: TaskView;
  picture: ArtifactView;
  /** Its place among what the task made. */
  place: number;
  /** What it shows: the prompt, or else the scenario, or whatever made it. */
  prompt: string;
  /** The same as it is sought. */
  text: string;
}

export interface Filter {
  text: string;
  model: string;
  style: string;
  isFavourite: boolean;
  /** Days, such as 2026-11-27; empty for any. */
  from: string;
  to: string;
}

/** What the service is asked for; the rest is sifted here. */
export interface Asked {
  isEverybodys: boolean;
  isFavourite: boolean;
  /** Days, such as 2026-11-27; empty for any. */
  from: string;
  to: string;
  /** Words of what was asked for; empty for any. */
  text: string;
  /** Empty for any. */
  model: string;
}

export class Shelf {
  items = $state.raw<Item[]>([]);
  isLoading = $state(false);
  isWhole = $state(false);
  error = $state.raw<unknown>(null);
  private asked: Asked = { isEverybodys: false, isFavourite: false, from: "", to: "", text: "", model: "" };
  /** Tasks that the service has found by the words that are sought now. */
  private hits = $state.raw(new Set<string>());
  private cursor: string | undefined;
  private turn = 0;

  /** Begin anew. What is shown stays until there is something to show instead, unless it is another's. */
  begin(asked: Asked): void {
    if (asked.isEverybodys !== this.asked.isEverybodys) this.items = [];
    this.asked = asked;
    this.hits = new Set();
    this.turn++;
    this.cursor = undefined;
    this.isWhole = this.isLoading = false;
    this.error = null;
    void this.fetch();
  }

  /** Fetch the next page; nothing where one is on its way, or none is left. */
  async more(): Promise<void> {
    if (!this.isLoading && !this.isWhole) await this.fetch();
  }

  private async fetch(): Promise<void> {
    this.isLoading = true;
    const turn = this.turn;
    try {
      const isFirst = this.cursor === undefined;
      const page = await call("GET /v1/tasks", { query: { ...this.query(), cursor: this.cursor } });
      if (turn !== this.turn) return;
      favourites.hear(page.tasks);
      const come = page.tasks.flatMap(itemsOf);
      if (this.asked.text) {
        this.hits = new Set([...this.hits, ...page.tasks.map((each) => each.id)]);
        this.items = merged(this.items, come);
      } else {
        this.items = [...(isFirst ? [] : this.items), ...come];
      }
      this.cursor = page.cursor ?? undefined;
      this.isWhole = page.cursor === null;
      this.error = null;
    } catch (error) {
      if (turn === this.turn) this.error = error;
    } finally {
      if (turn === this.turn) this.isLoading = false;
    }
  }

  /** Put what has just been made before the others. */
  add(task: TaskView): void {
    if (task.state !== "succeeded" || this.items.some((each) => each.task.id === task.id)) return;
    this.items = [...itemsOf(task), ...this.items];
  }

  /** Whether the service has found it by the words that are sought. */
  isHit(item: Item): boolean {
    return this.hits.has(item.task.id);
  }

  private query() {
    const { isEverybodys, isFavourite, from, to, text, model } = this.asked;
    return {
      state: "succeeded" as const,
      user: isEverybodys ? undefined : person,
      viewer: person,
      favourite: isFavourite || undefined,
      q: text || undefined,
      model: model || undefined,
      since: beginningOf(from),
      until: beginningOf(to, 1),
      limit: PAGE,
    };
  }

  /** Leave out what was erased. */
  drop(tasks: Set<string>): void {
    this.items = this.items.filter((each) => !tasks.has(each.task.id));
  }
}

function itemsOf(task: TaskView): Item[] {
  const asked = promptOf(task);
  const scenes = asked ? [] : scenesOf(task);
  return task.artifacts
    .map((picture, place) => ({ picture, place }))
    .filter(({ picture }) => picture.content_type.startsWith("image/"))
    .map(({ picture, place }, at) => {
      const prompt = asked || portraitIn(scenes[at]) || task.model;
      return { id: itemId(task.id, place), task, picture, place, prompt, text: prompt.toLowerCase() };
    });
}

/** Both together, the newest first, each once. */
function merged(items: Item[], come: Item[]): Item[] {
  const known = new Set(items.map((each) => each.id));
  const all = [...items, ...come.filter((each) => !known.has(each.id))];
  // Ids of tasks sort by time; the pictures of one stay in their order.
  return all.sort((a, b) => (a.task.id < b.task.id ? 1 : a.task.id > b.task.id ? -1 : 0));
}

/** When a day begins where this browser is, or so many days later; undefined for no day. */
function beginningOf(day: string, later = 0): string | undefined {
  const [year = 0, month = 0, date = 0] = day.split("-").map(Number);
  const at = new Date(year, month - 1, date + later);
  return day && !Number.isNaN(at.getTime()) ? at.toISOString() : undefined;
}

function portraitIn(scene: string | undefined): string {
  return scene ? t("portraits.portrait", { scene: sceneName(scene) }) : "";
}

/** Of each task, as styles and models are known now. */
let styled = { by: draft.styles, and: models.all, names: new WeakMap<TaskView, string>() };

/** The style that a task was asked for; empty for none. */
export function styleOf(task: TaskView): string {
  if (styled.by !== draft.styles || styled.and !== models.all) styled = { by: draft.styles, and: models.all, names: new WeakMap() };
  const name = styled.names.get(task) ?? recipeOf(task).style ?? "";
  styled.names.set(task, name);
  return name;
}

/** What a filter lets through; what the service has found by its words is let through by them. */
export function found(items: Item[], filter: Filter, isHit: (item: Item) => boolean): Item[] {
  const since = beginningOf(filter.from) ?? "";
  const until = beginningOf(filter.to, 1);
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  return items.filter(
    (each) =>
      (!filter.model || each.task.model === filter.model) &&
      (!filter.style || styleOf(each.task) === filter.style) &&
      (!filter.isFavourite || favourites.has(each.id)) &&
      (!since || each.task.created_at >= since) &&
      (!until || each.task.created_at < until) &&
      (isHit(each) || words.every((word) => each.text.includes(word))),
  );
}
