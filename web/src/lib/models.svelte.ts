// The models of the service, asked for once and kept for a while.
import { call, type ModelView } from "./api/client";

const FRESH_MS = 30_000;
const AGAIN_MS = 3000;

class Models {
  all = $state.raw<ModelView[]>([]);
  private asked: Promise<void> | null = null;
  private at = -Infinity;

  /** Make sure that they are there and not old; throws a `Problem`. */
  load(isForced = false): Promise<void> {
    if (!isForced && performance.now() - this.at < FRESH_MS) return Promise.resolve();
    this.asked ??= call("GET /v1/models", {})
      .then((list) => {
        this.all = list.models;
        this.at = performance.now();
      })
      .finally(() => (this.asked = null));
    return this.asked;
  }

  /** Ask again and again, such as while what is needed is not there; for an `$effect`. */
  watch(): () => void {
    const again = setInterval(() => document.hidden || void this.load(true).catch(() => {}), AGAIN_MS);
    return () => clearInterval(again);
  }

  find(name: string): ModelView | undefined {
    return this.all.find((each) => each.name === name);
  }
}

export const models = new Models();

export function makesPictures(model: ModelView): boolean {
  return /"x-file":\s*"image"/.test(JSON.stringify(model.output_schema));
}

/** Whether a model makes pictures from words. */
export function draws(model: ModelView): boolean {
  const input = (model.input_schema["properties"] ?? {}) as Record<string, unknown>;
  return "prompt" in input && makesPictures(model);
}
