// Whether the server has another version of the app than the one that runs here.
import { base } from "./api/client";

const EVERY_MS = 5 * 60_000;

/** Look now and then, and when the window is looked at again; tell once when another is there. */
export function watchVersion(tell: () => void): () => void {
  let first: string | null = null;
  let lookedAt = -Infinity;
  let isOver = false;

  async function look(): Promise<void> {
    if (isOver || document.hidden || performance.now() - lookedAt < EVERY_MS / 5) return;
    lookedAt = performance.now();
    const answer = await fetch(base, { method: "HEAD", cache: "no-cache", credentials: "omit" }).catch(() => null);
    const tag = answer?.ok ? (answer.headers.get("etag")?.replace(/^W\//, "") ?? null) : null;
    if (tag === null || isOver) return;
    if (first !== null && first !== tag) {
      isOver = true;
      tell();
    }
    first ??= tag;
  }

  void look();
  const timer = setInterval(() => void look(), EVERY_MS);
  const onShow = (): void => void look();
  document.addEventListener("visibilitychange", onShow);
  return () => {
    isOver = true;
    clearInterval(timer);
    document.removeEventListener("visibilitychange", onShow);
  };
}
