// Light, dark, or as the system says.
import { keep, kept } from "./stored";

export const MODES = ["system", "light", "dark"] as const;
export type Mode = (typeof MODES)[number];

class Theme {
  mode = $state<Mode>(kept<Mode>("theme", "system"));

  set(mode: Mode): void {
    this.mode = mode;
    keep("theme", mode === "system" ? null : mode);
    this.apply();
  }

  apply(): void {
    if (this.mode === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = this.mode;
  }
}

export const theme = new Theme();
theme.apply();
