// Show any place of a log, load what is near it, and follow its end.
const log = document.getElementById("log"); // it scrolls
const [lines, open] = log.firstElementChild.children;
const form = document.querySelector(".tools form");
const places = document.querySelector(".places"); // links to the start and the end
const address = (page, query) => `${log.dataset.url}/${page}?${new URLSearchParams(query)}`;
const queryOf = (url) => Object.fromEntries(new URL(url).searchParams);
const links = (element) => element.querySelectorAll("[data-n]"); // one in each line; titles of groups have no address
const placeOf = ({ href, dataset: { at, n } }) => ({ at: at ?? queryOf(href).at, line: n });
const place = (element) => placeOf(links(element)[0]);
let end = { ...log.dataset }; // what comes behind the lines
let [tail, isLoading] = [null, false]; // the stream of what is written now, and whether a part is on its way
let [seen, newest] = ["", ""]; // the numbers of the last line that was on the screen, and of the last that came
let shown = {}; // whether it is the end, and the first line on the screen
let [closeSearch, text, hits, index] = [() => {}, "", [], -1]; // of the latest search, and the hit that is shown

const load = async (query) => JSON.parse(await sealedText(address("part", { ...query, text })).catch(() => null));

// Change lines above what is shown, which stays where it is.
function keepBelow(act) {
  const below = log.scrollHeight - log.scrollTop;
  act();
  log.scrollTop = log.scrollHeight - below;
}

function add(part) {
  const last = lines.lastElementChild;
  addOutput(lines, open, part);
  end = part;
  const more = continued(last);
  if (!more) return;
  more.open = last.open;
  if (last.children.length > 500) return;
  more.firstElementChild.remove(); // the title
  last.append(...more.childNodes);
  more.remove();
}

function addAbove(part) {
  const first = lines.firstElementChild;
  lines.prepend(contentOf(part.lines));
  const before = first?.previousElementSibling;
  if (continued(before)) before.open = first.open;
}

// Return the next part of the same group.
function continued(group) {
  const next = group?.nextElementSibling;
  return group?.matches("details") && next?.matches(".continued") ? next : null;
}

async function extend(isUp) {
  const edge = isUp ? lines.firstChild : lines.lastChild;
  const { at, line } = isUp && edge ? place(edge) : end;
  if (isLoading || (isUp ? at < 1 : end.last) || links(lines).length > 4000) return; // many: of a folded group
  isLoading = true;
  const part = await load({ [isUp ? "before" : "after"]: at, line });
  isLoading = false;
  if (!part || edge !== (isUp ? lines.firstChild : lines.lastChild)) return;
  if (isUp) keepBelow(() => addAbove(part));
  else add(part);
  settle();
}

// Drop what is far if there is much, load what is near, and follow the log if its end is here.
function settle() {
  const size = `${log.clientWidth} ${log.clientHeight}`;
  if (shown.size !== size) keepPlace();
  const [all, below, near] = [lines.children, log.scrollTop + log.clientHeight, 2 * log.clientHeight];
  const few = all.length >> 2;
  const isFull = links(lines).length > 5000; // even if a folded group hides them
  if (isFull || all.length > 2000 || (few && end.at - place(all[0]).at > 200_000)) {
    const [above, behind] = [[...all].slice(0, few), [...all].slice(-few)];
    if (isFull || log.scrollTop - all[few].offsetTop > near) keepBelow(() => above.forEach((line) => line.remove()));
    else if (behind[0].offsetTop - below > near) {
      end = place(behind[0]);
      open.replaceChildren();
      behind.forEach((line) => line.remove());
    }
  }
  if (log.scrollTop < near) extend(true);
  if (log.scrollHeight - below < near) extend(false);
  if (!end.last || !log.dataset.running) tail = tail?.end();
  else tail ??= streamFrom(end, `${address("live", { linked: 1 })}&`, receive);
  shown = { size, isEnd: isAtEnd(log), top: [...links(lines)].find((line) => line.offsetTop >= log.scrollTop) };
  if (shown.isEnd && end.last) seen = newest = end.line;
  const news = newest > seen ? `: ${(newest - seen).toLocaleString("en")}${tail ? "" : " or more"} new lines` : "";
  places.lastElementChild.textContent = shown.isEnd && tail ? "Following" : `End${news}`;
}

// Show the same place in a window of another size, or with lines of another height.
function keepPlace() {
  log.scrollTop = shown.isEnd ? log.scrollHeight : (shown.top?.offsetTop ?? log.scrollTop);
}

function receive(news) {
  newest = news.line ?? newest;
  if (news.end) log.dataset.running = "";
  else if (news.skipped && !isAtEnd(log)) end = { ...end, last: false }; // it stays where it is
  else {
    if (news.skipped) lines.replaceChildren();
    keepEnd(log, () => add({ ...news, last: true }));
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
  log.scrollLeft = 0;
  if (at) await extend(true);
  const found = document.getElementById("found") ?? log.querySelector(".target");
  found?.scrollIntoView({ block: "center", inline: "nearest" });
  settle();
}

// Show another place, which the address of this page names from now on.
function visit(query) {
  history.pushState(null, "", `?${new URLSearchParams(text ? { ...query, text } : query)}`);
  show(query);
}

// Search for a text, and go to the first hit, unless the page shows the hit at an offset.
function find(words, at) {
  closeSearch();
  [text, hits, index] = [words, [], -1];
  const [number, count] = form.querySelectorAll("b, output");
  number.textContent = count.textContent = "";
  if (!text) return;
  const take = (news) => {
    hits.push(...news.hits);
    count.textContent = news.text;
    if (news.end) closeSearch();
    if (index < 0) go(1, at);
  };
  closeSearch = sealedEvents(address("search", { text }), take, () => {});
}

function go(step, at) {
  if (!hits.length) return;
  index = at ? hits.indexOf(+at) : (index + step + hits.length) % hits.length;
  form.querySelector("b").textContent = index < 0 ? "" : index + 1;
  if (!at) visit({ at: hits[index] });
}

// Search for what the address names.
function restore() {
  const query = queryOf(location.href);
  form.text.value = query.text ?? "";
  find(form.text.value, query.at);
  return query;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (form.text.value !== text) find(form.text.value);
  else go(event.submitter.value === "back" ? -1 : 1);
});

form.text.addEventListener("keydown", (pressed) => {
  if (pressed.key !== "Enter" || !pressed.shiftKey) return;
  pressed.preventDefault();
  form.querySelector("[value=back]").click();
});

places.addEventListener("click", (click) => {
  if (!click.target.href) return;
  click.preventDefault();
  visit(queryOf(click.target.href));
  log.focus();
});

for (const box of document.querySelectorAll(".tools [type=checkbox]")) {
  const set = () => log.classList.toggle(box.id, box.checked);
  box.checked = localStorage[`bgd-${box.id}`];
  box.addEventListener("change", () => {
    localStorage[`bgd-${box.id}`] = box.checked ? 1 : "";
    set();
    keepPlace();
  });
  set();
}

addEventListener("popstate", () => show(restore()));
log.addEventListener("scroll", settle);
log.addEventListener("toggle", ({ target }) => {
  const more = continued(target);
  if (more) more.open = target.open;
  settle();
}, true);
new ResizeObserver(settle).observe(log);
log.focus();
arrive(restore());
