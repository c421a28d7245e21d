// What lies over a page and is left by Back, be it a button, a key or a gesture, in place of the page.

/** Whether the browser is on its way back from a layer: it tells when it has arrived. */
let isLeaving = false;

/** Lay something over the page; `onback` is told when somebody goes back. Returns how to take it away. */
export function layOver(onback: () => void): () => void {
  const control = new AbortController();
  const { signal } = control;
  let isIn = false;

  function enter(): void {
    isIn = true;
    history.pushState({ isLayer: true }, "");
    addEventListener("popstate", onback, { signal });
  }

  if (isLeaving) addEventListener("popstate", enter, { once: true, signal });
  else enter();
  return () => {
    control.abort();
    // Whoever went back, or on to another page, is not there any more.
    if (!isIn || !(history.state as { isLayer?: boolean } | null)?.isLayer) return;
    isLeaving = true;
    addEventListener("popstate", () => (isLeaving = false), { once: true });
    history.back();
  };
}
