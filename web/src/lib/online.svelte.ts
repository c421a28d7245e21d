// Whether the server answers. After a cut it is asked again, with longer and longer pauses, and at once
// when the browser says that the network is back.
import { authorization, base, whenLost } from "./api/client";

/** One call that failed is no cut yet: the next may succeed at once. */
const PATIENCE_MS = 400;
const FIRST_MS = 1000;
const MOST_MS = 15_000;
/** Calls that fail within this time of a success do not start over with short pauses. */
const CALM_MS = 30_000;

class Connection {
  isCut = $state(false);
  private pauseMs = FIRST_MS;
  private backAt = -Infinity;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private waiting = new Set<() => void>();

  constructor() {
    addEventListener("offline", () => this.cut());
    addEventListener("online", () => void this.probe());
  }

  /** A call got no answer. */
  lost(): void {
    if (this.isCut || this.timer !== undefined) return;
    const isCalm = performance.now() - this.backAt > CALM_MS;
    if (isCalm) this.pauseMs = FIRST_MS;
    this.timer = setTimeout(() => void this.probe(), isCalm ? PATIENCE_MS : this.pauseMs);
    if (!isCalm) this.pauseMs = Math.min(2 * this.pauseMs, MOST_MS);
  }

  /** Do this whenever the server answers again; for an `$effect`. */
  onBack(act: () => void): () => void {
    this.waiting.add(act);
    return () => this.waiting.delete(act);
  }

  private cut(): void {
    this.isCut = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.probe(), this.pauseMs);
    this.pauseMs = Math.min(2 * this.pauseMs, MOST_MS);
  }

  private async probe(): Promise<void> {
    clearTimeout(this.timer);
    const url = new URL("v1/keys/self", base);
    const answer = await fetch(url, { headers: authorization(), cache: "no-store", credentials: "omit" }).catch(() => null);
    if (!answer || answer.status >= 500) return this.cut();
    this.timer = undefined;
    this.isCut = false;
    this.backAt = performance.now();
    for (const act of [...this.waiting]) act();
  }
}

export const connection = new Connection();
whenLost(() => connection.lost());
