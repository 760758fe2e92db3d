// Take answers only from the daemon that sent this page: another server may have its port by now.
"use strict";

// The daemon escapes all that it sends, and no other script runs here.
const asIs = { createHTML: (text) => text, createScriptURL: (address) => address };
const policy = window.trustedTypes ? trustedTypes.createPolicy("bgd", asIs) : asIs;

const base = document.body.dataset.base; // what stands before all paths
const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

// The key of this page. It is never sent. Only pages over https or of this machine can use it.
const sealKey = window.crypto?.subtle?.importKey(
  "raw", bytesOf(document.body.dataset.key), { name: "HMAC", hash: "SHA-256" }, false, ["verify"],
);

// The seals of one answer: each is an HMAC of the nonce, a number that counts up, and a text.
class Seal {
  constructor() {
    this.nonce = randomHex();
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

// Return the text of an answer, or null if it is refused or not sealed. Throw if bgd does not answer, or a proxy does.
async function sealedText(address, headers = {}, signal = null) {
  const seal = new Seal();
  const answer = await fetch(seal.addressOf(address), { headers: { Accept: "application/json", ...headers }, signal });
  const text = await answer.text();
  if (answer.status >= 500) throw new Error(text);
  return answer.ok && (await seal.isOn(text, answer.headers.get("X-Bgd-Seal"))) ? text : null;
}

// Open a stream of events; call `take` with the value of each in turn, or `lose` if it ends or one is not sealed.
// Return what closes it; `isDead`: nothing came for long, on a connection that others use too.
function sealedEvents(address, take, lose) {
  const seal = new Seal();
  const { nonce } = seal;
  let turn = Promise.resolve();
  const close = (isDead = false) => {
    receivers.delete(nonce);
    shared.postMessage({ nonce, isDead });
    if (isDead) shared = reachShared(); // the worker may have crashed
  };
  const receive = async (sent) => {
    const isSealed = "data" in sent && (await seal.isOn(sent.data, sent.seal));
    if (!receivers.has(nonce)) return;
    if (isSealed) return take(JSON.parse(sent.data));
    close();
    lose();
  };
  receivers.set(nonce, (sent) => (turn = turn.then(() => receive(sent)).catch(reportError)));
  shared.postMessage({ nonce, address: seal.addressOf(address) });
  return close;
}

// --- The connection that the pages of this browser share

const receivers = new Map(); // of the events of this page's streams, by their nonces
let shared = reachShared();

function reachShared() {
  const { port1, port2 } = new MessageChannel();
  const port = window.SharedWorker ? new SharedWorker(policy.createScriptURL(sharedScript)).port : port1;
  if (port === port1) ownConnection.serve(port2);
  port.onmessage = ({ data }) => receivers.get(data.nonce)?.(data);
  return port;
}
