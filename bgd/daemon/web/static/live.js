// Keep this page up to date: the daemon sends the parts that changed.
"use strict";

const page = document.body.dataset;
const ordered = document.getElementById("ordered");
const late = Date.now() / 1000 - page.now;
const skew = late > 0 && late < 3 ? 0 : late; // between the clocks of this machine and the daemon's, unless the page was slow

// --- Parts of the page

function update(news) {
  page.version = news.version;
  const acting = document.activeElement.closest(".actions");
  for (const [id, html] of Object.entries(news.parts)) {
    const old = document.getElementById(id);
    if (old) morph(old, elementOf(html));
    else waiting.set(id, html);
  }
  order = news.order ?? order;
  arrange();
  document.dispatchEvent(new Event("updated"));
  if (acting && document.activeElement === document.body) focusAt(acting);
  tick();
}

// Stay near a button that is gone, and on none: the key that pressed it would press another.
function focusAt(actions) {
  const place = actions.isConnected ? actions : document.querySelector("h1");
  place.tabIndex = -1;
  place.focus();
}

function elementOf(html) {
  return contentOf(html.trim()).firstElementChild;
}

function contentOf(html) {
  const template = document.createElement("template");
  template.innerHTML = policy.createHTML(html);
  return template.content;
}

// Make one element like another, and keep what is the same: selections, focus, open details.
function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName || old.dataset?.verb !== fresh.dataset?.verb) { // no button becomes another
    old.replaceWith(fresh);
  } else if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else if (old.nodeType === Node.ELEMENT_NODE && !old.matches(".log")) {
    for (const { name, value } of fresh.attributes) {
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !["open", "tabindex", "aria-busy"].includes(name)) old.removeAttribute(name);
    }
    const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
    after.forEach((node, index) => (index < before.length ? morph(before[index], node) : old.append(node)));
    before.slice(after.length).forEach((node) => node.remove());
  }
}

// --- The order of rows

const REST = 5000; // milliseconds until a pointer that rests on the list is offered what waits
const isTouched = matchMedia("(hover: none)"); // what was touched last counts as under the pointer
const offer = document.createElement("button");
const waiting = new Map(); // the HTML of rows that are not on the page yet, by id
let order = null; // the ids of the rows in their new order, until they are in it
let waitsSince = null;

// Put rows into their order. Nothing moves under a pointer, unless that is asked for.
function arrange(isAsked = false) {
  for (const id of waiting.keys()) if (!order?.includes(id)) waiting.delete(id);
  if (!ordered || !order) return;
  const isHeld = ordered.rows?.length && [ordered, offer].some((each) => each.matches(":hover"));
  if (isHeld && !isAsked) return offerRows();
  for (const child of [...ordered.children]) if (!order.includes(child.id)) child.remove();
  order.forEach((id, index) => {
    const child = document.getElementById(id) ?? (waiting.has(id) ? elementOf(waiting.get(id)) : null);
    if (child && ordered.children[index] !== child) ordered.insertBefore(child, ordered.children[index] ?? null);
  });
  order = waitsSince = null;
  offer.remove();
  document.dispatchEvent(new Event("updated"));
}

function offerRows() {
  waitsSince ??= Date.now();
  if (!isTouched.matches && Date.now() - waitsSince < REST) return;
  const count = order.filter((id) => !document.getElementById(id)).length;
  const what = `${count} new ${ordered.closest(".jobs") ? "job" : "row"}${count === 1 ? "" : "s"}`;
  show(offer, count ? what : "Show changes");
  if (!offer.isConnected) ordered.parentElement.before(offer);
}

offer.className = "offer";
offer.addEventListener("click", () => arrange(true));
for (const each of [offer, ordered]) each?.addEventListener("mouseleave", () => arrange());

// --- Times that go on

const UNITS = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];

function shortDuration(seconds) {
  if (seconds < 1) return `${Math.max(0, seconds * 1000).toFixed(0)}ms`;
  if (seconds < 10) return `${seconds.toFixed(1)}s`;
  let rest = Math.round(seconds);
  const words = [];
  for (const [size, unit] of UNITS) {
    const count = Math.floor(rest / size);
    rest %= size;
    if (count) words.push(`${count}${unit}`);
    else if (words.length) break;
  }
  return words.slice(0, 2).join("");
}

function tick() {
  const now = Date.now() / 1000 - skew;
  for (const span of document.querySelectorAll("[data-since]")) {
    show(span, shortDuration(now - span.dataset.since));
  }
  for (const time of document.querySelectorAll("time")) {
    const age = now - Date.parse(time.dateTime) / 1000;
    show(time, age >= 0 ? `${shortDuration(age)} ago` : `in ${shortDuration(-age)}`);
  }
}

function show(element, text) {
  if (element.textContent !== text) element.textContent = text; // each text is a new node
}

if (page.live) {
  const mark = page.live.includes("?") ? "&" : "?";
  new Stream(() => `${page.live}${mark}since=${page.version}`, update);
  setInterval(() => document.hidden || (tick(), arrange()), 1000); // no event tells that a finger has left
}
