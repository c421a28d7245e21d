// What is asked for again and again while somebody looks at it.

export class Polled<T> {
  value = $state.raw<T | null>(null);
  /** Of the last try; what was known before stays. */
  error = $state.raw<unknown>(null);
  private timer: ReturnType<typeof setTimeout> | undefined;
  private stop: AbortController | null = null;
  private watchers = 0;

  constructor(
    private readonly ask: (signal: AbortSignal) => Promise<T>,
    private readonly everyMs = 3000,
    /** Called with each new value. */
    private readonly onvalue: (value: T) => void = () => {},
  ) {}

  /** Ask now, and then again and again; for an `$effect`. Nothing is asked where nobody sees it. */
  watch(): () => void {
    this.watchers++;
    const seen = (): void => {
      if (!document.hidden) void this.refresh();
    };
    document.addEventListener("visibilitychange", seen);
    void this.refresh();
    return () => {
      this.watchers--;
      document.removeEventListener("visibilitychange", seen);
      clearTimeout(this.timer);
      this.stop?.abort();
    };
  }

  /** Ask at once. */
  async refresh(): Promise<void> {
    clearTimeout(this.timer);
    this.stop?.abort();
    const stop = (this.stop = new AbortController());
    try {
      const value = await this.ask(stop.signal);
      if (stop.signal.aborted) return;
      this.value = value;
      this.error = null;
      this.onvalue(value);
    } catch (error) {
      if (stop.signal.aborted) return;
      this.error = error;
    }
    if (!document.hidden && this.watchers) this.timer = setTimeout(() => void this.refresh(), this.everyMs);
  }
}
