// What is being asked for: kept in the browser, in links, in pictures, and with each task.
import { call, type ModelView, type StyleView, type TaskView } from "../../lib/api/client";
import { beginning, fieldsOf, type FormField, inputOf, type Values } from "../../lib/form/schema";
import type { Wish } from "../../lib/jobs.svelte";
import { draws, models } from "../../lib/models.svelte";
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
  /** Name of a style, or of none; where nothing was chosen, `style` is the one that the model has first. */
  private chosen = $state(kept<string | null>("style", null));
  pictures = $state(kept("count", 1));
  seed = $state(kept<number | null>("seed", null));
  wanted = $state(kept("model", ""));
  values = $state(kept<Values>("values", {}));
  styles = $state.raw<StyleView[]>([]);
  /** Name of the model that the form is of. */
  private filled = "";

  /** Models that make pictures from words. */
  get choices(): ModelView[] {
    return models.all.filter(draws);
  }

  get model(): ModelView | undefined {
    const choices = this.choices.filter((each) => each.workers > 0);
    const found = [this.wanted, ...LIKED].map((name) => choices.find((each) => each.name === name));
    return found.find(Boolean) ?? choices[0] ?? this.choices[0];
  }

  /** Languages in which the model understands a prompt; empty where it does not say. */
  get languages(): string[] {
    return this.words?.languages ?? [];
  }

  /** How many letters a prompt may have; undefined where the model does not say. */
  get longest(): number | undefined {
    return this.words?.maxLength;
  }

  /** Styles of the model, and those that fit every model. */
  get fitting(): StyleView[] {
    return this.stylesOf(this.model);
  }

  get style(): string {
    return this.named(this.chosen);
  }

  set style(name: string) {
    this.chosen = name;
  }

  /** The style of a name where the model has it, or else the one that is first. */
  private named(name: string | null): string {
    const { fitting, hasPlain } = this;
    if (name === "" && !hasPlain) return fitting.find((each) => this.isUsual(each))?.name ?? "";
    if (name !== null && (name === "" || fitting.some((each) => each.name === name))) return name;
    return hasPlain ? "" : (fitting[0]?.name ?? "");
  }

  /** Whether a task may go without a style: not where one of them says what the model does anyway. */
  get hasPlain(): boolean {
    return !this.fitting.some((each) => this.isUsual(each));
  }

  /** Whether a style changes nothing of what the model does by itself. */
  private isUsual(style: StyleView): boolean {
    const usual = new Map(this.fields.map((each) => [each.name, each.otherwise]));
    return !style.prompt && Object.entries(style.input).every(([name, value]) => usual.get(name) === value);
  }

  get isVaried(): boolean {
    return isVaried(this.model);
  }

  get count(): number {
    return this.isVaried ? this.pictures : 1;
  }

  /** Prompts that the model names as examples. */
  get examples(): string[] {
    return this.words?.examples ?? [];
  }

  /** Whether the model is one that comes with Swell to try it. */
  get isDemo(): boolean {
    return this.model?.name.startsWith("swell/") ?? false;
  }

  /** Fields that are left to be chosen one by one: what styles decide is not. */
  get rest(): FormField[] {
    return this.formOf(this.model);
  }

  async load(): Promise<void> {
    const [, list] = await Promise.all([models.load(), call("GET /v1/styles", {})]);
    this.styles = list.styles;
    this.fit();
  }

  /** Begin the form of the model, with what is given of it. */
  reset(input: Values = {}): void {
    this.values = beginning(this.rest, input);
    this.filled = this.model?.name ?? "";
  }

  /** Fit the form to another model that has come, or has stepped in for one that went. */
  settle(): void {
    if (this.filled !== (this.model?.name ?? "")) this.fit();
  }

  /** What the model does not know stays, for the one that does. */
  private fit(): void {
    this.values = { ...this.values, ...beginning(this.rest, this.values) };
    this.filled = this.model?.name ?? "";
  }

  recipe(seed: number | null): Recipe {
    return { prompt: this.prompt.trim(), style: this.style, model: this.model?.name, seed, input: inputOf(this.rest, this.values) };
  }

  /** What the form asks for. */
  wish(seed: number, batch = ""): Wish {
    return this.wishOf(this.recipe(seed), seed, batch);
  }

  /** What a recipe asks for, whatever the form says. */
  wishOf(recipe: Recipe, seed: number, batch = ""): Wish {
    const model = this.choices.find((each) => each.name === recipe.model) ?? this.model;
    const style = this.stylesOf(model).find((each) => each.name === recipe.style);
    const fields = this.formOf(model);
    const prompt = recipe.prompt.trim();
    const words = style?.prompt ? style.prompt.replaceAll("{prompt}", prompt) : prompt;
    const input = { ...inputOf(fields, beginning(fields, recipe.input)), ...style?.input, prompt: words };
    return { model: model?.name ?? "", input, seed, metadata: { create: { ...recipe, prompt, seed }, batch } };
  }

  /** Whether the model of a recipe is there. */
  has(recipe: Recipe): boolean {
    return !recipe.model || this.choices.some((each) => each.name === recipe.model);
  }

  /** Take over what somebody else, or another day, has asked for. */
  take(recipe: Recipe): void {
    if (recipe.model && this.has(recipe)) this.wanted = recipe.model;
    this.prompt = recipe.prompt.slice(0, 2000);
    this.style = this.fitting.some((each) => each.name === recipe.style) ? (recipe.style ?? "") : "";
    this.seed = typeof recipe.seed === "number" ? recipe.seed : null;
    this.reset(recipe.input);
  }

  private get words(): FormField | undefined {
    return this.fields.find((each) => each.name === "prompt");
  }

  private get fields(): FormField[] {
    return this.model ? fieldsOf(this.model.input_schema) : [];
  }

  private stylesOf(model: ModelView | undefined): StyleView[] {
    return this.styles.filter((each) => each.models.length === 0 || each.models.includes(model?.name ?? ""));
  }

  private formOf(model: ModelView | undefined): FormField[] {
    const decided = new Set(["prompt", "seed", ...this.stylesOf(model).flatMap((each) => Object.keys(each.input))]);
    return model ? fieldsOf(model.input_schema).filter((each) => !decided.has(each.name)) : [];
  }

  keepWords(): void {
    keep("draft", this.prompt);
  }

  keepSettings(): void {
    keep("style", this.chosen);
    keep("count", this.pictures);
    keep("seed", this.seed);
    keep("model", this.wanted);
    keep("values", this.values);
  }
}

