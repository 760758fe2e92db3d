// Follow the output of running attempts, in blocks of lines: a page keeps only the last of them.
"use strict";

const NEAR_END = 40; // pixels from the end of a log within which the page follows it
const MAX_BLOCK = 20_000; // characters of HTML in a block, after which another begins
const MAX_OUTPUT = 400_000; // characters of HTML of one attempt
const MAX_WAITING = 5; // updates that are not shown yet; of more, the first are left out

const isAtEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END;

// Change what a box shows; stay at the end of it.
function keepEnd(box, change) {
  const wasAtEnd = isAtEnd(box);
  change(wasAtEnd);
  if (wasAtEnd) box.scrollTop = box.scrollHeight;
}

// Add lines and replace the open one.
function addOutput(lines, open, news) {
  lines.append(contentOf(news.lines));
  open.replaceChildren(contentOf(news.open));
}

// Open the stream of a log from a position on. Show one update in a frame, so that the page answers in between.
function streamFrom(position, address, show) {
  const updates = [];
  let [latest, at] = [position, position.at]; // what came last, and the offset of what is shown
  const next = () => {
    if (stream.isOver) return;
    const news = updates.shift();
    at = news.at;
    if (updates.length) requestAnimationFrame(next);
    show(news);
  };
  const query = () => new URLSearchParams({ at: latest.at, style: latest.style, line: latest.line ?? "" });
  const stream = new Stream(() => address(query()), (news) => {
    if (!news.end) latest = news;
    if (updates.push(news) === 1) requestAnimationFrame(next);
    if (updates.length <= MAX_WAITING) return;
    const lost = updates.shift();
    updates[0].skipped = [at, updates[0].skipped?.[1] ?? lost.at];
  });
  return stream;
}

function follow(log) {
  let [{ live, ...position }, size, stream] = [{ ...log.dataset }, 0];
  delete log.dataset.live; // it is followed from now on
  const box = log.querySelector("pre");
  const [lines, open] = box.children;
  const empty = log.parentElement.querySelector(":scope > .empty");

  function addBlock(...content) {
    const block = document.createElement("span");
    block.className = "block";
    block.append(...content);
    lines.append(block);
    grow(block.innerHTML.length);
  }

  function grow(added) {
    lines.lastChild.size = (lines.lastChild.size ?? 0) + added;
    size += added;
  }

  function add(news, wasAtEnd) {
    if (news.skipped) addBlock(gap(log, news.skipped));
    else if (lines.lastChild.size > MAX_BLOCK) addBlock();
    addOutput(lines.lastChild, open, news);
    grow(news.lines.length);
    while (wasAtEnd && size - lines.firstChild.size > MAX_OUTPUT) {
      size -= lines.firstChild.size;
      lines.firstChild.remove();
    }
  }

  function show(news) {
    if (news.end) {
      empty.textContent = "No output.";
      return stream.end();
    }
    if (log.hidden) [log.hidden, empty.hidden] = [false, true];
    position = news;
    keepEnd(box, (wasAtEnd) => add(news, wasAtEnd));
    if (isFull()) stream = stream.end();
  }

  // Whoever reads what is above keeps it: the rest comes once the end is looked at again.
  const isFull = () => size > MAX_OUTPUT && !isAtEnd(box);
  const connect = () => isFull() || (stream ??= streamFrom(position, (query) => `${live}?${query}`, show));
  addBlock(...lines.childNodes);
  box.scrollTop = box.scrollHeight;
  box.addEventListener("scroll", connect);
  connect();
}

// Return a link to output that was not sent.
function gap(log, [begin, end]) {
  const link = document.createElement("a");
  link.href = `${log.querySelector(".caption a").href.split("#")[0]}?at=${begin}`;
  link.textContent = `==> ${(end - begin).toLocaleString("en")} bytes are not shown here <==\n`;
  return link;
}

const followLogs = () => document.querySelectorAll(".log[data-live]").forEach((log) => follow(log));
document.addEventListener("updated", followLogs);
followLogs();
