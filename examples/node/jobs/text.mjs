// Jobs of an application: ordinary functions that do not know about bgd.
import { readFile } from "node:fs/promises";

export class Empty extends RangeError {}

export async function countWords(path, { least = 1 } = {}) {
  const words = (await readFile(path, "utf8")).split(/\s+/).filter((word) => word.length >= least);
  if (!words.length) throw new Empty(`there are no words in ${path}`);
  console.log(`${path}: ${words.length} words`);
  return { words: words.length, different: new Set(words).size };
}
