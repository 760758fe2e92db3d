// Graphile Worker on the PostgreSQL that DATABASE_FOLDER has a socket of.

import pg from "pg";
import { makeWorkerUtils, run, Logger } from "graphile-worker";
import { drive } from "./drive.mjs";

const pgPool = new pg.Pool({ host: process.env.DATABASE_FOLDER, user: "bench", database: "postgres", max: 32 });
const logger = new Logger(() => () => {});

await drive({
  async connect() {
    const utils = await makeWorkerUtils({ pgPool, logger });
    await utils.migrate();
    return {
      one: () => utils.addJob("nothing", {}),
      many: (count) => utils.addJobs(Array(count).fill({ identifier: "nothing", payload: {} })),
    };
  },
  async work(concurrency, nothing) {
    await run({ pgPool, logger, concurrency, taskList: { nothing } });
  },
});
