// Words of the app. English is part of it; another language is fetched when it is chosen.
import { Problem } from "../api/client";
import { keep, kept } from "../stored";
import en from "./en.json";

export const LANGUAGES = { en: "English", es: "Español", fr: "Français", pt: "Português" } as const;
export type Language = keyof typeof LANGUAGES;
export type Word = keyof typeof en;
type Plural = { one: string; many?: string; other: string };
type Words = Partial<Record<Word, string | Plural>>;

const others: Record<Exclude<Language, "en">, () => Promise<{ default: Words }>> = {
  es: () => import("./es.json"),
  fr: () => import("./fr.json"),
  pt: () => import("./pt.json"),
};

class Speech {
  language = $state<Language>("en");
  words = $state.raw<Words>(en);

  async speak(language: Language): Promise<void> {
    this.words = language === "en" ? en : (await others[language]()).default;
    this.language = language;
    document.documentElement.lang = language;
  }
}

export const speech = new Speech();

/** How dates are written: as the browser does it, if it is one of the language's countries that it names. */
function country(): string {
  return navigator.languages.find((each) => each.slice(0, 2) === speech.language) ?? speech.language;
}

/** Speak the language that was chosen before, or the browser's first that the app knows. */
export async function startLanguage(): Promise<void> {
  const liked = [kept<string>("language", ""), ...navigator.languages.map((each) => each.slice(0, 2))];
  const found = liked.find((each): each is Language => each in LANGUAGES) ?? "en";
  // Where its words cannot be fetched, English will do.
  await speech.speak(found).catch(() => speech.speak("en"));
}

/** Throws a `Problem` where its words cannot be fetched. */
export async function chooseLanguage(language: Language): Promise<void> {
  await speech.speak(language).catch(() => Promise.reject(new Problem(0, "unreachable", "")));
  keep("language", language);
}

/** Say a word of the table; `{name}` in it stands for a value, and `n` chooses a plural. */
export function t(word: Word, values: Record<string, string | number> = {}): string {
  const found = speech.words[word] ?? en[word];
  const text = typeof found === "string" ? found : plural(found as Plural, Number(values["n"]));
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? number(value) : value;
  });
}

function plural(forms: Plural, n: number): string {
  const kind = new Intl.PluralRules(speech.language).select(n);
  return (forms as unknown as Record<string, string | undefined>)[kind] ?? forms.other;
}

/** Say which languages there are, by their codes: English, Spanish or French. */
export function languageNames(codes: readonly string[]): string {
  const names = new Intl.DisplayNames(speech.language, { type: "language" });
  const list = new Intl.ListFormat(speech.language, { type: "disjunction" });
  return list.format(codes.map((code) => names.of(code) ?? code));
}

export function number(value: number, options: Intl.NumberFormatOptions = {}): string {
  return new Intl.NumberFormat(speech.language, { maximumFractionDigits: 1, ...options }).format(value);
}

export function percent(fraction: number): string {
  return number(fraction, { style: "percent", maximumFractionDigits: 0 });
}

/** Millionths of a dollar as money; small sums keep their digits. */
export function money(micros: number): string {
  const dollars = micros / 1e6;
  const digits = dollars !== 0 && Math.abs(dollars) < 0.1 ? 4 : 2;
  return number(dollars, { style: "currency", currency: "USD", maximumFractionDigits: digits });
}

export function bytes(size: number): string {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"] as const;
  const at = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(size, 1)) / 3));
  return number(size / 1000 ** at, { style: "unit", unit: units[at], unitDisplay: "short" });
}

/** Seconds as people say them: 8 s, 3 min, 2 h. These signs are those of all languages here. */
export function duration(seconds: number): string {
  const [value, unit] =
    seconds < 90 ? ([seconds, "s"] as const) : seconds < 5400 ? ([seconds / 60, "min"] as const) : ([seconds / 3600, "h"] as const);
  const isShort = seconds < 1;
  const shown = number(isShort ? Math.max(0.1, seconds) : value, { maximumFractionDigits: isShort ? 1 : 0 });
  return `${shown}\u00a0${unit}`;
}

export function moment(at: string | Date, options: Intl.DateTimeFormatOptions = {}): string {
  const shown = { dateStyle: "medium", timeStyle: "short", ...options } as const;
  return new Intl.DateTimeFormat(country(), shown).format(new Date(at));
}

/** How long ago, or in how long: 5 min. ago, on one line. */
export function ago(at: string | Date, now = Date.now()): string {
  const seconds = (new Date(at).getTime() - now) / 1000;
  const steps: [Intl.RelativeTimeFormatUnit, number][] = [
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
    ["second", 1],
  ];
  const [unit, length] = steps.find(([, each]) => Math.abs(seconds) >= each) ?? ["second", 1];
  const format = new Intl.RelativeTimeFormat(speech.language, { numeric: "auto", style: "short" });
  return format.format(Math.round(seconds / length), unit).replaceAll(" ", "\u00a0");
}

/** A day as people call it: Today, Yesterday, or Monday, 4 May. */
export function dayName(at: string | Date, now = new Date()): string {
  const day = new Date(at);
  const midnight = (of: Date): number => new Date(of.getFullYear(), of.getMonth(), of.getDate()).getTime();
  const ago = Math.round((midnight(now) - midnight(day)) / 86_400_000);
  const isThisYear = day.getFullYear() === now.getFullYear();
  const name =
    ago === 0 || ago === 1
      ? new Intl.RelativeTimeFormat(speech.language, { numeric: "auto" }).format(-ago, "day")
      : new Intl.DateTimeFormat(country(), { weekday: "long", day: "numeric", month: "long", year: isThisYear ? undefined : "numeric" }).format(day);
  return name.charAt(0).toLocaleUpperCase(speech.language) + name.slice(1);
}
