// Amounts as people type them: "0,5", "10 000", "12.50".
import { t, type Word } from "../../lib/i18n/index.svelte";

export interface Amount {
  /** Null for nothing typed, and for what is no amount. */
  value: number | null;
  /** Why it is none, to stand beside its field. */
  wrong?: Word;
}

/** A number, of which the part behind a point or comma is read too. Spaces stand between thousands. */
export function amountIn(text: string): Amount {
  const typed = withoutSpaces(text);
  if (!typed) return { value: null };
  // Some mean a thousand by "1.000", others one: nobody's limit is guessed.
  if (/^-?[1-9]\d{0,2}([.,]\d{3})+$/.test(typed)) return { value: null, wrong: "amount.unclear" };
  return /^-?\d+([.,]\d+)?$/.test(typed) ? { value: Number(typed.replace(",", ".")) } : { value: null, wrong: "amount.wrong" };
}

/** The same of what is counted: no half of it. */
export function countIn(text: string): Amount {
  const typed = withoutSpaces(text);
  if (!typed) return { value: null };
  return /^\d+$/.test(typed) ? { value: Number(typed) } : { value: null, wrong: "amount.whole" };
}

/** The same in dollars, told in millionths of them. */
export function microsIn(text: string): Amount {
  const { value, wrong } = amountIn(text);
  return { value: value === null ? null : Math.round(value * 1e6), wrong };
}

/** Dollars as `microsIn` reads them again; empty for none. */
export function dollarsOf(micros: number | null | undefined): string {
  if (micros === null || micros === undefined) return "";
  const [whole = "0", rest = ""] = (micros / 1e6).toFixed(6).split(".");
  const cents = rest.replace(/0+$/, "");
  // Three digits behind a point could be thousands.
  return cents ? `${whole}.${cents.length === 3 ? `${cents}0` : cents.padEnd(2, "0")}` : whole;
}

/** Spaces between thousands are left out; any other stays and is wrong. */
function withoutSpaces(text: string): string {
  const typed = text.trim();
  return /^-?\d{1,3}(\s\d{3})+([.,]\d+)?$/.test(typed) ? typed.replace(/\s/g, "") : typed;
}

/** What to say beside each field that holds no amount, by the field's path as problems name it. */
export function wrongIn(amounts: Record<string, Amount>): Record<string, string> {
  return Object.fromEntries(Object.entries(amounts).flatMap(([name, { wrong }]) => (wrong ? [[`/${name}`, t(wrong)]] : [])));
}

export function valuesOf<Name extends string>(amounts: Record<Name, Amount>): Record<Name, number | null> {
  const values = Object.entries<Amount>(amounts).map(([name, { value }]) => [name, value]);
  return Object.fromEntries(values) as Record<Name, number | null>;
}
