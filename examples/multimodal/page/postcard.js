// The page of the app `multimodal`: a form made of the model's own schema, and every kind of output.
import { ask, follow, h, outputOf, reveal, saved, standing, submit, tasks, upload } from "./shared/swell.js";

const MODEL = "multimodal/card";
const RATE_HZ = 16000;
const LONGEST_S = 20;
const $ = (id) => document.getElementById(id);

function tell(words = "") {
  $("wrong").textContent = words;
}

// ---- the form

/** A field's schema without the wrapping that lets it be null. */
const plain = (schema) => ({ ...(schema.anyOf ?? schema.oneOf)?.find((each) => each.type !== "null"), ...schema });
/** Field name → a function that returns its value, a promise of the value, or undefined. */
const values = new Map();

function field(name, told) {
  const schema = plain(told);
  const id = `field-${name}`;
  let control;
  if (schema["x-file"] === "audio") {
    control = voice(id, name, schema.title ?? name);
  } else if (schema["x-file"]) {
    const [button, chosen] = fileButton(id, "image/*", schema.title ?? name);
    values.set(name, () => chosen.files[0] && upload(chosen.files[0]));
    control = button;
  } else if (schema.enum) {
    const chosen = h("select", { id }, ...schema.enum.map((each) => h("option", { value: each, selected: each === schema.default }, each.replaceAll("-", " "))));
    values.set(name, () => chosen.value);
    control = chosen;
  } else {
    const written = h("textarea", { id, rows: 2, maxlength: schema.maxLength });
    values.set(name, () => written.value.trim() || undefined);
    control = written;
  }
  return h("div", { class: "field" }, h("label", { for: id }, schema.title ?? name), control);
}

/** A button that chooses a file and then shows its name. */
function fileButton(id, accept, label) {
  const chosen = h("input", { id, type: "file", accept, "aria-label": label });
  const text = h("span", {}, "Choose a file");
  chosen.addEventListener("change", () => (text.textContent = chosen.files[0]?.name ?? "Choose a file"));
  return [h("span", { class: "plain button file" }, text, chosen), chosen];
}

/** A sound file or a recording from the microphone, sent as WAV at 16 kHz. */
function voice(id, name, label) {
  const [file, chosen] = fileButton(id, "audio/*", label);
  const button = h("button", { type: "button", class: "plain" }, "Record");
  let recorded, recorder;
  chosen.addEventListener("change", () => (recorded = undefined));
  button.addEventListener("click", async () => {
    if (recorder) return recorder.stop();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      const parts = [];
      recorder = new MediaRecorder(stream);
      recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
      recorder.addEventListener("stop", () => {
        stream.getTracks().forEach((track) => track.stop());
        recorded = new Blob(parts);
        recorder = undefined;
        chosen.value = "";
        button.textContent = "Record again";
      });
      recorder.start();
      setTimeout(() => recorder?.stop(), LONGEST_S * 1000);
      button.textContent = "Stop";
    } catch {
      tell("The browser found no microphone, or may not use it. Choose a file instead.");
    }
  });
  values.set(name, async () => {
    const sound = chosen.files[0] ?? recorded;
    return sound && upload(await asWav(sound));
  });
  return h("div", { class: "row" }, file, button);
}

/** Return a sound as WAV: 16 bits, one channel, 16 kHz. */
async function asWav(file) {
  const decoded = await new OfflineAudioContext(1, 1, RATE_HZ).decodeAudioData(await file.arrayBuffer()).catch(() => {
    throw new Error("Your browser cannot read this file as sound.");
  });
  const length = Math.min(decoded.length, LONGEST_S * RATE_HZ);
  const context = new OfflineAudioContext(1, length, RATE_HZ);
  const source = context.createBufferSource();
  source.buffer = decoded;
  source.connect(context.destination);
  source.start();
  const samples = (await context.startRendering()).getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * length));
  const word = (at, text) => [...text].forEach((letter, n) => view.setUint8(at + n, letter.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * length, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE_HZ, true); view.setUint32(28, 2 * RATE_HZ, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true); word(36, "data"); view.setUint32(40, 2 * length, true);
  samples.forEach((value, n) => view.setInt16(44 + 2 * n, Math.max(-1, Math.min(1, value)) * 32767, true));
  return new Blob([view], { type: "audio/wav" });
}

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  tell();
  $("make").disabled = true;
  try {
    const input = {};
    for (const [name, value] of values) {
      const given = await value();
      if (given !== undefined) input[name] = given;
    }
    if (!input.text && !input.sound) throw new Error("Write some words, or record them.");
    show(await submit({ model: MODEL, input }), true);
  } catch (trouble) {
    tell(trouble.message);
  } finally {
    $("make").disabled = false;
  }
});

$("sample").addEventListener("click", () => {
  const words = document.querySelector("#fields textarea");
  words.value = "a red fox in the snow";
  $("make").click();
});

// ---- results

/** Show one value of an output: a file by its media type, everything else as text. */
function shown(task, name, value) {
  const index = task.artifacts.findIndex((file) => file.url === value);
  if (index < 0) return h("p", {}, String(value));
  const { content_type: kind, url } = task.artifacts[index];
  if (kind.startsWith("image/")) return h("img", { src: url, alt: name });
  if (kind.startsWith("audio/")) return h("audio", { src: url, controls: true, "aria-label": name });
  return h("p", {}, saved(task, index, `Save the ${name}`));
}

async function show(task, isNew = false) {
  const said = h("small", { role: "status" });
  const bar = h("progress", { max: 1, "aria-label": "Progress" });
  const card = h("li", { class: "card" }, said, bar);
  $("cards").prepend(card);
  if (isNew) reveal(card);
  const ended = await follow(task.id, {
    queued: (data) => (said.textContent = standing(data)),
    started: (data) => (said.textContent = `${data.stage ?? "Being made"}…`),
    progress: (data) => (bar.value = data.fraction),
  });
  try {
    const output = outputOf(ended);
    const heard = ended.stages?.find((stage) => stage.name === "listen")?.output?.by;
    card.replaceChildren(...Object.entries(output).map(([name, value]) => shown(ended, name, value)),
      h("small", {}, heard === "heard" ? "The transcript may be wrong." : "Spoken and painted by machines."));
    // A picture has its size only now, so the card may have grown out of the screen.
    if (isNew) card.querySelector("img")?.decode().finally(() => reveal(card));
  } catch (trouble) {
    card.replaceChildren(h("p", { class: "bad" }, trouble.message));
  }
}

try {
  const card = await ask("GET", `models/${MODEL}`);
  $("fields").append(...Object.entries(card.input_schema.properties).map(([name, schema]) => field(name, schema)));
  for (const task of (await tasks()).reverse()) {
    if (!task.data_removed?.length) show(task);
  }
} catch (trouble) {
  tell(trouble.message);
}
