// The page of the app `dream`: words and a style become a wallpaper in the screen's own size.
import { ask, follow, h, saved, standing, submit, tasks } from "./shared/swell.js";

const MODEL = "dream/wallpaper";
const MOST_PX = 4096;
/** Prompts that the built-in model draws well: words, style, picture in `ideas/`. */
const IDEAS = [
  ["a peacock in the snow", "starlight", "peacock-in-the-snow"],
  ["a dragon at night", "noto", "dragon-at-night"],
  ["a bear in the snow", "pastel", "bear-in-the-snow"],
  ["a rocket at night", "pastel", "rocket-at-night"],
  ["a parrot in the snow", "crimson-sky", "parrot-in-the-snow"],
  ["a tiger in the snow", "autumn", "tiger-in-the-snow"],
];
const $ = (id) => document.getElementById(id);
const input = (task) => task.input ?? {};

function tell(words = "") {
  $("wrong").textContent = words;
}

// ---- the screen

const scale = Math.min(devicePixelRatio || 1, MOST_PX / Math.max(screen.width, screen.height));
const SCREENS = [
  ["This screen", Math.round(screen.width * scale), Math.round(screen.height * scale)],
  ["A phone", 1170, 2532],
  ["A tablet", 1668, 2388],
  ["A desktop", 2560, 1440],
];
$("screen").append(...SCREENS.map(([name, width, height]) =>
  h("option", { value: `${width}x${height}` }, `${name}, ${width} × ${height}`)));

// ---- styles and ideas

let styles = [];
const styleOf = (name) => styles.find((style) => style.name === name);

async function showStyles() {
  styles = (await ask("GET", "styles")).styles;
  const first = styleOf(IDEAS[0][1]) ?? styles[0];
  $("styles").append(...styles.map((style) => h("label", { class: "choice" },
    h("input", { type: "radio", name: "style", value: style.name, checked: style === first }),
    style.picture ? h("img", { src: style.picture, alt: "", loading: "lazy" }) : null,
    h("span", {}, style.label))));
}

function showIdeas() {
  $("newest").replaceChildren(h("div", { class: "ideas" }, ...IDEAS.map(([prompt, style, picture]) =>
    h("button", { class: "idea", type: "button", onclick: () => fill(prompt, style) },
      h("img", { src: `ideas/${picture}.webp`, alt: "" }), h("span", {}, prompt)))));
}

/** Put an idea into the form and dream it. */
function fill(prompt, style) {
  $("prompt").value = prompt;
  const box = document.querySelector(`[name=style][value="${style}"]`);
  if (box) {
    box.checked = true;
    box.parentElement.scrollIntoView({ block: "nearest", inline: "center" });
  }
  document.querySelector("form").requestSubmit();
}

$("surprise").addEventListener("click", () => {
  const others = IDEAS.filter(([prompt]) => prompt !== $("prompt").value);
  const [prompt] = others[Math.floor(Math.random() * others.length)];
  fill(prompt, styles[Math.floor(Math.random() * styles.length)]?.name);
});

// ---- the account

async function showAccount() {
  const account = await ask("GET", "account");
  $("account").textContent = account.plan === "paid"
    ? `${Math.max(0, Math.floor(account.credits_micros / 10000))} pictures paid for, and you go first`
    : `${account.free_left_today} free pictures left today`;
}

$("buy").addEventListener("click", async () => {
  $("buy").disabled = true;
  try {
    await ask("POST", "buy", { payment: crypto.randomUUID() });
    await showAccount();
  } catch (trouble) {
    tell(trouble.message);
  } finally {
    $("buy").disabled = false;
  }
});

// ---- dreams

$("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  document.querySelector("form").requestSubmit();
});

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const prompt = $("prompt").value.trim();
  if (!prompt) {
    $("prompt").focus();
    return tell("Say what you see: a word is enough.");
  }
  const [width, height] = $("screen").value.split("x").map(Number);
  const chosen = styleOf(document.querySelector("[name=style]:checked")?.value);
  await dream({ prompt, width, height, ...chosen?.input });
});

async function dream(asked, seed) {
  tell();
  document.activeElement?.blur();
  try {
    show(await submit({ model: MODEL, input: asked, seed }));
    scrollTo({ top: 0, behavior: "smooth" });
  } catch (trouble) {
    tell(trouble.code === "quota_exceeded" ? "You have used today's free pictures. Come back tomorrow, or buy some." : trouble.message);
  }
}

/** Put a dream on top, and the one that was there first among the earlier ones. */
function enlarge(card) {
  const before = $("newest").querySelector("li");
  if (before === card) return;
  card.remove();
  if (before) $("dreams").prepend(before);
  $("newest").replaceChildren(h("ul", { class: "results" }, card));
}

async function show(task) {
  const { prompt, width = 1, height = 1, large } = input(task);
  const frame = h("div", { class: "frame", style: `aspect-ratio: ${width} / ${height}`, onclick: () => {
    enlarge(card);
    scrollTo({ top: 0, behavior: "smooth" });
  } });
  const bar = h("progress", { max: 1, value: 0, "aria-label": `Progress: ${prompt}` });
  const said = h("small", { role: "status" });
  const card = h("li", { style: `--wide: calc(66svh * ${width / height})` }, frame, h("span", {}, prompt ?? ""), said, bar);
  enlarge(card);
  const put = (src, kind) => frame.replaceChildren(h("img", { src, class: kind, alt: `${large ? "Wallpaper" : "Dream"}: ${prompt}` }));
  const ended = await follow(task.id, {
    queued: (data) => (said.textContent = standing(data)),
    started: (data) => (said.textContent = data.stage ? `${data.stage}…` : standing(data)),
    progress: (data) => (bar.value = data.fraction),
    preview: (data) => put(data.image, "preview"),
  });
  bar.remove();
  showAccount();
  // Swell returns or spends the held credits a moment after the end.
  setTimeout(showAccount, 2000);
  if (ended.state !== "succeeded") {
    frame.remove();
    said.className = "bad";
    said.textContent = ended.error?.detail ?? `The dream was ${ended.state}.`;
    return;
  }
  const [file] = ended.artifacts;
  put(file.url, "whole");
  said.textContent = `${file.width} × ${file.height}`;
  card.append(h("div", { class: "row" }, large
    ? saved(ended, 0, "Save the wallpaper")
    : h("button", { onclick: () => dream({ ...input(ended), large: true }, ended.seed) }, "As wallpaper")));
}

try {
  await Promise.all([showStyles(), showAccount()]);
  showIdeas();
  for (const task of (await tasks()).reverse()) {
    if (!task.data_removed?.length) show(task);
  }
} catch (trouble) {
  tell(trouble.message);
}
