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

// Ask the daemon once it has proved who it is: no other server may get the token.
// Return the answer; if the daemon refuses or is silent, say so and return null.
async function ask(path, method = "POST", headers = {}) {
  try {
    if ((await sealedText(`${base}/job-logs/seal`)) === null) {
      say("Nothing was done: this page or its login is over. Type bgctl dashboard.");
      return null;
    }
    const answer = await fetch(path, { method, headers: { "X-Bgd-Token": token(), Accept: "application/json", ...headers } });
    if (answer.ok) return answer;
    say((await answer.json()).error);
  } catch {
    say("bgd did not answer. Check the job before you try again.");
  }
  return null;
}

const asking = new WeakSet(); // buttons that wait for their answers: another click does nothing

async function act(button) {
  const { verb, asks, question, value, path = `/job-logs/${document.body.dataset.job}/${verb}` } = button.dataset;
  if (asking.has(button) || (asks && !confirm(asks))) return;
  const wanted = question ? prompt(question, value) : "";
  if (wanted === null) return;
  asking.add(button);
  const answer = await ask(`${base}${path}${question ? `?${new URLSearchParams({ value: wanted.trim() })}` : ""}`);
  asking.delete(button);
  if (!answer) return;
  const { id } = await answer.json();
  notice.hidden = true;
  if (verb === "remove") location.assign(`${base}/job-logs`);
  else if (id && !verb) {
    say("Queued: ");
    notice.firstElementChild.append(linkTo(id, `job ${id}`));
  } else if (!sealKey) location.reload(); // nothing else shows the change
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
  if (button && click.detail < 2) ("copy" in button.dataset ? copy : act)(button);
});

document.addEventListener("keydown", (press) => { // nor is a key that is held down another click
  if (press.repeat && press.target.matches("button")) press.preventDefault();
});
