// Scenarios by their names: in words, and as they look.
import { t, type Word } from "../../lib/i18n/index.svelte";
import type { ModelView, TaskView } from "../../lib/api/client";
import { fieldsOf, type FormField, words } from "../../lib/form/schema";

const NAMES: Record<string, Word> = {
  beach: "scene.beach",
  city: "scene.city",
  "city-night": "scene.cityNight",
  space: "scene.space",
  forest: "scene.forest",
  snow: "scene.snow",
  sunset: "scene.sunset",
  desert: "scene.desert",
  meadow: "scene.meadow",
  mountains: "scene.mountains",
  underwater: "scene.underwater",
  studio: "scene.studio",
};

const PICTURES = import.meta.glob<string>("./scenes/*.webp", { eager: true, query: "?no-inline", import: "default" });

/** The name of a scenario, for people. */
export function sceneName(scene: string): string {
  const known = NAMES[scene];
  return known ? t(known) : words(scene);
}

/** URL of how a scenario looks; undefined for those of others' models. */
export function scenePicture(scene: string): string | undefined {
  return PICTURES[`./scenes/${scene}.webp`];
}

/** What a model that makes portraits takes: a picture, scenarios, and the rest of its form. */
export interface Form {
  model: ModelView;
  face: FormField;
  scenes: FormField;
  rest: FormField[];
}

/** The form of a model that makes portraits of a face; null for other models. */
export function formOf(model: ModelView): Form | null {
  const fields = fieldsOf(model.input_schema);
  const face = fields.find((each) => each.name === "image" && each.kind === "file");
  const scenes = fields.find((each) => each.name === "scenarios" && each.kind === "choices");
  if (!face || !scenes) return null;
  return { model, face, scenes, rest: fields.filter((each) => each !== face && each !== scenes) };
}

/** What a task was asked to show, in the order of its pictures. */
export function scenesOf(task: TaskView): string[] {
  const found = task.input["scenarios"];
  return Array.isArray(found) ? found.map(String) : [];
}
