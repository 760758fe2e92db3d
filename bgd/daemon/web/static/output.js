// Follow the output of running attempts, in blocks of lines: a page keeps only the last of them.
"use strict";

const NEAR_END = 40; // pixels from the end of a log within which the page follows it
const MAX_OUTPUT = 400_000; // characters of HTML of one attempt
const MAX_WAITING = 5; // updates that are not shown yet; if there are more, the page is too slow

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
  let [latest, updates] = [position, []];
  const next = () => {
    if (stream.isOver || !updates.length) return;
    position = updates.shift();
    if (updates.length) requestAnimationFrame(next);
    show(position);
  };
  const query = () => new URLSearchParams({ at: latest.at, style: latest.style, line: latest.line ?? "" });
  const stream = new Stream(() => address + query(), (news) => {
    if (!news.end) latest = news;
    if (updates.push(news) === 1) requestAnimationFrame(next);
    if (updates.length <= MAX_WAITING) return;
    [latest, updates] = [position, []]; // the daemon skips what is too much
    stream.close();
    stream.open();
  });
  return stream;
}

function follow(log) {
  let [{ live, ...position }, stream] = [{ ...log.dataset }];
  delete log.dataset.live; // it is followed from now on
  const box = log.querySelector("pre");
  const [lines, open] = box.children;
  const empty = log.parentElement.querySelector(":scope > .empty");
  let size = 0; // of all blocks

  function show(news) {
    if (news.end) {
      empty.textContent = "No output.";
      return stream.end();
    }
    if (log.hidden) [log.hidden, empty.hidden] = [false, true];
    position = news;
    keepEnd(box, (wasAtEnd) => {
      addOutput(lines, open, news);
      if (news.lines) size += lines.lastChild.size = news.lines.length;
      while (wasAtEnd && size > MAX_OUTPUT && lines.children.length > 1) {
        size -= lines.firstChild.size;
        lines.firstChild.remove();
      }
    });
    if (isFull()) stream = stream.end();
  }

  // Whoever reads what is above keeps it: the rest comes once the end is looked at again.
  const isFull = () => size > MAX_OUTPUT && !isAtEnd(box);
  const connect = () => isFull() || (stream ??= streamFrom(position, `${live}?`, show));
  if (lines.firstChild) size = lines.firstChild.size = lines.innerHTML.length;
  box.scrollTop = box.scrollHeight;
  box.addEventListener("scroll", connect);
  connect();
}

const followLogs = () => document.querySelectorAll(".log[data-live]").forEach((log) => follow(log));
document.addEventListener("updated", followLogs);
followLogs();
