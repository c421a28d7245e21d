// The page of the app `dream`: words and a style become a wallpaper in the screen's own size.
import { ask, follow, h, saved, standing, submit, tasks } from "./shared/swell.js";

const MODEL = "dream/wallpaper";
const MOST_PX = 4096;
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
  ["A desk", 2560, 1440],
];
$("screen").append(...SCREENS.map(([name, width, height]) =>
  h("option", { value: `${width}x${height}` }, `${name}, ${width} × ${height}`)));

// ---- styles

let styles = [];
async function showStyles() {
  styles = (await ask("GET", "styles")).styles;
  const choice = (value, label, picture, checked) => h("label", { class: "choice" },
    h("input", { type: "radio", name: "style", value, checked }),
    picture ? h("img", { src: picture, alt: "", loading: "lazy" }) : h("img", { src: "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>", alt: "" }),
    label);
  $("styles").append(...styles.map((style, index) => choice(style.name, style.label, style.picture, index === 3)));
}

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

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const prompt = $("prompt").value.trim();
  if (!prompt) return tell("Say what you see: a word is enough.");
  const [width, height] = $("screen").value.split("x").map(Number);
  const chosen = styles.find((style) => style.name === document.querySelector("[name=style]:checked")?.value);
  await dream({ prompt, width, height, ...chosen?.input });
});

async function dream(asked, seed) {
  tell();
  try {
    show(await submit({ model: MODEL, input: asked, seed }));
  } catch (trouble) {
    tell(trouble.code === "quota_exceeded" ? "Your free pictures of today are used up: come back tomorrow, or buy some." : trouble.message);
  }
}

async function show(task) {
  const { prompt, width = 1, height = 1, large } = input(task);
  const frame = h("div", { class: "frame", style: `aspect-ratio: ${width} / ${height}` });
  const bar = h("progress", { max: 1, value: 0, "aria-label": `Progress: ${prompt}` });
  const said = h("small", { role: "status" });
  const card = h("li", {}, frame, h("span", {}, prompt ?? ""), said, bar);
  $("dreams").prepend(card);
  const put = (src, kind) => frame.replaceChildren(h("img", { src, class: kind, alt: `${large ? "Wallpaper" : "Dream"}: ${prompt}` }));
  const ended = await follow(task.id, {
    queued: (data) => (said.textContent = standing(data)),
    started: (data) => (said.textContent = data.stage ? `${data.stage}…` : standing(data)),
    progress: (data) => (bar.value = data.fraction),
    preview: (data) => put(data.image, "preview"),
  });
  bar.remove();
  showAccount();
  // What a task held is given back, or spent, a moment after its end.
  setTimeout(showAccount, 2000);
  if (ended.state !== "succeeded") {
    frame.replaceChildren();
    said.className = "bad";
    said.textContent = ended.error?.detail ?? `It is ${ended.state}.`;
    return;
  }
  const [file] = ended.artifacts;
  put(file.url, "whole");
  said.textContent = `${file.width} × ${file.height}`;
  card.append(large
    ? h("span", {}, saved(ended, 0, "Save the wallpaper"))
    : h("button", { class: "plain", onclick: () => dream({ ...input(ended), large: true }, ended.seed) }, "As wallpaper"));
}

try {
  await Promise.all([showStyles(), showAccount()]);
  for (const task of (await tasks()).reverse()) {
    if (!task.data_removed?.length) show(task);
  }
} catch (trouble) {
  tell(trouble.message);
}
