// Links that show a picture to people without a key.
import { base, call, type ShareView } from "../../lib/api/client";
import { moment, t } from "../../lib/i18n/index.svelte";
import { say } from "../../lib/notices.svelte";

const DAY_MS = 86_400_000;

/** The page behind a link, under whatever prefix this app was reached. */
export const pageOf = (link: ShareView): string => new URL(`s/${encodeURIComponent(link.token)}`, base).href;

/** The picture behind a link, in small. */
export const faceOf = (link: ShareView): string =>
  new URL(`v1/shares/${encodeURIComponent(link.token)}/pictures/0?w=128`, base).href;

/** The link of a task; null where it has none. */
export async function linkOf(id: string): Promise<ShareView | null> {
  const found = await call("GET /v1/shares", { query: { task_id: id } });
  return found.shares[0] ?? null;
}

/** Make a link, or change what it shows. */
export function makeLink(id: string, withPrompt: boolean, expiresAt: string | null): Promise<ShareView> {
  return call("POST /v1/tasks/{id}/share", { path: { id }, body: { with_prompt: withPrompt, expires_at: expiresAt } });
}

export async function revoke(id: string): Promise<void> {
  await call("DELETE /v1/tasks/{id}/share", { path: { id } });
  say(t("share.revoked"), "good");
}

/** The moment after so many days; null for none, which stands for never. */
export const inDays = (days: number): string | null => (days ? new Date(Date.now() + days * DAY_MS).toISOString() : null);

/** Until when a link is good, in words. */
export function untilWhen(link: ShareView): string {
  if (!link.expires_at) return t("share.endless");
  const isOver = Date.parse(link.expires_at) <= Date.now();
  return t(isOver ? "share.over" : "share.until", { when: moment(link.expires_at) });
}

/** Hand a link on: by the sheet of the phone, or the clipboard. */
export async function handOn(link: ShareView): Promise<void> {
  const url = pageOf(link);
  if (matchMedia("(pointer: coarse)").matches && navigator.share) {
    await navigator.share({ url }).catch(() => {});
    return;
  }
  const done = await navigator.clipboard?.writeText(url).then(
    () => true,
    () => false,
  );
  say(t(done ? "share.done" : "copy.failed"), done ? "good" : "bad");
}
