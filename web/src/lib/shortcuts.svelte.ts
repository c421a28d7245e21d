// The keyboard: every shortcut of the app in one table, which the help sheet shows too.
import type { Word } from "./i18n/index.svelte";

interface Shortcut {
  /** As `KeyboardEvent.key`, with `Mod+` for Ctrl or ⌘; several do the same. */
  keys: string[];
  word: Word;
  /** Works while something is being typed, too. */
  isGlobal?: boolean;
}

export const SHORTCUTS = {
  help: { keys: ["?"], word: "keys.help" },
  send: { keys: ["Mod+Enter"], word: "keys.send", isGlobal: true },
  prompt: { keys: ["/"], word: "keys.prompt" },
  next: { keys: ["ArrowRight", "j"], word: "keys.next" },
  previous: { keys: ["ArrowLeft", "k"], word: "keys.previous" },
  favourite: { keys: ["f"], word: "keys.favourite" },
  remove: { keys: ["Delete"], word: "keys.remove" },
  jobs: { keys: ["g"], word: "keys.jobs" },
  close: { keys: ["Escape"], word: "keys.close" },
} as const satisfies Record<string, Shortcut>;

export type ShortcutName = keyof typeof SHORTCUTS;

const handlers: Partial<Record<ShortcutName, (() => void)[]>> = {};

/** Do this for these shortcuts while the component is there; the newest comes first. Call it in an effect. */
export function onShortcuts(acts: Partial<Record<ShortcutName, () => void>>): () => void {
  const added = Object.entries(acts) as [ShortcutName, () => void][];
  for (const [name, act] of added) (handlers[name] ??= []).push(act);
  return () => {
    for (const [name, act] of added) handlers[name] = handlers[name]?.filter((each) => each !== act);
  };
}

/** Listen to the keyboard; call it once. */
export function listen(event: KeyboardEvent): void {
  if (event.defaultPrevented || event.altKey || event.isComposing) return;
  const isTyping = event.target instanceof Element && event.target.closest("input:not([type=radio],[type=checkbox],[type=range]), textarea, select, [contenteditable]");
  const isWithin = event.target instanceof Element && event.target.closest("[role=tablist], [role=menu], input[type=radio], input[type=range]");
  const pressed = (event.ctrlKey || event.metaKey ? "Mod+" : "") + event.key;
  for (const [name, shortcut] of Object.entries(SHORTCUTS) as [ShortcutName, Shortcut][]) {
    if (!shortcut.keys.includes(pressed) || (isTyping && !shortcut.isGlobal)) continue;
    // Arrows belong to what is being moved through.
    if (isWithin && event.key.startsWith("Arrow")) continue;
    const act = handlers[name]?.at(-1);
    if (act) {
      event.preventDefault();
      act();
      return;
    }
  }
}

/** A key as it is written on keyboards. */
export function keyName(key: string): string {
  const isMac = /Mac|iPhone|iPad/.test(navigator.userAgent);
  const names: Record<string, string> = { ArrowRight: "→", ArrowLeft: "←", Escape: "Esc", Delete: "Del" };
  return key
    .split("+")
    .map((part) => (part === "Mod" ? (isMac ? "⌘" : "Ctrl") : (names[part] ?? part)))
    .join(" + ");
}
