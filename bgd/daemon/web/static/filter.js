// The filter box: completes words, is reached by keys as the rows are, and keeps filters by name in this browser.
"use strict";

const form = document.getElementById("filter");
const box = form.elements.q;
const PAUSE = 150; // milliseconds after a key until completions are asked for

// A list completes the whole box, so the words before the last one stand in every option.
async function complete() {
  const [, before, word] = /^(.*?)(\S*)$/s.exec(box.value);
  const found = await sealedText(`${document.body.dataset.base}/job-logs/complete?${new URLSearchParams({ word })}`).catch(() => null);
  if (found === null || !box.value.endsWith(before + word)) return;
  const options = JSON.parse(found).map((each) => new Option("", before + each));
  document.getElementById("words").replaceChildren(...options);
}

let typed;
box.addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(complete, PAUSE);
});

form.elements.sort.addEventListener("change", () => form.requestSubmit());
form.addEventListener("submit", () => { // keep addresses short
  for (const field of [box, form.elements.sort]) field.disabled = !field.value;
});
addEventListener("pageshow", () => {
  for (const field of [box, form.elements.sort]) field.disabled = false;
});

function move(step) {
  const rows = [...document.querySelectorAll("#ordered tr")];
  const at = rows.indexOf(document.activeElement.closest?.("tr"));
  const row = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step];
  row?.querySelector(".description a").focus();
}

addEventListener("keydown", (press) => {
  if (press.ctrlKey || press.metaKey || press.altKey || press.target.matches("input:not([type=checkbox]), select, textarea")) return;
  if (press.key === "/") {
    form.parentElement.open = true;
    box.select();
  } else if (press.key === "j" || press.key === "k") {
    move(press.key === "j" ? 1 : -1);
  } else return;
  press.preventDefault();
});

// --- Views: filters with their order, by names that only this browser knows

{
  const MOST = 20; // views
  const LONGEST = 40; // characters of a name
  const key = `bgd-views${base}`;
  const read = () => new Map(JSON.parse(localStorage.getItem(key) ?? "[]")); // what follows the ? of the address
  const query = new URLSearchParams(location.search);
  for (const field of ["before", "after", "from"]) query.delete(field);
  const shown = query.toString();
  const views = read();
  const current = [...views.keys()].find((name) => views.get(name) === shown);
  const button = document.getElementById("view");

  for (const [name, each] of views) {
    const link = document.createElement("a");
    [link.href, link.textContent] = [`?${each}`, name];
    if (name === current) link.setAttribute("aria-current", "page");
    button.before(link);
  }
  button.textContent = current === undefined ? "Save view…" : "Forget view";
  button.hidden = !shown || (current === undefined && views.size >= MOST);
  button.parentElement.hidden = button.hidden && !views.size;
  button.addEventListener("click", () => {
    const name = current ?? prompt("Name of this view:", "")?.trim().slice(0, LONGEST);
    if (!name) return;
    const changed = read(); // another tab may have changed them
    if (current === undefined) changed.set(name, shown);
    else changed.delete(name);
    localStorage.setItem(key, JSON.stringify([...changed]));
    location.reload();
  });
}
