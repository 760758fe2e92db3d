// Loaded before bunqueue's server: makes SQLite sync each commit. The server sets synchronous=NORMAL, with which a
// power cut loses the jobs of the last seconds, and has no setting for that.

import { Database } from "bun:sqlite";

const run = Database.prototype.run;
Database.prototype.run = function (sql, ...parameters) {
  return run.call(this, sql.replace("synchronous = NORMAL", "synchronous = FULL"), ...parameters);
};
