// Short notices that go by themselves, and words for screen readers alone.

interface Notice {
  id: number;
  text: string;
  kind: "good" | "bad";
  action?: { label: string; act: () => void };
}

const SHOWN_MS = 6000;

class Notices {
  shown = $state<Notice[]>([]);
  /** What was told last, and when. */
  said = $state.raw({ text: "", at: -Infinity });
  private next = 0;

  add(text: string, kind: Notice["kind"], action?: Notice["action"], isLasting = false): void {
    const id = this.next++;
    this.shown = [...this.shown.filter((each) => each.text !== text).slice(-2), { id, text, kind, action }];
    this.tell(text);
    // What offers something stays until it was seen to.
    if (!isLasting) setTimeout(() => this.drop(id), action ? 2 * SHOWN_MS : SHOWN_MS);
  }

  /** Tell screen readers. */
  tell(text: string): void {
    this.said = { text, at: performance.now() };
  }

  drop(id: number): void {
    this.shown = this.shown.filter((each) => each.id !== id);
  }
}

export const notices = new Notices();

/** Show a notice. */
export function say(text: string, kind: Notice["kind"] = "good", action?: Notice["action"]): void {
  notices.add(text, kind, action);
}

/** Tell screen readers alone, such as that a quarter is done. */
export function announce(text: string): void {
  notices.tell(text);
}
