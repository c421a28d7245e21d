// A list that comes page by page, and whose beginning is looked at again and again.

interface Page<T> {
  rows: T[];
  cursor: string | null;
}

export class Pages<T extends { id: string }> {
  rows = $state.raw<T[]>([]);
  cursor = $state<string | null>(null);
  error = $state.raw<unknown>(null);
  isLoading = $state(true);
  private turn = 0;

  constructor(private readonly ask: (cursor: string | undefined) => Promise<Page<T>>) {}

  /** Begin anew. */
  async load(): Promise<void> {
    this.rows = [];
    this.isLoading = true;
    await this.take(undefined, (page) => page);
  }

  /** Look at the first page again; what came after it stays. */
  async renew(): Promise<void> {
    if (this.isLoading) return;
    await this.take(undefined, (page) => {
      const fresh = new Set(page.rows.map((each) => each.id));
      const last = this.rows.findLastIndex((each) => fresh.has(each.id));
      const after = this.rows.slice(last + 1);
      // Where so many are new that a page lies between, the list begins anew.
      return last < 0 || !after.length ? page : { rows: [...page.rows, ...after], cursor: this.cursor };
    });
  }

  /** Add the next page. */
  async more(): Promise<void> {
    if (!this.cursor || this.isLoading) return;
    this.isLoading = true;
    await this.take(this.cursor, (page) => ({ rows: [...this.rows, ...page.rows], cursor: page.cursor }));
  }

  private async take(cursor: string | undefined, join: (page: Page<T>) => Page<T>): Promise<void> {
    const turn = ++this.turn;
    try {
      const page = await this.ask(cursor);
      if (turn !== this.turn) return;
      ({ rows: this.rows, cursor: this.cursor } = join(page));
      this.error = null;
    } catch (error) {
      if (turn === this.turn) this.error = error;
    } finally {
      if (turn === this.turn) this.isLoading = false;
    }
  }
}
