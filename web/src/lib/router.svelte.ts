// Pages by the hash of the address, so that any server and any prefix will do.
import type { Component } from "svelte";
import type { Word } from "./i18n/index.svelte";
import type { IconName } from "./ui/Icon.svelte";

export interface Route {
  /** Such as `/tasks/:id`; what stands in a place is a property of the page. */
  path: string;
  word: Word;
  /** Shown in the menu with this icon. */
  icon?: IconName;
  /** The page of the menu that it belongs to, where it has no icon of its own. */
  section?: string;
  /** For operators alone; those without a section are the tabs of the menu's page for operators. */
  isOperators?: boolean;
  /** For everybody, signed in or not. */
  isPublic?: boolean;
  // What a page takes is its own affair: the names in its path.
  load: () => Promise<{ default: Component<any> }>;
}

/** Every page. A page that is not here is not in the menu. */
export const ROUTES: Route[] = [
  { path: "/", word: "nav.create", icon: "create", load: () => import("../pages/Create.svelte") },
  { path: "/portraits", word: "nav.portraits", icon: "portraits", load: () => import("../pages/Portraits.svelte") },
  { path: "/library", word: "nav.library", icon: "library", load: () => import("../pages/Library.svelte") },
  { path: "/models", word: "nav.models", icon: "models", load: () => import("../pages/Models.svelte") },
  { path: "/models/:owner/:name", word: "tasks.model", section: "/models", load: () => import("../pages/Model.svelte") },
  { path: "/compare", word: "nav.compare", section: "/models", load: () => import("../pages/Compare.svelte") },
  { path: "/comparisons/:id", word: "compare.title", section: "/models", load: () => import("../pages/Comparison.svelte") },
  { path: "/s/:token", word: "share.picture", isPublic: true, load: () => import("../pages/Shared.svelte") },
  { path: "/fleet", word: "nav.fleet", isOperators: true, load: () => import("../pages/Fleet.svelte") },
  { path: "/tasks", word: "nav.tasks", isOperators: true, load: () => import("../pages/Tasks.svelte") },
  { path: "/tasks/:id", word: "task.title", section: "/tasks", isOperators: true, load: () => import("../pages/Task.svelte") },
  { path: "/costs", word: "nav.costs", isOperators: true, load: () => import("../pages/Costs.svelte") },
  { path: "/keys", word: "nav.keys", isOperators: true, load: () => import("../pages/Keys.svelte") },
];

export interface Place {
  route: Route;
  params: Record<string, string>;
  query: URLSearchParams;
}

class Router {
  place = $state.raw<Place | null>(find());

  constructor() {
    addEventListener("hashchange", () => (this.place = find()));
  }
}

export const router = new Router();

/** Address of a page, for a link: `href("/tasks/:id", { id })`. */
export function href(path: string, params: Record<string, string> = {}, query: Record<string, string> = {}): string {
  const filled = path.replace(/:(\w+)/g, (_, name: string) => encodeURIComponent(params[name] ?? ""));
  const asked = new URLSearchParams(query).toString();
  return `#${filled}${asked ? `?${asked}` : ""}`;
}

export function go(path: string, params: Record<string, string> = {}, query: Record<string, string> = {}): void {
  location.hash = href(path, params, query);
}

/** Change what stands behind the `?` without a new entry in the history. */
export function setQuery(query: Record<string, string>): void {
  const path = location.hash.slice(1).split("?")[0] || "/";
  history.replaceState(history.state, "", href(path, {}, query));
  router.place = find();
}

export function find(): Place | null {
  const [path = "", asked = ""] = location.hash.slice(1).split("?", 2);
  const parts = (path || "/").split("/");
  for (const route of ROUTES) {
    const wanted = route.path.split("/");
    if (wanted.length !== parts.length) continue;
    const params: Record<string, string> = {};
    const fits = wanted.every((word, at) => {
      const part = parts[at] ?? "";
      if (!word.startsWith(":")) return word === part;
      params[word.slice(1)] = decode(part);
      return part !== "";
    });
    if (fits) return { route, params, query: new URLSearchParams(asked) };
  }
  return null;
}

export function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
