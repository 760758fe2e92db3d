// Act on jobs: the buttons of a page send a change with the token that the login left in this browser.
"use strict";

const token = () => localStorage.getItem(`bgd-token${base}`); // another tab may log in again
const notice = document.getElementById("notice");

function showActions() {
  document.documentElement.classList.toggle("can-act", !isGone && (token() || "proxy" in document.body.dataset));
}

showActions();
addEventListener("storage", showActions);

function say(text, share) {
  const bar = notice.querySelector("progress");
  notice.hidden = false;
  notice.firstElementChild.textContent = text;
  bar.hidden = share === undefined;
  if (share !== undefined) bar.value = share;
}

notice.querySelector("button").addEventListener("click", () => (notice.hidden = true));

const PATIENCE = 5000; // milliseconds after a click in which the daemon may begin what it asks for

// Ask the daemon once it has proved who it is: no other server may get the token. It tells its time, so that it can
// refuse what arrives late. Return the answer; if it refuses or is silent, say so and return null.
async function ask(path, method = "POST", headers = {}) {
  const [until, patience] = [performance.now() + PATIENCE, AbortSignal.timeout(PATIENCE)];
  let [lateness, isLate] = [0, false]; // a timer, once a change has been sent
  notice.hidden = true;
  try {
    const now = await sealedText(`${base}/job-logs/seal`, {}, patience);
    if (now === null) {
      say("Nothing was done: this page or its login is over. Type bgctl dashboard.");
      return null;
    }
    const rest = until - performance.now();
    const own = { "X-Bgd-Token": token(), "X-Bgd-Until": Number(now) + rest / 1000, Accept: "application/json" };
    if (method === "POST") {
      lateness = setTimeout(() => {
        isLate = true;
        say("bgd does not answer. Wait: this page will say whether it was done.");
      }, rest);
    }
    const answer = await fetch(path, { method, headers: { ...own, ...headers }, signal: lateness ? null : patience });
    if (!answer.ok) say((await answer.json()).error);
    else if (isLate) say("bgd answers again: it was done.");
    return answer.ok ? answer : null;
  } catch {
    say(lateness ? "bgd did not answer. Check the job before you try again." : "Nothing was done, because bgd did not answer. Try again.");
  } finally {
    clearTimeout(lateness);
  }
  return null;
}

// Run the action of a button, which is busy until that is over: another click does nothing.
async function whileBusy(button, action) {
  if (button.ariaBusy) return;
  button.ariaBusy = true;
  await action(button).finally(() => (button.ariaBusy = null));
}

async function act(button) {
  const { verb, asks, question, value, path = `/job-logs/${document.body.dataset.job}/${verb}` } = button.dataset;
  if (asks && !confirm(asks)) return;
  const wanted = question ? prompt(question, value) : "";
  if (wanted === null) return;
  const answer = await ask(`${base}${path}${question ? `?${new URLSearchParams({ value: wanted.trim() })}` : ""}`);
  if (!answer) return;
  const { id, words } = await answer.json();
  if (words) say(words); // other jobs are retried with this one
  if (verb === "remove") location.assign(`${base}/job-logs`);
  else if (id && !verb) {
    say("Queued: ");
    notice.firstElementChild.append(linkTo(id, `job ${id}`));
  } else if (!sealKey && !words) location.reload(); // nothing else shows the change
}

function linkTo(id, text = id) {
  const link = document.createElement("a");
  [link.href, link.textContent] = [`${base}/job-logs/${id}`, text];
  return link;
}

async function copy(button) {
  const text = button.previousElementSibling;
  getSelection().selectAllChildren(text); // browsers let only pages over TLS or of this machine copy
  const isCopied = await navigator.clipboard?.writeText(text.textContent).then(() => true, () => false);
  say(isCopied ? "Copied." : "Press Ctrl-C to copy.");
}

document.addEventListener("click", (click) => { // of a double click only the first
  const button = click.target.closest("button[data-verb], button[data-path], button[data-copy]");
  if (button && click.detail < 2) whileBusy(button, "copy" in button.dataset ? copy : act);
});

document.addEventListener("keydown", (press) => { // nor is a key that is held down another click
  if (press.repeat && press.target.matches("button")) press.preventDefault();
});
