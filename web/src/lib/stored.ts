// What the browser keeps. It may refuse (private windows, full disks): then nothing is kept, and nothing breaks.

export function kept<T>(name: string, otherwise: T): T {
  try {
    const text = localStorage.getItem(`swell.${name}`);
    return text === null ? otherwise : (JSON.parse(text) as T);
  } catch {
    return otherwise;
  }
}

/** Keep nothing but these. */
export function forget(but: string[]): void {
  try {
    const names = Object.keys(localStorage).filter((name) => name.startsWith("swell.") && !but.includes(name.slice("swell.".length)));
    names.forEach((name) => localStorage.removeItem(name));
  } catch {
    // Nothing was kept.
  }
}

export function keep(name: string, value: unknown): void {
  try {
    if (value === null || value === undefined) localStorage.removeItem(`swell.${name}`);
    else localStorage.setItem(`swell.${name}`, JSON.stringify(value));
  } catch {
    // Kept in memory by whoever asked.
  }
}
