// Choose jobs of the list, and act on them or on all that match: the daemon counts both.
"use strict";

const MOST = 400; // jobs chosen at once, because their ids stand in an address
const RECOUNT = 250; // milliseconds between two counts
const NAMED = 5; // links to chosen jobs that are not shown

const panel = document.getElementById("chosen");
const chosen = new Set(); // ids; those of jobs that left the list stay
let latest; // the id whose box was clicked last: Shift+click chooses from there
let recount; // a timer

const boxes = () => [...document.querySelectorAll("#ordered .pick input")];
const jobs = (count, kind) => `${count.toLocaleString("en")} ${kind}${count === 1 ? "job" : "jobs"}`;

function choose(picked, isChosen) {
  for (const { value } of picked) isChosen && chosen.size < MOST ? chosen.add(value) : chosen.delete(value);
  showChosen();
}

function showChosen() {
  const all = boxes();
  for (const box of all) box.checked = chosen.has(box.value);
  const shown = all.filter((box) => box.checked).length;
  const [pickAll, count, others] = [document.getElementById("pick-all"), ...panel.querySelectorAll("span")];
  pickAll.checked = shown > 0 && shown === all.length;
  pickAll.indeterminate = shown > 0 && shown < all.length;
  panel.hidden = !chosen.size;
  const absent = [...chosen].filter((id) => !document.getElementById(`job-${id}`));
  const isFull = chosen.size === MOST ? ", the most at once" : "";
  count.textContent = `${chosen.size} chosen${isFull}${absent.length ? `, ${absent.length} not shown:` : ""}`;
  if (others.dataset.ids !== absent.join()) { // a link stays while it is pressed
    others.dataset.ids = absent.join();
    others.replaceChildren(...absent.slice(0, NAMED).map((id) => linkTo(id)), absent.length > NAMED ? "…" : "");
  }
  recount ??= setTimeout(countChosen, RECOUNT);
}

// Offer only what applies to a chosen job now.
async function countChosen() {
  recount = null;
  if (!chosen.size) return;
  const found = await sealedText(`${base}/job-logs/all?ids=${[...chosen].join()}`).catch(() => null);
  if (found === null) return; // the next change counts again
  const counts = JSON.parse(found);
  for (const button of panel.querySelectorAll("[data-many]")) {
    const count = counts[button.dataset.many];
    button.disabled = !count;
    button.title = count ? "" : "No chosen job is in a state for this.";
    button.textContent = `${button.dataset.label}${count ? ` ${count}` : ""}`;
  }
}

// Name the jobs that a person is asked about.
function named(count, { batch }, isChosen) {
  if (isChosen) return jobs(count, "chosen ");
  if (batch) return `${count ? `${jobs(count, "")} of ` : ""}batch ${batch}`;
  return count === 1 ? "the job that matches" : `all ${jobs(count, "")} that match`;
}

async function actOnMany(button) {
  const { parentElement: actions, dataset: { many, label, post } } = button;
  const ids = actions === panel ? [...chosen] : null;
  const path = `${base}/job-logs/all/${many}?${ids ? `ids=${ids.join()}` : button.closest("[data-filter]").dataset.filter}`;
  actions.after(notice); // the outcome appears beside the button
  const found = await ask(path, "GET");
  if (!found) return;
  const { count } = await found.json();
  if (!count && !post) return say(`${label}: none of these jobs is in a state for that.`);
  if (!confirm(`${label} ${named(count, button.dataset, ids)}${many === "remove" ? ", and their logs" : ""}?`)) return;
  const answer = await ask(post ? base + post : path);
  if (!answer) return;
  for (const id of ids ?? []) chosen.delete(id);
  showChosen();
  await showProgress(answer, label);
}

// Show how far the daemon is. It stops if this page is closed.
async function showProgress(answer, label) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let [text, isOver, last] = ["", false, { done: 0, of: 0, refused: 0, why: [] }];
  const report = (more = "") => say(`${label}: ${last.done.toLocaleString("en")} of ${jobs(last.of, "")}${more}`, last.done / (last.of || 1));
  const read = async () => {
    const silence = setTimeout(report, PATIENCE, ". bgd does not answer. It goes on when it can; close this page to stop it.");
    return reader.read().finally(() => clearTimeout(silence));
  };
  for (let part = await read(); !part.done; part = await read()) {
    const messages = (text + part.value).split("\n\n");
    text = messages.pop();
    for (const message of messages) {
      const news = JSON.parse(message.slice("data: ".length));
      if (news.end) isOver = true;
      else last = news;
    }
    report();
  }
  const refused = last.refused ? `; ${last.refused} refused: ${last.why.join("; ")}` : "";
  const ended = `${label}: ${jobs(last.done - last.refused, "")} done${last.also ?? ""}${refused}.`;
  say(isOver ? ended : `The connection was lost after ${last.done} of ${jobs(last.of, "")}.`);
}

document.addEventListener("click", ({ target, shiftKey }) => {
  const button = target.closest("button");
  if (button?.dataset.many) whileBusy(button, actOnMany);
  else if (button?.id === "clear") {
    chosen.clear();
    showChosen();
  } else if (target.id === "pick-all") choose(boxes(), target.checked);
  else if (target.matches(".pick input")) {
    const all = boxes();
    const to = all.indexOf(target);
    const from = shiftKey ? all.findIndex((box) => box.value === latest) : -1;
    latest = target.value;
    choose(from < 0 ? [target] : all.slice(Math.min(from, to), Math.max(from, to) + 1), target.checked);
  }
});

document.addEventListener("updated", showChosen);
