// Act on jobs: the buttons of a page send a change with the token that the login left in this browser.
"use strict";

const base = document.body.dataset.base; // what stands before all paths
const token = localStorage.getItem(`bgd-token${base}`);
const notice = document.getElementById("notice");

document.documentElement.classList.toggle("can-act", token || "proxy" in document.body.dataset);

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
async function ask(path, method = "POST") {
  try {
    if ((await sealedText(`${base}/job-logs/seal`)) === null) {
      say("Nothing was done: this page or its login is over. Type bgctl dashboard.");
      return null;
    }
    const answer = await fetch(path, { method, headers: { "X-Bgd-Token": token, Accept: "application/json" } });
    if (answer.ok) return answer;
    say((await answer.json()).error);
  } catch {
    say("bgd did not answer. Check the job before you try again.");
  }
  return null;
}

// --- One job

async function actOnJob(button) {
  const { verb, asks, value } = button.dataset;
  if (asks && !confirm(asks)) return;
  let path = `${base}/job-logs/${document.body.dataset.job}/${verb}`;
  if (verb === "priority") {
    const wanted = prompt("Priority, from -1000 to 1000; higher starts first:", value);
    if (wanted === null) return;
    path += `?${new URLSearchParams({ value: wanted })}`;
  }
  button.disabled = true;
  if (await ask(path)) notice.hidden = true;
  button.disabled = false;
}

// --- Queues and slots

async function actOn(button) {
  const { path, question, value } = button.dataset;
  let query = "";
  if (question) {
    const wanted = prompt(question, value);
    if (wanted === null) return;
    query = `?${new URLSearchParams({ value: wanted.trim() })}`;
  }
  button.disabled = true;
  if (await ask(`${base}${path}${query}`)) notice.hidden = true;
  button.disabled = false;
}

// ---

async function copy(button) {
  const text = button.previousElementSibling;
  getSelection().selectAllChildren(text); // browsers let only pages over TLS or of this machine copy
  const isCopied = await navigator.clipboard?.writeText(text.textContent).then(() => true, () => false);
  say(isCopied ? "Copied." : "Press Ctrl-C to copy.");
}

document.addEventListener("click", (click) => {
  const button = click.target.closest("button[data-verb], button[data-path], button[data-copy]");
  const { path, copy: isCopy } = button?.dataset ?? {};
  if (button) (isCopy === "" ? copy : path ? actOn : actOnJob)(button);
});
