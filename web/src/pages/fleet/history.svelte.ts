// Demand and supply of the last minutes, as this browser saw them; kept while the app is open.

const MOST = 600;

export interface Moment {
  at: number;
  waiting: number;
  running: number;
  slots: number;
  ready: number;
  desired: number;
}

class History {
  moments = $state.raw<Moment[]>([]);

  add(moment: Moment): void {
    this.moments = [...this.moments.slice(1 - MOST), moment];
  }
}

export const history = new History();
