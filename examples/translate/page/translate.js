// The page of the app `translate`: a text to try, and the calculator.
import { ask, h } from "./shared/swell.js";

const $ = (id) => document.getElementById(id);
const dollars = (amount) => `${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: amount < 1 ? 4 : 2 })} $`;
let tally = { letters: 0, repeated_letters: 0, machine_s: 0 };

$("try").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("wrong").textContent = "";
  const text = $("text").value;
  if (!text.trim()) return ($("wrong").textContent = "Write something first.");
  const button = event.submitter ?? $("try").querySelector("button");
  button.disabled = true;
  try {
    const said = await ask("POST", "translate", { q: text, source: "auto", target: "en", format: "text" });
    $("said").textContent = said.translatedText;
    const { language, confidence } = said.detectedLanguage;
    $("told").textContent = `From ${new Intl.DisplayNames("en", { type: "language" }).of(language)}; ${Math.round(confidence)} % of the words are known.`;
    await count();
  } catch (trouble) {
    $("wrong").textContent = trouble.message;
  } finally {
    button.disabled = false;
  }
});

/** Show what was measured here, and what that makes of a month. */
function sum() {
  const fresh = tally.letters - tally.repeated_letters;
  const seconds = fresh ? (tally.machine_s / fresh) * 1e6 : null;
  const repeats = tally.letters ? tally.repeated_letters / tally.letters : 0;
  const letters = Number($("month").value);
  const million = seconds === null ? null : (seconds / 3600) * Number($("hour").value);
  const told = (value, say) => (value === null ? "not measured yet" : say(value));
  const rows = [
    ["Translated here in 30 days", `${tally.letters.toLocaleString("en")} letters`],
    ["Of these a repeat, which took nothing", `${Math.round(100 * repeats)} %`],
    ["Machine time for a million letters", told(seconds, (s) => `${s.toLocaleString("en", { maximumFractionDigits: 1 })} s`)],
    ["That is, for a million letters", told(million, dollars)],
    ["A month at the API", dollars(letters * Number($("price").value))],
    ["A month here, of machines that are full", told(million, (m) => dollars(letters * (1 - repeats) * m))],
  ];
  $("sums").replaceChildren(...rows.map(([name, value]) => h("tr", {}, h("td", {}, name), h("td", {}, value))));
}

async function count() {
  tally = await ask("GET", "savings");
  sum();
}

for (const field of ["price", "month", "hour"]) $(field).addEventListener("input", sum);
sum();
await count();
