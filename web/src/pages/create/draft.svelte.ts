// What is being asked for: kept in the browser, in links, in pictures, and with each task.
import { call, type EstimateView, type ModelView, Problem, type StyleView, type TaskRequest, type TaskView } from "../../lib/api/client";
import { beginning, fieldsOf, type FormField, inputOf, type Values } from "../../lib/form/schema";
import { models } from "../../lib/models.svelte";
import { speech } from "../../lib/i18n/index.svelte";
import { keep, kept } from "../../lib/stored";

/** Models that are taken first where somebody has not chosen. */
const LIKED = ["swell/picture", "swell/artwork"];

/** As it travels in links and in the metadata of tasks. */
export interface Recipe {
  prompt: string;
  style?: string;
  model?: string;
  seed?: number | null;
  input?: Values;
}

const SEEDS = 2 ** 32;
export const anySeed = (): number => crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;

class Draft {
  prompt = $state(kept("draft", ""));
  style = $state(kept("style", ""));
  count = $state(kept("count", 1));
  seed = $state<number | null>(null);
  wanted = $state(kept("model", ""));
  values = $state<Values>({});
  styles = $state.raw<StyleView[]>([]);

  /** Models that make pictures from words. */
  get choices(): ModelView[] {
    return models.all.filter(draws);
  }

  get model(): ModelView | undefined {
    const choices = this.choices.filter((each) => each.workers > 0);
    const found = [this.wanted, ...LIKED].map((name) => choices.find((each) => each.name === name));
    return found.find(Boolean) ?? choices[0] ?? this.choices[0];
  }

  get fields(): FormField[] {
    return this.model ? fieldsOf(this.model.input_schema).filter((each) => !["prompt", "seed"].includes(each.name)) : [];
  }

  /** Languages in which the model understands a prompt; empty where it does not say. */
  get languages(): string[] {
    return (this.model ? fieldsOf(this.model.input_schema) : []).find((each) => each.name === "prompt")?.languages ?? [];
  }

  /** Styles of the model, and those that fit every model. */
  get fitting(): StyleView[] {
    const name = this.model?.name ?? "";
    return this.styles.filter((each) => each.models.length === 0 || each.models.includes(name));
  }

  /** Fields that are left to be chosen one by one: what styles decide is not. */
  get rest(): FormField[] {
    const decided = new Set(this.fitting.flatMap((each) => Object.keys(each.input)));
    return this.fields.filter((each) => !decided.has(each.name));
  }

  async load(): Promise<void> {
    const [, list] = await Promise.all([models.load(), call("GET /v1/styles", {})]);
    this.styles = list.styles;
    this.reset();
  }

  reset(input: Values = {}): void {
    this.values = beginning(this.rest, input);
  }

  chosen(): StyleView | undefined {
    return this.fitting.find((each) => each.name === this.style);
  }

  request(seed: number): Omit<TaskRequest, "user"> {
    const style = this.chosen();
    const prompt = this.prompt.trim();
    const words = style?.prompt ? style.prompt.replaceAll("{prompt}", prompt) : prompt;
    const input = { ...inputOf(this.rest, this.values), ...style?.input, prompt: words };
    return { model: this.model?.name ?? "", input, seed, metadata: { create: this.recipe(seed) } };
  }

  recipe(seed: number | null): Recipe {
    return {
      prompt: this.prompt.trim(),
      style: this.style,
      model: this.model?.name,
      seed,
      input: inputOf(this.rest, this.values),
    };
  }

  estimate(signal: AbortSignal): Promise<EstimateView> {
    return call("POST /v1/estimate", { body: this.request(this.seed ?? 0), signal });
  }

  /** Take over what somebody else, or another day, has asked for. */
  take(recipe: Recipe): void {
    if (recipe.model && this.choices.some((each) => each.name === recipe.model)) this.wanted = recipe.model;
    this.prompt = recipe.prompt.slice(0, 2000);
    this.style = this.fitting.some((each) => each.name === recipe.style) ? (recipe.style ?? "") : "";
    this.seed = typeof recipe.seed === "number" ? recipe.seed : null;
    this.reset(recipe.input);
  }

  keep(): void {
    keep("draft", this.prompt);
    keep("style", this.style);
    keep("count", this.count);
    keep("model", this.wanted);
  }
}

export const draft = new Draft();

/** How a task was asked for, whoever asked. */
export function recipeOf(task: TaskView): Recipe {
  const told = (task.metadata as { create?: Recipe } | null)?.create;
  if (told && typeof told.prompt === "string") return { ...told, seed: task.seed ?? told.seed };
  const { prompt = "", ...input } = task.input;
  return { ...recipeFrom(task.model, input), prompt: String(prompt), seed: task.seed };
}

/** A recipe from a model's input: the style is the one that decides the same. */
export function recipeFrom(model: string, input: Values): Recipe {
  const style = draft.styles.find((each) => {
    const decided = Object.entries(each.input);
    return decided.length > 0 && decided.every(([name, value]) => input[name] === value);
  });
  return { prompt: String(input["prompt"] ?? ""), model, input, style: style?.name };
}

/** The same with another seed nearby. */
export const varied = (recipe: Recipe): Recipe => ({ ...recipe, seed: ((recipe.seed ?? 0) + 1) % SEEDS });

export function encode(recipe: Recipe): string {
  const bytes = new TextEncoder().encode(JSON.stringify(recipe));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** Null for what is no recipe. */
export function decode(text: string): Recipe | null {
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (each) => each.charCodeAt(0));
    const found = JSON.parse(new TextDecoder().decode(bytes)) as Recipe;
    return typeof found.prompt === "string" ? found : null;
  } catch {
    return null;
  }
}

/** What a style is called in the language that is spoken. */
export function styleName(style: StyleView): string {
  return style.labels[speech.language] ?? style.label;
}

export function draws(model: ModelView): boolean {
  const input = (model.input_schema["properties"] ?? {}) as Record<string, unknown>;
  return "prompt" in input && /"x-file":\s*"image"/.test(JSON.stringify(model.output_schema));
}

export { Problem };
