// The keyboard of a phone, which takes a large part of the window while something is typed.

/** A keyboard takes more than this; bars of the browser that come and go take less. */
const LEAST_PX = 140;

/**
 * Mark the page while a keyboard is open: `data-typing`, and `--covered` for what it lies over. Where the window
 * becomes smaller instead (`interactive-widget` in index.html), nothing is covered.
 */
export function watchTyping(): () => void {
  const view = window.visualViewport;
  if (!view) return () => {};
  const root = document.documentElement;
  let width = 0;
  let tallest = 0;
  let covered = 0;
  let taken = 0;

  function look(): void {
    if (!view) return;
    if (innerWidth !== width) {
      // Turned round: what was tallest before says nothing now.
      width = innerWidth;
      tallest = 0;
    }
    tallest = Math.max(tallest, innerHeight);
    // Whoever looks closer covers nothing.
    covered = view.scale > 1.01 ? 0 : Math.max(0, innerHeight - view.height - view.offsetTop);
    taken = tallest - innerHeight + covered;
    mark();
  }

  /** Also where the focus moves: nothing is measured then, as that would lay out the page. */
  function mark(): void {
    const isTyping = document.activeElement instanceof HTMLElement && document.activeElement.matches("textarea, input, [contenteditable]");
    const isOpen = isTyping && taken > LEAST_PX;
    root.toggleAttribute("data-typing", isOpen);
    root.style.setProperty("--covered", `${isOpen ? Math.round(covered) : 0}px`);
  }

  look();
  const events = [
    [view, "resize", look],
    [view, "scroll", look],
    [document, "focusin", mark],
    [document, "focusout", mark],
  ] as const;
  for (const [where, name, act] of events) where.addEventListener(name, act);
  return () => {
    for (const [where, name, act] of events) where.removeEventListener(name, act);
  };
}
