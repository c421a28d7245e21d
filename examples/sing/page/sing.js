// The page of the app `sing`: a face, and a sound or words, become a short video.
import { follow, h, remove, reveal, saved, standing, submit, tasks, upload } from "./shared/swell.js";

const LONGEST_S = 20;
const $ = (id) => document.getElementById(id);
let face = null;
let recorded = null;

function tell(words = "") {
  $("wrong").textContent = words;
}

function choose(file) {
  face = file;
  $("chosen").src = URL.createObjectURL(file);
  $("chosen").hidden = false;
  $("empty").hidden = true;
  tell();
}

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) choose(file);
});
$("sample").addEventListener("click", async () => {
  choose(await (await fetch("shared/sample-face.webp")).blob());
  if (!$("text").value && !recorded) $("text").value = "Hello, I am a picture.";
});

$("sound").addEventListener("change", () => {
  recorded = null;
  $("heard").textContent = $("sound").files[0]?.name ?? "";
  $("record").textContent = "Record";
});

let recorder = null;
$("record").addEventListener("click", async () => {
  if (recorder) return recorder.stop();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", () => {
      stream.getTracks().forEach((track) => track.stop());
      recorded = new Blob(parts, { type: recorder.mimeType });
      recorder = null;
      $("sound").value = "";
      $("record").textContent = "Record again";
      $("heard").textContent = "Your recording";
    });
    recorder.start();
    setTimeout(() => recorder?.stop(), LONGEST_S * 1000);
    $("record").textContent = "Stop";
    tell();
  } catch {
    tell("The browser found no microphone, or may not use it. Choose a file instead.");
  }
});

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const sound = $("sound").files[0] ?? recorded;
  const text = $("text").value.trim();
  if (!face) return tell("Choose a picture of a face first.");
  if (!sound && !text) return tell("Write some words, or choose or record a sound.");
  tell();
  $("make").disabled = true;
  try {
    const heard = text ? { text } : { sound: await upload(sound) };
    show(await submit({ model: "sing/clip", input: { image: await upload(face), ...heard } }), true);
  } catch (trouble) {
    tell(trouble.message);
  } finally {
    $("make").disabled = false;
  }
});

async function show(task, isNew = false) {
  const frame = h("div", {});
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Progress" });
  const said = h("small", { role: "status" });
  const card = h("li", {}, frame, said, bar);
  $("clips").prepend(card);
  if (isNew) reveal(card);
  const ended = await follow(task.id, {
    queued: (data) => (said.textContent = standing(data)),
    started: (data) => (said.textContent = `${data.stage ?? "Being made"}…`),
    progress: (data) => (bar.value = data.fraction),
    preview: (data) => frame.replaceChildren(h("img", { src: data.image, alt: "So far" })),
  });
  bar.remove();
  if (ended.state !== "succeeded") {
    frame.replaceChildren();
    said.className = "bad";
    said.textContent = ended.error?.detail ?? `The video was ${ended.state}.`;
    return;
  }
  // The video has its size only now, so the card may have grown out of the screen.
  const onloadedmetadata = () => isNew && reveal(card);
  frame.replaceChildren(h("video", { src: ended.artifacts[0].url, controls: true, playsinline: true, "aria-label": "The video", onloadedmetadata }));
  said.textContent = "Made by a machine. Say so where you show it.";
  card.append(h("span", { class: "row" }, saved(ended, 0),
    h("button", { class: "plain", onclick: () => remove(ended.id).then(() => card.remove()) }, "Delete")));
}

for (const task of (await tasks()).reverse()) {
  if (!task.data_removed?.length) show(task);
}
