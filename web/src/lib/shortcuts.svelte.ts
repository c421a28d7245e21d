// The keyboard: every shortcut of the app in one table, which the help sheet shows too.
import { untrack } from "svelte";
import type { Word } from "./i18n/index.svelte";
import { layers } from "./layers.svelte";
import { keep, kept } from "./stored";

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

interface Handler {
  act: () => void;
  /** Id of the dialog that was on top when it came: it acts there alone. */
  layer: string;
}

const handlers: Partial<Record<ShortcutName, Handler[]>> = {};

class Keyboard {
  /** Whether letters and signs act without Ctrl or ⌘: whoever speaks or strays on keys may not want that. */
  hasLetters = $state(kept("letters", true));

  setLetters(on: boolean): void {
    this.hasLetters = on;
    keep("letters", on ? null : false);
  }
}

export const keyboard = new Keyboard();

/**
 * Do this for these shortcuts while the component is there; the newest comes first. Call it in an effect. What
 * comes with a dialog acts while that is on top, and what a page does while no dialog is open.
 */
export function onShortcuts(acts: Partial<Record<ShortcutName, () => void>>): () => void {
  const added = Object.entries(acts) as [ShortcutName, () => void][];
  const layer = untrack(() => layers.top);
  for (const [name, act] of added) (handlers[name] ??= []).push({ act, layer });
  return () => {
    for (const [name, act] of added) handlers[name] = handlers[name]?.filter((each) => each.act !== act);
  };
}

/** Listen to the keyboard; call it once. */
export function listen(event: KeyboardEvent): void {
  if (event.defaultPrevented || event.altKey || event.isComposing) return;
  const isTyping = event.target instanceof Element && event.target.closest("input:not([type=radio],[type=checkbox],[type=range]), textarea, select, [contenteditable]");
  const isWithin = event.target instanceof Element && event.target.closest("[role=tablist], [role=menu], input[type=radio], input[type=range]");
  const pressed = (event.ctrlKey || event.metaKey ? "Mod+" : "") + event.key;
  if (event.key.length === 1 && pressed === event.key && !keyboard.hasLetters) return;
  for (const [name, shortcut] of Object.entries(SHORTCUTS) as [ShortcutName, Shortcut][]) {
    if (!shortcut.keys.includes(pressed) || (isTyping && !shortcut.isGlobal)) continue;
    // Arrows belong to what is being moved through.
    if (isWithin && event.key.startsWith("Arrow")) continue;
    const found = handlers[name]?.findLast((each) => each.layer === layers.top);
    if (found) {
      event.preventDefault();
      found.act();
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
