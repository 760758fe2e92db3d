// bunqueue, by its server's port. `durable` writes each job before the answer, not some milliseconds later.

import { Queue, Worker } from "bunqueue/client";
import { drive } from "./drive.mjs";

const connection = { host: process.env.HOST, port: Number(process.env.TCP_PORT) };
const MOST = 1000; // jobs in one call: more do not fit into its patience when each commit is synced

await drive({
  async connect() {
    const queue = new Queue("nothing", { connection, autoBatch: { enabled: false } });
    const job = { name: "nothing", data: {}, opts: { durable: true } };
    return {
      one: () => queue.add(job.name, job.data, job.opts),
      many: async (count) => {
        for (let left = count; left > 0; left -= MOST) await queue.addBulk(Array(Math.min(left, MOST)).fill(job));
      },
    };
  },
  async work(concurrency, nothing) {
    new Worker("nothing", nothing, { connection, concurrency });
  },
});
