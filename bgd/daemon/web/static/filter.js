// The filter box: completes words, and keys reach it and the rows.
"use strict";

const form = document.getElementById("filter");
const box = form.elements.q;
const PAUSE = 150; // milliseconds after a key until completions are asked for

// A list completes the whole box, so the words before the last one stand in every option.
async function complete() {
  const [, before, word] = /^(.*?)(\S*)$/s.exec(box.value);
  const found = await sealedText(`${document.body.dataset.base}/job-logs/complete?${new URLSearchParams({ word })}`);
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
