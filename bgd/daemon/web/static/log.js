// Show any place of a log, load what is near it, and follow its end.
const log = document.getElementById("log"); // it scrolls
const [lines, open] = log.firstElementChild.children;
const form = document.querySelector(".tools form");
const { url } = log.dataset;
const address = (page, query) => `${url}/${page}?${new URLSearchParams(query)}`;
const place = (line) => ({ at: line.firstChild.search.slice(4), line: line.firstChild.dataset.n });
let end = { ...log.dataset }; // what comes behind the lines
let isLoading = false;
let tail; // the stream of what is written now

async function load(query) {
  const answer = await fetch(address("part", query)).catch(() => null);
  return answer?.ok ? answer.json() : null;
}

// Change the lines below what is shown, or those above it, which stays where it is.
function change(isBelow, act) {
  const [top, height] = [log.scrollTop, log.scrollHeight];
  act();
  log.scrollTop = isBelow ? top : top + log.scrollHeight - height;
}

async function extend(isUp) {
  const edge = isUp ? lines.firstChild : lines.lastChild;
  const { at, line } = isUp && edge ? place(edge) : end;
  if (isLoading || (isUp ? at < 1 : end.last)) return;
  isLoading = true;
  const part = await load({ [isUp ? "before" : "after"]: at, line });
  isLoading = false;
  if (!part || edge !== (isUp ? lines.firstChild : lines.lastChild)) return;
  change(!isUp, () => (isUp ? lines.prepend(...nodesOf(part.lines)) : add(part)));
  settle();
}

function add(part) {
  addOutput(log, lines, open, part);
  end = part;
}

// Drop an eighth of the lines if there are too many, load what is near, and follow the log if this is its end.
function settle() {
  const [all, below, near] = [lines.children, log.scrollTop + log.clientHeight, 2 * log.clientHeight];
  const few = all.length >> 3;
  if (all.length > 8000 || (few && end.at - place(all[0]).at > 600_000)) {
    const range = document.createRange();
    range.selectNodeContents(lines);
    if (log.scrollTop - all[few].offsetTop > near) {
      range.setEndBefore(all[few]);
      change(false, () => range.deleteContents());
    } else if (all[all.length - few].offsetTop - below > near) {
      range.setStartBefore(all[all.length - few]);
      end = place(all[all.length - few]);
      range.deleteContents();
      open.replaceChildren();
    }
  }
  if (log.scrollTop < near) extend(true);
  if (log.scrollHeight - below < near) extend(false);
  if (!end.last || !log.dataset.running) tail = tail?.end();
  else tail ??= new Stream(() => address("live", { linked: 1, at: end.at, style: end.style, line: end.line }), receive);
}

function receive(news) {
  if (news.skipped) return show({});
  if (news.end) log.dataset.running = "";
  else add({ ...news, last: true });
  settle();
}

async function show(query) {
  const part = await load(query);
  if (!part) return;
  tail = tail?.end();
  lines.replaceChildren();
  add(part);
  await arrive(query);
}

const marked = () => log.querySelector(".target");

async function arrive({ after, at }) {
  log.scrollTop = after ? 0 : log.scrollHeight;
  if (at) await extend(true);
  if (at) marked()?.scrollIntoView({ block: "center" });
  settle();
}

// --- Search

let [search, text, hits, index] = [];

function find() {
  search?.close();
  [text, hits, index] = [form.text.value, [], -1];
  search = new EventSource(address("search", { text }));
  search.onmessage = ({ data }) => {
    const news = JSON.parse(data);
    hits.push(...news.hits);
    form.querySelector("output").textContent = news.text;
    if (news.end) search.close();
    if (index < 0) go(1);
  };
}

function go(step) {
  if (!hits.length) return;
  index = (index + step + hits.length) % hits.length;
  form.querySelector("b").textContent = (index + 1).toLocaleString("en");
  show({ at: hits[index] });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (form.text.value !== text) find();
  else go(event.submitter.value === "back" ? -1 : 1);
});

// --- Links and switches

document.addEventListener("click", (click) => {
  const link = click.target.closest("#log a, .places a");
  if (!link || click.ctrlKey || click.metaKey) return;
  click.preventDefault();
  history.replaceState(null, "", link.href);
  if (log.contains(link)) {
    marked()?.classList.remove("target");
    link.parentNode.className = "target";
  } else {
    show(Object.fromEntries(new URL(link.href).searchParams));
    log.focus();
  }
});

for (const box of document.querySelectorAll(".tools [type=checkbox]")) {
  const set = () => log.classList.toggle(box.id, box.checked);
  box.checked = localStorage[`bgd-${box.id}`];
  box.onchange = () => {
    localStorage[`bgd-${box.id}`] = box.checked ? 1 : "";
    set();
  };
  set();
}

log.addEventListener("scroll", settle);
log.focus();
arrive(Object.fromEntries(new URLSearchParams(location.search)));
