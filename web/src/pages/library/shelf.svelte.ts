// Everything that was made, newest first, as it comes page by page.
import { type ArtifactView, call, type TaskView } from "../../lib/api/client";
import { person } from "../../lib/session.svelte";
import { keep, kept } from "../../lib/stored";
import { t } from "../../lib/i18n/index.svelte";
import { promptOf } from "../../lib/telling";
import { sceneName, scenesOf } from "../portraits/scenes";

const PAGE = 100;

export interface Item {
  id: string;
  task: TaskView;
  picture: ArtifactView;
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
}

class Favourites {
  /** Of this browser: the service keeps none. */
  private ids = $state.raw(new Set(kept<string[]>("favourites", [])));

  has(id: string): boolean {
    return this.ids.has(id);
  }

  set(ids: string[], isOne: boolean): void {
    const next = new Set(this.ids);
    for (const id of ids) {
      if (isOne) next.add(id);
      else next.delete(id);
    }
    this.ids = next;
    keep("favourites", [...next]);
  }
}

export const favourites = new Favourites();

export class Shelf {
  items = $state.raw<Item[]>([]);
  isLoading = $state(false);
  isWhole = $state(false);
  error = $state.raw<unknown>(null);
  private isEverybodys = false;
  private cursor: string | undefined;
  private turn = 0;

  /** Begin anew, with what this browser made or all that the key has. */
  begin(isEverybodys: boolean): void {
    this.isEverybodys = isEverybodys;
    this.turn++;
    this.cursor = undefined;
    this.items = [];
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
      const query = { state: "succeeded" as const, user: this.isEverybodys ? undefined : person, cursor: this.cursor, limit: PAGE };
      const page = await call("GET /v1/tasks", { query });
      if (turn !== this.turn) return;
      this.items = [...this.items, ...page.tasks.flatMap(itemsOf)];
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

  /** Leave out what was erased. */
  drop(tasks: Set<string>): void {
    this.items = this.items.filter((each) => !tasks.has(each.task.id));
  }
}

function itemsOf(task: TaskView): Item[] {
  const asked = promptOf(task);
  const scenes = asked ? [] : scenesOf(task);
  return task.artifacts
    .filter((each) => each.content_type.startsWith("image/"))
    .map((picture, at) => {
      const prompt = asked || portraitIn(scenes[at]) || task.model;
      return { id: `${task.id}-${at}`, task, picture, prompt, text: prompt.toLowerCase() };
    });
}

function portraitIn(scene: string | undefined): string {
  return scene ? t("portraits.portrait", { scene: sceneName(scene) }) : "";
}

/** The style that a task was asked for; empty for none. */
export function styleOf(task: TaskView): string {
  const style = task.input?.["style"];
  return typeof style === "string" ? style : "";
}

/** What a filter lets through. */
export function found(items: Item[], filter: Filter): Item[] {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  return items.filter(
    (each) =>
      (!filter.model || each.task.model === filter.model) &&
      (!filter.style || styleOf(each.task) === filter.style) &&
      (!filter.isFavourite || favourites.has(each.id)) &&
      words.every((word) => each.text.includes(word)),
  );
}
