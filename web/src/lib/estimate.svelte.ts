// How long something would take, asked for before it is sent.
import { call, type EstimateView, Problem } from "./api/client";
import type { Wish } from "./jobs.svelte";

const SETTLE_MS = 350;
const AGAIN_MS = 10_000;

export class Estimate {
  told = $state.raw<EstimateView | null>(null);

  /**
   * Ask when typing rests, and again and again while nothing changes; for an `$effect`, which reads what matters.
   *
   * @param make Returns what would be sent; null where that is nothing yet.
   */
  follow(make: () => Wish | null): () => void {
    const stop = new AbortController();
    const ask = async (): Promise<void> => {
      if (!document.hidden) await this.ask(make, stop.signal);
      if (!stop.signal.aborted) timer = setTimeout(ask, AGAIN_MS);
    };
    let timer = setTimeout(ask, SETTLE_MS);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }

  private async ask(make: () => Wish | null, signal: AbortSignal): Promise<void> {
    try {
      const body = make();
      this.told = body && (await call("POST /v1/estimate", { body, signal }));
    } catch (error) {
      // What is typed is no JSON yet, or the next has been asked for: what was told stays.
      if (error instanceof Problem) this.told = null;
    }
  }
}
