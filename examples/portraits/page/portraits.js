// The page of the app `portraits`: a face, scenarios, and each portrait as soon as it is there.
import { follow, h, remove, reveal, saved, standing, submit, tasks, upload } from "./shared/swell.js";

const SCENES = {
  beach: "On the beach", city: "In the city", "city-night": "City lights", space: "In space",
  forest: "In the forest", mountains: "In the mountains", studio: "In a studio", snow: "In the snow",
};
/** Enough for a face. Redrawing the picture also removes the camera's place and time from the file. */
const MOST_PX = 1280;

const $ = (id) => document.getElementById(id);
let face = null;

for (const [name, title] of Object.entries(SCENES)) {
  const box = h("input", { type: "checkbox", name: "scene", value: name, checked: ["beach", "space", "forest"].includes(name) });
  document.querySelector(".scenes").append(h("label", { class: "chip" }, box, title));
}

function tell(words = "") {
  $("wrong").textContent = words;
}

async function take(source, width, height) {
  const scale = Math.min(1, MOST_PX / Math.max(width, height));
  const canvas = h("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  face = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  $("chosen").src = URL.createObjectURL(face);
  $("chosen").hidden = false;
  $("empty").hidden = true;
  tell();
}

async function choose(file) {
  try {
    const picture = await createImageBitmap(file);
    stopFilming();
    await take(picture, picture.width, picture.height);
  } catch {
    tell("Your browser cannot read this file as a picture.");
  }
}

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) choose(file);
});
$("sample").addEventListener("click", async () => choose(await (await fetch("shared/sample-face.webp")).blob()));

$("film").addEventListener("click", async () => {
  const camera = $("camera");
  try {
    camera.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    await camera.play();
  } catch {
    return tell("The browser found no camera, or may not use it. Choose a file instead.");
  }
  camera.hidden = $("shoot").hidden = false;
  $("empty").hidden = $("chosen").hidden = $("film").hidden = true;
  tell();
});

$("shoot").addEventListener("click", async () => {
  const camera = $("camera");
  await take(camera, camera.videoWidth, camera.videoHeight);
  stopFilming();
});

function stopFilming() {
  const camera = $("camera");
  camera.srcObject?.getTracks().forEach((track) => track.stop());
  camera.srcObject = null;
  camera.hidden = $("shoot").hidden = true;
  $("film").hidden = false;
}

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const scenarios = [...document.querySelectorAll("[name=scene]:checked")].map((box) => box.value);
  if (!face) return tell("Choose a picture of a face first.");
  if (!scenarios.length) return tell("Choose at least one scenario.");
  tell();
  $("make").disabled = true;
  try {
    const image = await upload(face);
    show(await submit({ model: "swell/portraits", input: { image, scenarios, size: 512 } }), true);
  } catch (trouble) {
    tell(trouble.message);
  } finally {
    $("make").disabled = false;
  }
});

/** Show a pack: a frame for each portrait at once, and each portrait when it is ready. */
async function show(task, isNew = false) {
  const scenarios = task.input?.scenarios ?? task.artifacts.map(() => "");
  const places = scenarios.map((name) => ({ name, frame: h("div", { class: "frame" }), line: h("figcaption", {}, SCENES[name] ?? "Portrait") }));
  const said = h("p", { class: "dim", role: "status" });
  const pack = h("article", { class: "card" },
    said, h("ul", { class: "results" }, ...places.map((each) => h("li", {}, h("figure", {}, each.frame, each.line)))),
    h("button", { class: "plain", onclick: () => forget(task.id, pack, said) }, "Delete the face and the portraits"));
  $("packs").prepend(pack);
  if (isNew) reveal(pack);
  const put = (file, index) => {
    const place = places[index];
    if (!place) return;
    place.frame.replaceChildren(h("img", { src: file.url, alt: `Portrait: ${SCENES[place.name] ?? ""}` }));
  };
  task.artifacts.forEach(put);
  const ended = await follow(task.id, {
    queued: (data) => (said.textContent = standing(data)),
    started: (data) => (said.textContent = standing(data)),
    artifact: (file) => put(file, file.index),
  });
  if (ended.state === "succeeded") {
    ended.artifacts.forEach(put);
    places.forEach((place, index) => place.line.after(saved(ended, index)));
    said.textContent = "Ready. The app keeps them for a day.";
  } else {
    said.className = "bad";
    said.textContent = ended.error?.detail ?? `The pack was ${ended.state}.`;
  }
}

async function forget(id, pack, said) {
  try {
    await remove(id);
    pack.replaceChildren(h("p", { role: "status" }, "Deleted: the face, the portraits, and every copy in the app."));
  } catch (trouble) {
    said.textContent = trouble.code === "conflict" ? "The portraits are not finished yet. Try again in a moment." : trouble.message;
  }
}

for (const task of (await tasks()).reverse()) {
  if (!task.data_removed?.includes("outputs")) show(task);
}
