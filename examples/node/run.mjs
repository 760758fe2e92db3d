// The runner of jobs in Node: [runners.node] argv = ["node", "run.mjs"]. A target is node::FILE.FUNCTION, a function
// that a file in jobs/ exports. Named arguments are passed as an object after the others.
import { existsSync, readFileSync, writeSync } from "node:fs";

const job = JSON.parse(readFileSync(0, "utf8"));
const resultFd = Number(process.env.BGD_RESULT_FD);

try {
  const { call, refused } = await resolved(job.target);
  const named = Object.keys(job.kwargs).length ? [job.kwargs] : [];
  tell(refused ? { refused } : { ok: (await call(...job.args, ...named)) ?? null });
} catch (error) {
  console.error(error);
  tell({ error: toldOf(error) });
}

// The allow-list only checks text. So call no function except those exported as jobs.
async function resolved(target) {
  const [, file, name] = /^(\w+)\.(\w+)$/.exec(target) ?? [];
  const path = new URL(`jobs/${file}.mjs`, import.meta.url);
  if (!file || !existsSync(path)) return { refused: `there is no file of jobs for ${target}` };
  const jobs = await import(path);
  if (!Object.hasOwn(jobs, name) || typeof jobs[name] !== "function") {
    return { refused: `jobs/${file}.mjs exports no function ${name}` };
  }
  return { call: jobs[name] };
}

// on_exceptions of the configuration knows errors by the names of their constructors.
function toldOf(error) {
  if (!(error instanceof Error)) return { type: typeof error, message: String(error) };
  const bases = [];
  for (let kind = Object.getPrototypeOf(error.constructor); kind?.name; kind = Object.getPrototypeOf(kind)) {
    bases.push(kind.name);
  }
  return { type: error.constructor.name, message: error.message, traceback: error.stack, bases };
}

function tell(document) {
  let rest = Buffer.from(JSON.stringify(document));
  while (rest.length) rest = rest.subarray(writeSync(resultFd, rest));
  process.exitCode = "ok" in document ? 0 : 1;
}
