// Keep this page up to date: the daemon sends the parts that changed, and output as it is written.
"use strict";

const NEAR_END = 40; // pixels from the end of a log within which the page follows it
const MAX_LOG = 4_000_000; // characters of output on the page; the beginning is dropped

const page = document.body.dataset;
const ordered = document.getElementById("ordered");
const late = Date.now() / 1000 - page.now;
const skew = late > 0 && late < 3 ? 0 : late; // between the clocks of this machine and the daemon's, unless the page was slow

// --- Parts of the page

function update(news) {
  page.version = news.version;
  for (const [id, html] of Object.entries(news.parts)) {
    const old = document.getElementById(id);
    if (old) morph(old, elementOf(html));
    else waiting.set(id, html);
  }
  order = news.order ?? order;
  arrange();
  document.dispatchEvent(new Event("updated"));
  followLogs();
  tick();
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
  if (old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
  } else if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else if (old.nodeType === Node.ELEMENT_NODE && !old.matches(".log")) {
    for (const { name, value } of fresh.attributes) {
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
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

// --- Logs

function followLogs() {
  for (const log of document.querySelectorAll(".log[data-live]")) {
    const { live, at, style } = log.dataset;
    delete log.dataset.live; // it is followed from now on
    follow(log, live, { at, style });
  }
}

function follow(log, live, position) {
  const text = log.querySelector("pre");
  const [lines, open] = text.children;
  const empty = log.parentElement.querySelector(":scope > .empty");
  text.scrollTop = text.scrollHeight;
  const stream = new Stream(
    () => `${live}?${new URLSearchParams(position)}`,
    (news) => {
      if (news.end) {
        stream.end();
        empty.textContent = "No output.";
        return;
      }
      position = { at: news.at, style: news.style };
      log.hidden = false;
      empty.hidden = true;
      addOutput(text, lines, open, news);
      shorten(lines);
    },
  );
}

// Add lines and replace the open one; stay at the end.
function addOutput(text, lines, open, news) {
  const isAtEnd = text.scrollHeight - text.scrollTop - text.clientHeight < NEAR_END;
  lines.append(...nodesOf(news.lines));
  open.replaceChildren(...nodesOf(news.open));
  if (isAtEnd) text.scrollTop = text.scrollHeight;
}

function nodesOf(html) {
  return contentOf(html).childNodes;
}

function shorten(lines) {
  let surplus = lines.textContent.length - MAX_LOG;
  while (surplus > 0 && lines.firstChild) {
    surplus -= lines.firstChild.textContent.length;
    lines.firstChild.remove();
  }
}

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
  followLogs();
  setInterval(() => document.hidden || (tick(), arrange()), 1000); // no event tells that a finger has left
}
