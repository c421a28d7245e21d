// What went wrong, as a sentence for people: the service's own where it has one.
import { Problem } from "./api/client";
import { duration, t } from "./i18n/index.svelte";
import { say } from "./notices.svelte";
import { session } from "./session.svelte";

/** Do what was pressed, and show a notice where that fails. */
export async function tryTo(act: () => Promise<unknown>): Promise<void> {
  await act().catch((error: unknown) => say(sentence(error), "bad"));
}

export function sentence(error: unknown): string {
  if (!(error instanceof Problem)) return error instanceof Error ? error.message : String(error);
  if (error.isUnreached) return t("problem.unreachable");
  if (error.code === "quota_exceeded") return session.key?.name === "guest" ? t("problem.guest") : t("problem.quota", { wait: duration(error.retryAfter ?? 0) });
  if (error.status === 429 && error.retryAfter) return t("problem.busy", { wait: duration(error.retryAfter) });
  if (error.status >= 500) return t("problem.fault", { id: error.requestId ?? "" });
  return error.message || t("problem.fault", { id: error.requestId ?? "" });
}
