// Take answers only from the daemon that sent this page: another server may have its port by now.
"use strict";

const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

// The key of this page. It is never sent. Only pages over https or of this machine can use it.
const sealKey = window.crypto?.subtle?.importKey(
  "raw", bytesOf(document.body.dataset.key), { name: "HMAC", hash: "SHA-256" }, false, ["verify"],
);

// The seals of one answer: each is an HMAC of the nonce, a number that counts up, and a text.
class Seal {
  constructor() {
    this.nonce = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    this.count = 0;
  }

  addressOf(address) {
    const mark = address.includes("?") ? "&" : "?";
    return `${address}${mark}page=${document.body.dataset.page}&nonce=${this.nonce}`;
  }

  // To be called for each text in its turn.
  async isOn(text, seal) {
    if (!sealKey) return true; // plain http from elsewhere: anyone in between can do anything
    const sealed = new TextEncoder().encode(`${this.nonce}\n${this.count++}\n${text}`);
    try {
      return await crypto.subtle.verify("HMAC", await sealKey, bytesOf(seal), sealed);
    } catch {
      return false; // not base64
    }
  }
}

// Return the text of an answer, or null if it is an error or not sealed.
async function sealedText(address) {
  const seal = new Seal();
  const answer = await fetch(seal.addressOf(address), { headers: { Accept: "application/json" } });
  const text = await answer.text();
  return answer.ok && (await seal.isOn(text, answer.headers.get("X-Bgd-Seal"))) ? text : null;
}

// Open a stream of events; call `take` with the value of each in turn, or `lose` if it ends or one is not sealed.
// Return what closes it.
function sealedEvents(address, take, lose) {
  const seal = new Seal();
  const source = new EventSource(seal.addressOf(address));
  let isOpen = true;
  let turn = Promise.resolve();
  const close = () => {
    isOpen = false;
    source.close();
  };
  const next = (step) => (turn = turn.then(() => isOpen && step()).catch(reportError));
  const end = () => {
    close();
    lose();
  };
  source.onmessage = ({ data, lastEventId }) => next(async () => {
    const isSealed = await seal.isOn(data, lastEventId);
    if (isOpen) isSealed ? take(JSON.parse(data)) : end();
  });
  source.onerror = () => {
    source.close(); // it would connect again by itself, with the same nonce
    next(end);
  };
  return close;
}
