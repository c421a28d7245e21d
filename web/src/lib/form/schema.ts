// A model's input as its JSON Schema tells it, made ready for a form.

export interface Hint {
  widget?: string;
  advanced?: boolean;
  order?: number;
  label?: string;
  help?: string;
  rows?: number;
  languages?: string[];
  step?: number;
  accept?: string;
  presets?: string[];
  labels?: Record<string, string>;
  pictures?: Record<string, string>;
}

interface Schema {
  type?: string | string[];
  title?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  const?: unknown;
  anyOf?: Schema[];
  allOf?: Schema[];
  $ref?: string;
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  $defs?: Record<string, Schema>;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  maxItems?: number;
  maxLength?: number;
  examples?: unknown[];
  "x-file"?: string;
  "x-ui"?: Hint;
}

export type Kind =
  | "text"
  | "textarea"
  | "number"
  | "slider"
  | "select"
  | "toggle"
  | "aspect"
  | "styles"
  | "seed"
  | "file"
  | "files"
  | "color"
  | "choices"
  | "json";

export interface FormField {
  name: string;
  kind: Kind;
  label: string;
  help: string;
  isRequired: boolean;
  isAdvanced: boolean;
  /** Whether an integer is wanted. */
  isWhole: boolean;
  /** What it is where nothing is chosen. */
  otherwise: unknown;
  options: { value: string; label: string; picture?: string }[];
  min?: number;
  max?: number;
  step?: number;
  maxLength?: number;
  maxItems?: number;
  rows?: number;
  /** Codes of those that are understood. */
  languages?: string[];
  accept?: string;
  placeholder: string;
  /** Texts that the schema names as examples. */
  examples: string[];
}

export type Values = Record<string, unknown>;

/** Return the fields of a form in their order. */
export function fieldsOf(input: unknown): FormField[] {
  const schema = input as Schema;
  const found = Object.entries(schema.properties ?? {})
    .map(([name, each]) => ({ name, schema: resolved(each, schema.$defs ?? {}) }))
    .filter(({ schema: each }) => each["x-ui"]?.widget !== "hidden" && each.const === undefined);
  found.sort((a, b) => (a.schema["x-ui"]?.order ?? 0) - (b.schema["x-ui"]?.order ?? 0));
  return found.map(({ name, schema: each }) => fieldOf(name, each, schema.required?.includes(name) ?? false));
}

/** Return a schema without references and without `null` among its kinds. */
function resolved(schema: Schema, defs: Record<string, Schema>): Schema {
  let found = schema;
  if (schema.$ref) found = { ...resolved(defs[schema.$ref.split("/").at(-1) ?? ""] ?? {}, defs), ...schema };
  const kinds = found.anyOf ?? found.allOf;
  if (!kinds) return found;
  const real = kinds.find((each) => each.type !== "null");
  return real ? { ...resolved(real, defs), ...found } : found;
}

function fieldOf(name: string, schema: Schema, isRequired: boolean): FormField {
  const hint = schema["x-ui"] ?? {};
  const options = (schema.enum ?? schema.items?.enum ?? hint.presets ?? []).map((each) => {
    const value = String(each);
    return { value, label: hint.labels?.[value] ?? words(value), picture: hint.pictures?.[value] };
  });
  return {
    name,
    kind: kindOf(schema, hint, options.length),
    label: hint.label ?? schema.title ?? words(name),
    help: hint.help ?? schema.description ?? "",
    isRequired,
    isAdvanced: hint.advanced ?? false,
    isWhole: schema.type === "integer",
    otherwise: schema.default ?? null,
    options,
    min: schema.minimum ?? schema.exclusiveMinimum,
    max: schema.maximum ?? schema.exclusiveMaximum,
    step: hint.step ?? (schema.type === "integer" ? 1 : undefined),
    maxLength: schema.maxLength,
    maxItems: schema.maxItems,
    rows: hint.rows,
    languages: hint.languages,
    accept: hint.accept ?? acceptOf(schema["x-file"] ?? schema.items?.["x-file"]),
    placeholder: String(schema.examples?.[0] ?? ""),
    examples: (schema.examples ?? []).filter((each): each is string => typeof each === "string"),
  };
}

/** What a field of a kind of file takes, as a browser is told. */
function acceptOf(kind: string | undefined): string | undefined {
  if (kind === undefined) return undefined;
  return ["image", "audio", "video"].includes(kind) ? `${kind}/*` : "*/*";
}

function kindOf(schema: Schema, hint: Hint, options: number): Kind {
  const type = Array.isArray(schema.type) ? schema.type.find((each) => each !== "null") : schema.type;
  if (schema["x-file"] || schema.items?.["x-file"] || hint.widget === "image" || hint.widget === "lora") return type === "array" ? "files" : "file";
  if (hint.widget === "aspect" && options) return "aspect";
  // Letters in place of pictures would tell nobody anything.
  if (hint.widget === "styles" && options && Object.keys(hint.pictures ?? {}).length) return "styles";
  if (hint.widget === "seed" || hint.widget === "color") return hint.widget;
  if (type === "boolean") return "toggle";
  if (type === "array") return schema.items?.enum ? "choices" : "json";
  if (type === "object") return "json";
  if (options) return "select";
  if (type === "integer" || type === "number") {
    const isBounded = schema.minimum !== undefined && schema.maximum !== undefined;
    // A slider always says something: what may be left to the model has a field that can be empty.
    if (schema.default === null) return "number";
    return isBounded && (hint.widget === "slider" || schema.maximum! - schema.minimum! <= 1000) ? "slider" : "number";
  }
  return hint.widget === "textarea" || name(schema) === "prompt" ? "textarea" : "text";
}

function name(schema: Schema): string {
  return (schema.title ?? "").toLowerCase();
}

/** Return a name as words: `keep_colours` → `Keep colours`. */
export function words(name: string): string {
  const spaced = name.replace(/[_-]+/g, " ").trim();
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}

/** Return an input without what was left empty. */
export function inputOf(fields: FormField[], values: Values): Values {
  const found: Values = {};
  for (const field of fields) {
    const value = values[field.name];
    if (value === undefined || value === null || value === "") continue;
    if (field.kind === "files" && !(value as string[]).length) continue;
    found[field.name] = typed(field, value);
  }
  return found;
}

/** A choice is text in a form, and whatever the schema says in the input. */
function typed(field: FormField, value: unknown): unknown {
  if (field.kind === "json" && typeof value === "string") return JSON.parse(value);
  if (typeof value !== "string" || field.kind !== "select") return value;
  return typeof field.otherwise === "number" || field.isWhole ? Number(value) : value;
}

/** Return what a form begins with. */
export function beginning(fields: FormField[], input: Values = {}): Values {
  return Object.fromEntries(fields.map((field) => [field.name, input[field.name] ?? field.otherwise ?? empty(field)]));
}

function empty(field: FormField): unknown {
  if (field.kind === "toggle") return false;
  if (field.kind === "choices" || field.kind === "files") return [];
  if (field.kind === "number" || field.kind === "seed") return null;
  if (field.kind === "slider") return field.min ?? 0;
  if (field.kind === "select" || field.kind === "aspect") return field.isRequired ? (field.options[0]?.value ?? "") : "";
  return "";
}
