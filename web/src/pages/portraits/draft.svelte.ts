// What is chosen for portraits: it stays while somebody looks at other pages.
import { beginning, type Values } from "../../lib/form/schema";
import { keep, kept } from "../../lib/stored";
import type { Form } from "./scenes";

class Draft {
  face = $state("");
  scenes = $state<string[]>(kept("scenes", [] as string[]));
  values = $state<Values>({});
  /** Name of the model that the values are of. */
  private filled = "";

  /** Fit what is chosen to the form of a model: what is not of it goes. */
  settle(form: Form): void {
    const known = new Set(form.scenes.options.map((each) => each.value));
    this.scenes = this.scenes.filter((each) => known.has(each));
    if (!this.scenes.length && Array.isArray(form.scenes.otherwise)) this.scenes = form.scenes.otherwise.map(String);
    if (this.filled === form.model.name) return;
    this.filled = form.model.name;
    this.values = beginning(form.rest);
  }

  keep(): void {
    keep("scenes", this.scenes);
  }
}

export const draft = new Draft();
