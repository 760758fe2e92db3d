// Hands jobs of a peer over, or works at them, as the first argument says; called by ../foreign_peers.py.
//
// submit CLIENTS EACH: so many coroutines, each of which waits for an answer before it hands over the next job.
// many COUNT: all in one call. work AT_ONCE FILE: work until killed; each job adds a byte to the file.
// Before it hands over, it connects, says "ready", and waits for a line.

import { openSync, writeSync } from "node:fs";
import { once } from "node:events";

export async function drive(peer) {
  const [task, ...rest] = process.argv.slice(2);
  if (task === "work") {
    const file = openSync(rest[1], "a");
    await peer.work(Number(rest[0]), async () => void writeSync(file, "."));
    return;
  }
  const [first, each] = rest.map(Number);
  const { one, many } = await peer.connect();
  await one();
  console.log("ready");
  await once(process.stdin, "data");
  if (task === "many") {
    await many(first);
  } else {
    await Promise.all(
      Array.from({ length: first }, async () => {
        for (let number = 0; number < each; number += 1) await one();
      }),
    );
  }
  console.log("done");
  process.exit(0);
}
