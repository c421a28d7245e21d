// How a picture came to be, as Swell's workers write it into the file.

export interface Note {
  model: string;
  seed: number | null;
  input: Record<string, unknown>;
}

const START = '{"model":';

/**
 * Read the note of a PNG, WebP, JPEG or AVIF; null where there is none. It is JSON that lies in the file as it
 * is (a text chunk of PNG, the description in Exif), so it is found by how it begins.
 */
export async function noteOf(file: Blob): Promise<Note | null> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const text = new TextDecoder("latin1").decode(bytes);
  for (let at = text.indexOf(START); at >= 0; at = text.indexOf(START, at + 1)) {
    const end = endOf(text, at);
    if (end === 0) continue;
    try {
      const told = JSON.parse(new TextDecoder().decode(bytes.subarray(at, end))) as Partial<Note>;
      if (typeof told.model === "string") {
        return { model: told.model, seed: told.seed ?? null, input: told.input ?? {} };
      }
    } catch {
      // Something else that begins so.
    }
  }
  return null;
}

/** Return where the object ends that begins at `start`; 0 if it does not. */
function endOf(text: string, start: number): number {
  let depth = 0;
  let isQuoted = false;
  for (let at = start; at < text.length && at < start + 200_000; at++) {
    const letter = text[at];
    if (letter === "\\") at++;
    else if (letter === '"') isQuoted = !isQuoted;
    else if (!isQuoted && letter === "{") depth++;
    else if (!isQuoted && letter === "}" && --depth === 0) return at + 1;
  }
  return 0;
}
