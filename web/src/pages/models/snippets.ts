// How programs ask for what the form holds, in the words of each client.
import { base, type ModelView } from "../../lib/api/client";
import type { Values } from "../../lib/form/schema";
import type { Word } from "../../lib/i18n/index.svelte";
import { draws } from "../../lib/models.svelte";

export interface Snippet {
  id: string;
  label: string;
  code: string;
  /** What the code needs beside the key. */
  needs?: Word;
}

/** Return one for each client; the key stands in the environment, never in the code. */
export function snippets(of: ModelView, input: Values): Snippet[] {
  const model = of.name;
  const url = base.href.replace(/\/$/, "");
  const pretty = JSON.stringify(input, null, 2);
  const { prompt, ...rest } = input;
  const words = typeof prompt === "string" ? prompt : "";
  const found: Snippet[] = [
    {
      id: "curl",
      label: "curl",
      code: [
        `curl ${quoted(`${url}/v1/tasks`)} \\`,
        '  -H "Authorization: Bearer $SWELL_KEY" \\',
        '  -H "Content-Type: application/json" -H "Prefer: wait=60" \\',
        `  -d ${quoted(JSON.stringify({ model, input }))}`,
      ].join("\n"),
    },
    {
      id: "python",
      label: "Python",
      code: [
        "import os",
        "",
        "import swell",
        "",
        `with swell.Client(${string(url)}, os.environ["SWELL_KEY"]) as client:`,
        `    task = client.run(${string(model)}, ${indented(python(input), 4)})`,
        "    print(task.output)",
        '    print(client.save(task, "."))',
      ].join("\n"),
    },
    {
      id: "javascript",
      label: "JavaScript",
      code: [
        `const answer = await fetch(${string(`${url}/v1/tasks`)}, {`,
        '  method: "POST",',
        "  headers: {",
        "    authorization: `Bearer ${process.env.SWELL_KEY}`,",
        '    "content-type": "application/json",',
        '    prefer: "wait=60",',
        "  },",
        `  body: JSON.stringify({ model: ${string(model)}, input: ${indented(pretty, 2)} }),`,
        "});",
        "const task = await answer.json();",
        "console.log(task.state, task.output);",
      ].join("\n"),
    },
    {
      id: "replicate",
      label: "Replicate",
      code: [
        "import os",
        "",
        "from replicate.client import Client",
        "",
        `client = Client(api_token=os.environ["SWELL_KEY"], base_url=${string(`${url}/replicate`)})`,
        `print(client.run(${string(model)}, input=${python(input)}))`,
      ].join("\n"),
    },
  ];
  if (draws(of)) {
    found.push({
      id: "openai",
      label: "OpenAI",
      code: [
        "import base64",
        "import os",
        "",
        "from openai import OpenAI",
        "",
        `client = OpenAI(api_key=os.environ["SWELL_KEY"], base_url=${string(`${url}/openai/v1`)})`,
        "made = client.images.generate(",
        `    model=${string(model)},`,
        `    prompt=${string(words)},`,
        ...(Object.keys(rest).length ? [`    extra_body=${indented(python(rest), 4)},`] : []),
        ")",
        'with open("picture.png", "wb") as file:',
        "    file.write(base64.b64decode(made.data[0].b64_json))",
      ].join("\n"),
    });
  }
  const host = url.replace(/^https?:\/\//, "");
  found.push({
    id: "fal",
    label: "fal",
    code: [
      "import os",
      "",
      `os.environ["FAL_RUN_HOST"] = ${string(`${host}/fal/run`)}`,
      `os.environ["FAL_QUEUE_RUN_HOST"] = ${string(`${host}/fal/queue`)}`,
      'os.environ["FAL_KEY"] = os.environ["SWELL_KEY"]',
      "",
      "import fal_client",
      "",
      `print(fal_client.subscribe(${string(model)}, arguments=${python(input)}))`,
    ].join("\n"),
    needs: base.protocol === "http:" ? "models.code.https" : undefined,
  });
  return found;
}

/** Text for a shell. */
function quoted(text: string): string {
  return `'${text.replace(/'/g, "'\\''")}'`;
}

/** Text in Python and JavaScript alike. */
function string(text: string): string {
  return JSON.stringify(text);
}

/** A value as Python writes it. */
function python(value: unknown): string {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    const inner = Object.entries(value as object).map(([name, each]) => `${string(name)}: ${python(each)}`);
    return inner.join("").length > 60 ? `{\n${inner.map((each) => `    ${each},\n`).join("")}}` : `{${inner.join(", ")}}`;
  }
  return JSON.stringify(value);
}

function indented(text: string, spaces: number): string {
  return text.replace(/\n/g, `\n${" ".repeat(spaces)}`);
}
