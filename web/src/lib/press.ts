// One press of a button, which asks once for what it asks for, also where an answer was lost on its way.
import { Problem } from "./api/client";
import { type Job, jobs, type Wish } from "./jobs.svelte";

export class Press {
  private said = "";
  private left: { wish: Wish; key: string }[] = [];
  private begun: Job[] = [];

  /**
   * Ask for what `make` returns, and return its jobs. Where that fails halfway and the same is pressed again, what
   * was not answered is sent with the keys that it had. Throws a `Problem`.
   *
   * @param said What is asked for, as whoever presses sees it; another one is a press of its own.
   */
  async send(said: unknown, make: () => Wish[]): Promise<Job[]> {
    const words = JSON.stringify(said);
    if (words !== this.said || !this.left.length) {
      this.left = make().map((wish) => ({ wish, key: newKey() }));
      this.said = words;
      this.begun = [];
    }
    for (let first = this.left[0]; first; first = this.left[0]) {
      try {
        this.begun.push(await jobs.start(first.wish, first.key));
      } catch (error) {
        if (isAnswer(error)) this.left = [];
        throw error;
      }
      this.left.shift();
    }
    return this.begun;
  }
}

/** Whether the server has said no; else it may have taken it, or may take it later. */
function isAnswer(error: unknown): boolean {
  return !(error instanceof Problem) || (error.status >= 400 && error.status < 500 && error.status !== 429);
}

/** `crypto.randomUUID` is there over HTTPS alone. */
function newKey(): string {
  return [...crypto.getRandomValues(new Uint32Array(4))].map((each) => each.toString(36)).join("-");
}
