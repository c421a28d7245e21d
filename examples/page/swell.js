// How a page calls its app's server (front.py), which calls Swell.

/** An error response, as a sentence for the user. */
export class Trouble extends Error {
  constructor(status, problem) {
    super(problem?.detail || problem?.title || `The server answers ${status}.`);
    this.status = status;
    this.code = problem?.code;
    this.problem = problem;
  }
}

/** Ask the app's server for JSON. */
export async function ask(method, path, body) {
  const isFile = body instanceof Blob;
  const sent = { method };
  if (body !== undefined) {
    sent.body = isFile ? body : JSON.stringify(body);
    sent.headers = { "content-type": isFile ? body.type || "application/octet-stream" : "application/json" };
  }
  const answer = await fetch(path, sent).catch(() => {
    throw new Trouble(0, { detail: "Can't reach the server. Is it still running?" });
  });
  const said = await answer.json().catch(() => null);
  if (!answer.ok) throw new Trouble(answer.status, said);
  return said;
}

export const submit = (task) => ask("POST", "tasks", task);
export const tasks = async () => (await ask("GET", "tasks")).tasks;
export const remove = (id) => ask("DELETE", `tasks/${id}`);
export const cancel = (id) => ask("POST", `tasks/${id}/cancel`);
/** Store a file, and return the URL that an input names it by. */
export const upload = async (file) => (await ask("POST", "uploads", file)).url;

const ENDS = ["succeeded", "failed", "canceled", "expired"];
const EVENTS = ["queued", "started", "progress", "preview", "artifact"];

/** Follow a task's events; resolve to the task when it ends, in any state. */
export function follow(id, on = {}) {
  return new Promise((resolve, reject) => {
    const stream = new EventSource(`tasks/${id}/events`);
    for (const kind of EVENTS) {
      stream.addEventListener(kind, (event) => on[kind]?.(JSON.parse(event.data)));
    }
    for (const kind of ENDS) {
      stream.addEventListener(kind, (event) => {
        stream.close();
        resolve(JSON.parse(event.data));
      });
    }
    // The browser reconnects a broken stream, but not one that the server refused.
    stream.onerror = () => {
      if (stream.readyState !== EventSource.CLOSED) return;
      ask("GET", `tasks/${id}`).then(resolve, reject);
    };
  });
}

/** Return a task's output, or throw the reason why it has none. */
export function outputOf(task) {
  if (task.state === "succeeded") return task.output;
  throw new Trouble(0, task.error ?? { detail: `The task was ${task.state}.` });
}

/** Show a result that has just appeared, also on a phone whose screen the form fills. */
export const reveal = (element) => element.scrollIntoView({ block: "start", behavior: "smooth" });

/** Describe a task's state. */
export function standing(data) {
  if (data.state !== "queued") return "Being made…";
  const wait = data.eta_s?.median;
  const about = wait == null ? "" : `, about ${Math.max(1, Math.round(wait))} s`;
  return data.position > 1 ? `In the queue, ${data.position - 1} ahead of you${about}` : `Starting${about}…`;
}

/** Make an element: h("button", { class: "plain", onclick }, "Save"). */
export function h(tag, fields = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((each) => each != null));
  return made;
}

/** A button that downloads a file of a task. */
export const saved = (task, index, label = "Save") =>
  h("a", { class: "plain button", href: `tasks/${task.id}/files/${index}`, download: true }, label);
