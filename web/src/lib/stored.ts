// What the browser keeps. It may refuse (private windows, full disks): then nothing is kept, and nothing breaks.
import { base } from "./api/client";

/** What is of whoever sits here, whatever the key and whichever Swell. */
const OF_BROWSER = new Set(["language", "theme", "letters"]);

/** Where all of an origin kept before, as the one at its root does still. */
const BEFORE = "swell.";

/** A browser keeps one store for all of an origin: each Swell below a prefix has names of its own there. */
const OWN = base.pathname === "/" ? BEFORE : `swell ${base.pathname}.`;

const nameOf = (name: string): string => (OF_BROWSER.has(name) ? BEFORE + name : OWN + name);

export function kept<T>(name: string, otherwise: T): T {
  try {
    const text = localStorage.getItem(nameOf(name));
    return text === null ? otherwise : (JSON.parse(text) as T);
  } catch {
    return otherwise;
  }
}

/** Keep nothing but these, and what is of the browser. */
export function forget(but: string[] = []): void {
  const stay = new Set([...OF_BROWSER, ...but].map(nameOf));
  try {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(OWN) && !stay.has(name));
    names.forEach((name) => localStorage.removeItem(name));
  } catch {
    // Nothing was kept.
  }
}

export function keep(name: string, value: unknown): void {
  try {
    if (value === null || value === undefined) localStorage.removeItem(nameOf(name));
    else localStorage.setItem(nameOf(name), JSON.stringify(value));
  } catch {
    // Kept in memory by whoever asked.
  }
}

/** Move here what was kept before there were names of its own, if it was with this key; false where there is none. */
export function inherit(key: string): boolean {
  try {
    if (OWN === BEFORE || localStorage.getItem(`${BEFORE}key`) !== JSON.stringify(key)) return false;
    const names = Object.keys(localStorage).filter((name) => name.startsWith(BEFORE) && !OF_BROWSER.has(name.slice(BEFORE.length)));
    for (const name of names) {
      localStorage.setItem(OWN + name.slice(BEFORE.length), localStorage.getItem(name) ?? "");
      localStorage.removeItem(name);
    }
    return true;
  } catch {
    return false;
  }
}
