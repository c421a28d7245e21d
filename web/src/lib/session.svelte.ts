// Who is signed in: a key, and what it may do.
import { call, useKey, type KeyView, Problem } from "./api/client";
import { keep, kept } from "./stored";

type State = "out" | "checking" | "in" | "unreachable";

class Session {
  state = $state<State>("checking");
  key = $state.raw<KeyView | null>(null);
  /** The secret was not taken: say so beside the field. */
  wasRefused = $state(false);
  /** What is tried, and not kept before it was taken. */
  private secret = "";

  /** Whether operators' pages are for whoever is signed in. */
  get isOperator(): boolean {
    return this.key?.scopes.includes("admin") ?? false;
  }

  /** Sign in again with the key that this browser keeps. */
  async start(): Promise<void> {
    const secret = this.secret || kept<string>("key", "");
    if (secret) await this.signIn(secret);
    else this.state = "out";
  }

  /** Sign in; `wasRefused` tells where the key is not a good one. */
  async signIn(secret: string): Promise<void> {
    this.state = "checking";
    this.wasRefused = false;
    this.secret = secret.trim();
    useKey(secret.trim(), () => this.refuse());
    try {
      this.key = await call("GET /v1/keys/self", {});
      keep("key", secret.trim());
      this.state = "in";
    } catch (error) {
      if (error instanceof Problem && (error.status === 401 || error.status === 403)) this.refuse();
      else this.state = "unreachable";
    }
  }

  signOut(): void {
    keep("key", null);
    this.leave();
  }

  private leave(): void {
    this.secret = "";
    useKey("", () => {});
    this.key = null;
    this.state = "out";
  }

  private refuse(): void {
    // A key that was brought and is none does not take away the one that is kept.
    if (this.secret === kept<string>("key", "")) keep("key", null);
    this.leave();
    this.wasRefused = true;
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
