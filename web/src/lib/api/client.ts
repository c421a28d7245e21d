// Calls of the public API. It lies beside the app, under whatever prefix that is served.
import type { paths } from "./schema";

export type * from "./schema";

type Method = "delete" | "get" | "patch" | "post" | "put";
/** Such as `GET /v1/tasks/{id}`. */
type Operation = {
  [P in keyof paths]: { [M in Method]: paths[P][M] extends object ? `${Uppercase<M>} ${P}` : never }[Method];
}[keyof paths];
type Details<O extends Operation> = O extends `${infer M} ${infer P extends keyof paths}` ? paths[P][Lowercase<M> & Method] : never;
type PathOf<D> = D extends { parameters: { path: infer P } } ? { path: P } : { path?: undefined };
type BodyOf<D> = D extends { requestBody: { content: { "application/json": infer B } } } ? { body: B } : { body?: undefined };
type QueryOf<D> = D extends { parameters: { query?: infer Q } } ? Q : undefined;
type JsonOf<R> = { [S in keyof R]: R[S] extends { content: { "application/json": infer T } } ? T : never }[keyof R];
type Answer<O extends Operation> = Details<O> extends { responses: infer R } ? JsonOf<R> : unknown;
type Ask<O extends Operation> = PathOf<Details<O>> &
  BodyOf<Details<O>> & {
    query?: QueryOf<Details<O>>;
    headers?: Record<string, string>;
    signal?: AbortSignal;
  };

/** Where the app lies; ends with a slash. */
export const base = new URL(".", document.baseURI.replace(/#.*/, ""));

/** What went wrong, in a sentence for people. */
export class Problem extends Error {
  constructor(
    /** 0 where no answer came. */
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfter: number | null = null,
    readonly requestId: string | null = null,
    /** JSON pointer of a broken value → what is wrong with it. */
    readonly fields: Record<string, string> = {},
  ) {
    super(message);
  }

  /** No answer of Swell's: there is no network, or a proxy says that there is nobody behind it. */
  get isUnreached(): boolean {
    return this.status === 0 || ([502, 503, 504].includes(this.status) && this.code === String(this.status));
  }
}

let secret = "";
let onRefused: () => void = () => {};
let onLost: () => void = () => {};

/** Do this for each call that gets no answer. */
export function whenLost(act: () => void): void {
  onLost = act;
}

/** Send this key with each request; an empty one sends none. */
export function useKey(key: string, refused: () => void): void {
  secret = key;
  onRefused = refused;
}

/** Headers that name the key. */
export function authorization(): Record<string, string> {
  return secret ? { authorization: `Bearer ${secret}` } : {};
}

/** Address of a file of the service beside this app, whatever name the service gave it. */
export function own(url: string): string {
  const found = /\/(v1\/(?:artifacts|models|shares|styles|tasks|uploads)\/.*)$/.exec(url);
  return found?.[1] ? new URL(found[1], base).href : url;
}

/** Do an operation of the table and return its answer. Throws a `Problem`. */
export async function call<O extends Operation>(operation: O, ask: Ask<O>): Promise<Answer<O>> {
  const [method = "GET", template = ""] = operation.split(" ");
  const given = ask as { path?: object; body?: unknown };
  const places = (given.path ?? {}) as Record<string, string>;
  const path = template.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(places[name] ?? ""));
  const url = new URL(path.slice(1), base);
  for (const [name, value] of Object.entries(ask.query ?? {})) {
    if (value !== undefined && value !== null) url.searchParams.set(name, String(value));
  }
  const headers: Record<string, string> = { ...authorization(), ...ask.headers };
  const body = given.body === undefined ? undefined : JSON.stringify(given.body);
  if (body !== undefined) headers["content-type"] = "application/json";
  const answer = await send(url, { method, headers, body, signal: ask.signal });
  return (await read(answer)) as Answer<O>;
}

/** The line may also break while an answer comes, and somebody else may have answered, such as a hotel's Wi-Fi. */
async function read(answer: Response): Promise<unknown> {
  try {
    return await answer.json();
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    onLost();
    throw new Problem(0, "unreachable", "");
  }
}

/** Keep a file for use in an input; return its URL. */
export async function upload(file: Blob, filename?: string): Promise<string> {
  const url = new URL("v1/uploads", base);
  if (filename) url.searchParams.set("filename", filename.slice(-100));
  const headers = { ...authorization(), "content-type": file.type || "application/octet-stream" };
  const answer = await send(url, { method: "POST", headers, body: file });
  return ((await read(answer)) as { url: string }).url;
}

/** Fetch, and throw a `Problem` unless the answer is a good one. */
export async function send(url: URL | string, init: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(url, { credentials: "omit", ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    onLost();
    throw new Problem(0, "unreachable", "");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) onRefused();
  const problem = await problemOf(answer);
  if (problem.isUnreached) onLost();
  throw problem;
}

async function problemOf(answer: Response): Promise<Problem> {
  const told = (await answer.json().catch(() => ({}))) as {
    code?: string;
    title?: string;
    detail?: string;
    request_id?: string;
    errors?: { pointer: string; detail: string }[];
  };
  const wait = Number(answer.headers.get("retry-after"));
  return new Problem(
    answer.status,
    told.code ?? String(answer.status),
    told.detail ?? told.title ?? "",
    Number.isFinite(wait) && wait > 0 ? wait : null,
    told.request_id ?? answer.headers.get("x-request-id"),
    Object.fromEntries((told.errors ?? []).map((each) => [each.pointer, each.detail])),
  );
}
