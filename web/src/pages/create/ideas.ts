// Finished pictures with the words they were made from, and what a surprise is put together from: `web/inspiration.py`.
import type { Recipe } from "./draft.svelte";
import told from "./inspiration/inspiration.json";

export interface Idea extends Recipe {
  name: string;
  style: string;
  seed: number;
}

const PICTURES = import.meta.glob<string>("./inspiration/*.webp", { eager: true, import: "default", query: "?url" });

/** Those of a model: pictures of one say nothing of another. */
export function ideas(model: string | undefined): Idea[] {
  return model === told.model ? told.pictures.map((each) => ({ ...each, model })) : [];
}

export const pictureOf = (idea: Idea): string => PICTURES[`./inspiration/${idea.name}.webp`] ?? "";

const any = <T>(list: T[]): T => list[Math.floor(Math.random() * list.length)] as T;

/** Words and a style that go well together, by chance. */
export function surprise(model: string | undefined): Recipe {
  return { prompt: `${any(told.surprise.subjects)} ${any(told.surprise.places)}`.trim(), style: any(told.surprise.styles), model, seed: null };
}