export const draft = new Draft();

/** Whether another seed gives another picture of the same prompt. A model may say that it does not. */
export function isVaried(model: ModelView | undefined): boolean {
  return (model?.input_schema["x-ui"] as { variety?: boolean } | undefined)?.variety !== false;
}

/** Tasks that were asked for together have the same; alone, the task's own id. */
export function batchOf(task: TaskView): string {
  return (task.metadata as { batch?: string } | null)?.batch || task.id;
}

/** Whether a task made a picture larger: it was given words and a seed before, and draws nothing anew. */
export function isEnlarged(task: TaskView): boolean {
  return "enlarged" in ((task.metadata as object | null) ?? {});
}

/** How a task was asked for, whoever asked; of a picture that was made larger, how that was. */
export function recipeOf(task: TaskView): Recipe {
  const told = (task.metadata as { create?: Recipe } | null)?.create;
  if (told && typeof told.prompt === "string") return { ...told, seed: isEnlarged(task) ? told.seed : (task.seed ?? told.seed) };
  return { ...recipeFrom(task.model, task.input), seed: task.seed };
}

/** Who is asked for a picture like one of `model`: the pipeline that the form is of, if that is one of its stages. */
export function askedFor(model: string): string {
  const stages = draft.model?.pipeline?.stages ?? [];
  const isStage = stages.some((each) => each.queue.split(":")[0] === model);
  return isStage && draft.model ? draft.model.name : model;
}

/**
 * A recipe from a model's input: the style is the one that decides the same, and its words are taken off.
 * `isPart`: the input is that of a stage, which knows only some of what styles decide.
 */
export function recipeFrom(model: string, input: Values, isPart = false): Recipe {
  const { prompt: asked, ...rest } = input;
  const prompt = String(asked ?? "");
  const schema = isPart ? undefined : models.find(model)?.input_schema;
  const usual = schema && Object.fromEntries(fieldsOf(schema).map((each) => [each.name, each.otherwise]));
  const decidedBy = (known: Values): StyleView | undefined =>
    draft.styles.find((each) => {
      const decided = Object.entries(each.input).filter(([name]) => !isPart || name in known);
      const isOne = decided.length > 0 || each.prompt.replace("{prompt}", "").trim() !== "";
      const fits = each.models.length === 0 || each.models.includes(model);
      return isOne && fits && decided.every(([name, value]) => known[name] === value) && typed(each, prompt) !== null;
    });
  // What was asked for says more than what the model does by itself.
  const style = decidedBy(input) ?? (usual && decidedBy({ ...usual, ...input }));
  return { prompt: (style && typed(style, prompt)) ?? prompt, model, input: rest, style: style?.name };
}

/** What was typed, of a prompt that a style has put its words around; null where it has not. */
function typed(style: StyleView, prompt: string): string | null {
  const [before = "", after = "", ...more] = (style.prompt || "{prompt}").split("{prompt}");
  const isWrapped = !more.length && prompt.length >= before.length + after.length && prompt.startsWith(before) && prompt.endsWith(after);
  return isWrapped ? prompt.slice(before.length, prompt.length - after.length) : null;
}

/** The same with another seed nearby. */
export const varied = (recipe: Recipe): Recipe => ({ ...recipe, seed: ((recipe.seed ?? 0) + 1) % SEEDS });

export function encode(recipe: Recipe): string {
  const bytes = new TextEncoder().encode(JSON.stringify(recipe));
  // Not all at once: a file within an input has more bytes than a function takes arguments.
  return btoa(Array.from(bytes, (each) => String.fromCharCode(each)).join("")).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
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

/** The style that a recipe names, if there is one of that name. */
export const styleOf = (recipe: Recipe): StyleView | undefined => draft.styles.find((each) => each.name === recipe.style);

/** What a style is called in the language that is spoken. */
export function styleName(style: StyleView): string {
  return style.labels[speech.language] ?? style.label;
}
