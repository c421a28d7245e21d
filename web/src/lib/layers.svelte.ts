// Modal dialogs that are open. What lies behind the topmost can neither be seen well nor used, so notices and
// keys go by it.
import { untrack } from "svelte";

class Layers {
  private open = $state.raw<string[]>([]);

  /** Id of the topmost dialog; empty where none is open. */
  get top(): string {
    return this.open.at(-1) ?? "";
  }

  /** Lay a dialog over all that is there; what is returned takes it away. */
  lay(id: string): () => void {
    this.open = [...untrack(() => this.open), id];
    return () => (this.open = this.open.filter((each) => each !== id));
  }
}

export const layers = new Layers();
