// Show any place of a log, load what is near it, and follow its end.
const log = document.getElementById("log"); // it scrolls
const [lines, open] = log.firstElementChild.children;
const form = document.querySelector(".tools form");
const address = (page, query) => `${log.dataset.url}/${page}?${new URLSearchParams(query)}`;
const queryOf = (url) => Object.fromEntries(new URL(url).searchParams);
const place = (line) => ({ at: queryOf(line.firstChild.href).at, line: line.firstChild.dataset.n });
let end = { ...log.dataset }; // what comes behind the lines
let isLoading = false;
let tail; // the stream of what is written now

async function load(query) {
  const text = await sealedText(address("part", query)).catch(() => null);
  return text === null ? null : JSON.parse(text);
}

// Change lines above or below what is shown, which stays where it is.
function change(isAbove, act) {
  const [top, height] = [log.scrollTop, log.scrollHeight];
  act();
  log.scrollTop = isAbove ? top + log.scrollHeight - height : top;
}

function add(part) {
  keepEnd(log, () => addOutput(lines, open, part));
  end = part;
}

async function extend(isUp) {
  const edge = isUp ? lines.firstChild : lines.lastChild;
  const { at, line } = isUp && edge ? place(edge) : end;
  if (isLoading || (isUp ? at < 1 : end.last)) return;
  isLoading = true;
  const part = await load({ [isUp ? "before" : "after"]: at, line });
  isLoading = false;
  if (!part || edge !== (isUp ? lines.firstChild : lines.lastChild)) return;
  change(isUp, () => (isUp ? lines.prepend(contentOf(part.lines)) : add(part)));
  settle();
}

// Drop what is far if there is much, load what is near, and follow the log if its end is here.
function settle() {
  const [all, below, near] = [lines.children, log.scrollTop + log.clientHeight, 2 * log.clientHeight];
  const few = all.length >> 2;
  if (all.length > 2000 || (few && end.at - place(all[0]).at > 200_000)) {
    const last = all[all.length - few];
    const range = new Range();
    range.selectNodeContents(lines);
    if (log.scrollTop - all[few].offsetTop > near) {
      range.setEndBefore(all[few]);
      change(true, () => range.deleteContents());
    } else if (last.offsetTop - below > near) {
      end = place(last);
      range.setStartBefore(last);
      range.deleteContents();
      open.replaceChildren();
    }
  }
  if (log.scrollTop < near) extend(true);
  if (log.scrollHeight - below < near) extend(false);
  if (!end.last || !log.dataset.running) tail = tail?.end();
  else tail ??= streamFrom(end, (query) => `${log.dataset.url}/live?linked=1&${query}`, receive);
}

function receive(news) {
  if (news.end) log.dataset.running = "";
  else if (news.skipped && !isAtEnd(log)) end = { ...end, last: false }; // it stays where it is
  else {
    if (news.skipped) lines.replaceChildren();
    add({ ...news, last: true });
  }
  settle();
}

async function show(query) {
  const part = await load(query);
  if (!part) return;
  tail = tail?.end();
  lines.replaceChildren();
  add(part);
  arrive(query);
}

async function arrive({ after, at }) {
  log.scrollTop = after || at ? 0 : log.scrollHeight;
  if (at) await extend(true);
  log.querySelector(".target")?.scrollIntoView({ block: "center" });
  settle();
}

let closeSearch, text, hits, index;

function find() {
  closeSearch?.();
  [text, hits, index] = [form.text.value, [], -1];
  const take = (news) => {
    hits.push(...news.hits);
    form.querySelector("output").textContent = news.text;
    if (news.end) closeSearch();
    if (index < 0) go(1);
  };
  closeSearch = sealedEvents(address("search", { text }), take, () => {});
}

function go(step) {
  if (!hits.length) return;
  index = (index + step + hits.length) % hits.length;
  form.querySelector("b").textContent = index + 1;
  show({ at: hits[index] });
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (form.text.value !== text) find();
  else go(event.submitter.value === "back" ? -1 : 1);
});

for (const link of document.querySelectorAll(".places a")) {
  link.addEventListener("click", (click) => {
    click.preventDefault();
    show(queryOf(link.href));
    log.focus();
  });
}

for (const box of document.querySelectorAll(".tools [type=checkbox]")) {
  const set = () => log.classList.toggle(box.id, box.checked);
  box.checked = localStorage[`bgd-${box.id}`];
  box.addEventListener("change", () => {
    localStorage[`bgd-${box.id}`] = box.checked ? 1 : "";
    set();
  });
  set();
}

log.addEventListener("scroll", settle);
log.focus();
arrive(queryOf(location.href));
