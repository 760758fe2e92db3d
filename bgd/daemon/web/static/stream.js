// Keep the connections of this page: each stream is opened again when it is lost, and closed while nobody looks.
"use strict";

const FIRST_RETRY = 1000; // milliseconds; doubled up to the last
const LAST_RETRY = 15000;
const SILENCE = 40000; // milliseconds after which a connection counts as lost; the daemon is never silent for 15 s

// Keeps one stream open while the page is visible.
class Stream {
  constructor(address, receive) {
    this.address = address; // returns the address to continue from
    this.receive = receive;
    this.delay = FIRST_RETRY;
    this.isOver = false;
    streams.add(this);
    this.open();
  }

  open() {
    if (document.hidden || this.isOver || this.hangUp || !sealKey || isGone) return;
    this.heardAt = Date.now();
    const take = (news) => {
      this.heard();
      if (news?.gone) leave(news.gone);
      else if (news) this.receive(news); // null says that the connection lives
    };
    this.hangUp = sealedEvents(this.address(), take, () => this.lost());
  }

  heard() {
    this.heardAt = Date.now();
    this.delay = FIRST_RETRY;
    this.isLost = false;
    showConnection();
  }

  check() {
    if (this.hangUp && Date.now() - this.heardAt > SILENCE) this.lost(true);
  }

  lost(isDead) {
    this.close(isDead);
    if (this.isOver) return;
    this.isLost = true;
    showConnection();
    explainLoss();
    this.retry = setTimeout(() => this.open(), this.delay);
    this.delay = Math.min(2 * this.delay, LAST_RETRY);
  }

  close(isDead) {
    clearTimeout(this.retry);
    this.hangUp?.(isDead);
    this.hangUp = null;
  }

  end() {
    this.isOver = true;
    this.isLost = false;
    this.close();
    streams.delete(this);
    showConnection();
  }
}

const streams = new Set();
let isGone = false; // what this page shows was removed
const connection = document.getElementById("connection");

function showConnection() {
  if (sealKey && !isGone) connection.hidden = ![...streams].some((stream) => stream.isLost);
}

// Say what to do if only a new login helps. This page then goes on.
async function explainLoss() {
  const status = await fetch(`${base}/job-logs/seal`).then((answer) => answer.status, () => 0);
  const isOver = status === 401 || status === 421; // 421: pages have another name now
  if (!isGone) connection.textContent = isOver ? connection.dataset.over : connection.dataset.lost;
}

// Never connect again: there is nothing to show any more.
function leave(why) {
  isGone = true;
  for (const stream of streams) stream.end();
  document.documentElement.classList.remove("can-act");
  notify(why);
}

function notify(text) {
  connection.textContent = text;
  connection.hidden = false;
}

function connectAgain() {
  for (const stream of streams) stream.close();
  for (const stream of streams) stream.open();
}

document.addEventListener("visibilitychange", connectAgain);
addEventListener("storage", ({ key }) => key === `bgd-token${base}` && connectAgain()); // another tab has logged in

if (document.body.dataset.live && !sealKey) notify("This page changes by itself only over https or on this machine: reload it.");

setInterval(() => streams.forEach((stream) => stream.check()), 1000);
