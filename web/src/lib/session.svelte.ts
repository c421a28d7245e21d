// Who is signed in: a key, and what it may do.
import { call, useKey, type KeyView, Problem } from "./api/client";
import type { Word } from "./i18n/index.svelte";
import { forget, inherit, keep, kept } from "./stored";

type State = "out" | "trying" | "checking" | "in" | "unreachable";

class Session {
  state = $state<State>("checking");
  key = $state.raw<KeyView | null>(null);
  /** The secret was not taken, or is not any more: say so beside the field. */
  refusal = $state<Word | null>(null);
  /** What is tried, and not kept before it was taken. */
  private secret = "";

  constructor() {
    // Who signs out, or in as somebody else, does so in all tabs.
    addEventListener("storage", () => {
      if (this.state === "in" && kept<string>("key", "") !== this.secret) location.reload();
    });
  }

  /** Whether operators' pages are for whoever is signed in. */
  get isOperator(): boolean {
    return this.key?.scopes.includes("admin") ?? false;
  }

  /** Sign in again with the key that this browser keeps. */
  async start(): Promise<void> {
    const secret = this.secret || kept<string>("key", "");
    if (secret) await this.check(secret);
    else this.state = "out";
  }

  /** Sign in with what somebody brings; a form in which it was typed stays meanwhile. */
  async signIn(secret: string): Promise<void> {
    if (this.state === "out") this.state = "trying";
    await this.check(secret);
  }

  /** Sign in; `refusal` tells where the key is not a good one. */
  private async check(secret: string): Promise<void> {
    if (this.state !== "trying") this.state = "checking";
    this.refusal = null;
    this.secret = secret.trim();
    useKey(secret.trim(), () => this.refuse());
    try {
      const key = await call("GET /v1/keys/self", {});
      keep("key", secret.trim());
      if (inherit(secret.trim()) || !this.isOf(key)) return location.reload();
      this.key = key;
      this.state = "in";
    } catch (error) {
      if (error instanceof Problem && (error.status === 401 || error.status === 403)) this.refuse();
      else this.state = "unreachable";
    }
  }

  /** Leave nothing behind that was of this key, neither kept nor in memory. */
  signOut(): void {
    forget();
    useKey("", () => {});
    location.reload();
  }

  /** Whether what the browser keeps is of this key; what another has left is forgotten. */
  private isOf(key: KeyView): boolean {
    const owner = kept<string>("owner", "");
    if (owner && owner !== key.id) forget(["key"]);
    keep("owner", key.id);
    return !owner || owner === key.id;
  }

  private leave(): void {
    this.secret = "";
    useKey("", () => {});
    this.key = null;
    this.state = "out";
  }

  private refuse(): void {
    // Several answers may say so.
    if (!this.secret) return;
    // A key that was brought and is none does not take away the one that is kept, which was good before.
    const isKept = this.secret === kept<string>("key", "");
    if (isKept) keep("key", null);
    this.refusal = isKept ? "signin.ended" : "signin.refused";
    this.leave();
  }
}

export const session = new Session();

/** Who sits at this browser: people who share a key take turns, and see their own jobs. */
export const person: string = (() => {
  const known = kept<string>("person", "");
  if (known) return known;
  const made = `web-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
  keep("person", made);
  return made;
})();
