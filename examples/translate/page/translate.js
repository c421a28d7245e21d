// The page of the app `translate`: a text to try, and the calculator.
import { ask, h } from "./shared/swell.js";

const $ = (id) => document.getElementById(id);
const dollars = (amount) => `$${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: amount < 1 ? 4 : 2 })}`;
let tally = { letters: 0, repeated_letters: 0, machine_s: 0 };

$("try").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("wrong").textContent = "";
  const text = $("text").value;
  if (!text.trim()) return ($("wrong").textContent = "Enter a text first.");
  const button = event.submitter ?? $("try").querySelector("button:not([type])");
  button.disabled = true;
  try {
    const said = await ask("POST", "translate", { q: text, source: "auto", target: "en", format: "text" });
    $("said").textContent = said.translatedText;
    const { language, confidence } = said.detectedLanguage;
    $("source").textContent = `From ${new Intl.DisplayNames("en", { type: "language" }).of(language)}. The model knows ${Math.round(confidence)} % of the words.`;
    await count();
  } catch (trouble) {
    $("wrong").textContent = trouble.message;
  } finally {
    button.disabled = false;
  }
});

/** Show the measured machine time, and the monthly cost that follows from it. */
function sum() {
  const fresh = tally.letters - tally.repeated_letters;
  const seconds = fresh ? (tally.machine_s / fresh) * 1e6 : null;
  const repeats = tally.letters ? tally.repeated_letters / tally.letters : 0;
  const letters = Number($("month").value);
  const million = seconds === null ? null : (seconds / 3600) * Number($("hour").value);
  const measured = (value, format) => (value === null ? "not measured yet" : format(value));
  const rows = [
    ["Translated here in 30 days", `${tally.letters.toLocaleString("en")} characters`],
    ["Repeated, answered from memory", `${Math.round(100 * repeats)} %`],
    ["Machine time per million characters", measured(seconds, (s) => `${s.toLocaleString("en", { maximumFractionDigits: 1 })} s`)],
    ["Cost per million characters", measured(million, dollars)],
    ["A month with the API", dollars(letters * Number($("price").value))],
    ["A month here, with fully used machines", measured(million, (m) => dollars(letters * (1 - repeats) * m))],
  ];
  $("sums").replaceChildren(...rows.map(([name, value]) => h("tr", {}, h("td", {}, name), h("td", {}, value))));
}

async function count() {
  tally = await ask("GET", "savings");
  sum();
}

for (const chip of document.querySelectorAll("#samples button")) {
  chip.addEventListener("click", () => {
    $("text").value = chip.textContent;
    $("try").requestSubmit();
  });
}

for (const field of ["price", "month", "hour"]) $(field).addEventListener("input", sum);
sum();
await count();
