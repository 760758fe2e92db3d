// The form for a new job: shows what will run, and submits it.
"use strict";

const job = document.getElementById("new-job");
const WAIT = 150; // milliseconds after a key until the daemon is asked what would run

const typedFields = () => ({ "X-Bgd-Form": new URLSearchParams(new FormData(job)).toString() });

async function showWords() {
  const sent = typedFields();
  const answer = await sealedText(`${base}/job-logs/new/check`, sent).catch(() => null);
  if (answer === null || typedFields()["X-Bgd-Form"] !== sent["X-Bgd-Form"]) return;
  const { words, problem } = JSON.parse(answer);
  const boxes = words.map((word) => {
    const box = document.createElement("li");
    box.appendChild(document.createElement("code")).textContent = word;
    return box;
  });
  document.getElementById("words").replaceChildren(...boxes);
  document.getElementById("problem").textContent = problem ?? "";
}

let typing;
job.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(showWords, WAIT);
});
// typed before this script had arrived, or brought back by the browser
if ([...job.querySelectorAll("input, textarea")].some((field) => field.value !== field.defaultValue)) showWords();

job.addEventListener("submit", (sent) => {
  if (sent.submitter?.name !== "submit") return; // the page is loaded again, as without script
  sent.preventDefault();
  whileBusy(sent.submitter, async () => {
    const answer = await ask(`${base}/job-logs/submit`, "POST", typedFields());
    if (!answer) return;
    location.href = `${base}/job-logs/${(await answer.json()).id}`;
    await new Promise(() => {}); // a click until the page of the job is here submits nothing
  });
});
