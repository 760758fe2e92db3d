// bunqueue, by its server's socket. `durable` writes each job before the answer, not some milliseconds later.

import { Queue, Worker } from "bunqueue/client";
import { drive } from "./drive.mjs";

const connection = { host: process.env.HOST, port: Number(process.env.TCP_PORT) };

await drive({
  async connect() {
    const queue = new Queue("nothing", { connection, autoBatch: { enabled: false } });
    const job = { name: "nothing", data: {}, opts: { durable: true } };
    return {
      one: () => queue.add(job.name, job.data, job.opts),
      many: (count) => queue.addBulk(Array(count).fill(job)),
    };
  },
  async work(concurrency, nothing) {
    new Worker("nothing", nothing, { connection, concurrency });
  },
});
