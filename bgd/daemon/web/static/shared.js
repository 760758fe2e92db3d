// One connection for the streams of all pages of this browser, which opens only six to a host. A worker that the pages
// share keeps it; where there is none, each page does. It only passes on what it is sent: pages check the seals.
"use strict";

const sharedScript = self.document ? document.currentScript.src : location.href;
const place = new URL("../job-logs/shared/", sharedScript).pathname;

function randomHex() {
  const bytes = [...crypto.getRandomValues(new Uint8Array(16))];
  return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

class SharedConnection {
  ports = new Map(); // of pages, by the nonces of their streams
  source = null;

  serve(port) {
    port.onmessage = ({ data: { nonce, address, isDead } }) => {
      if (address) this.add(nonce, address, port);
      else isDead ? this.lost() : this.end(nonce);
    };
  }

  async add(nonce, address, port) {
    this.ports.set(nonce, port);
    if (!this.source) this.connect();
    await this.isOpen; // never, if it is lost before
    const headers = { Accept: "text/event-stream" };
    const answer = await fetch(`${address}&shared=${this.name}`, { headers }).catch(() => null);
    if (!answer?.ok) this.end(nonce);
  }

  connect() {
    this.name = randomHex();
    this.source = new EventSource(place + this.name);
    this.isOpen = new Promise((resolve) => (this.source.onopen = resolve));
    this.source.onerror = () => this.lost();
    this.source.onmessage = ({ data, lastEventId }) => {
      const [nonce, seal] = lastEventId.split(" ");
      if (!seal) this.end(nonce);
      else if (this.ports.has(nonce)) this.ports.get(nonce).postMessage({ nonce, data, seal });
      else fetch(`${place}${this.name}/${nonce}/drop`).catch(() => null); // its page was closed
    };
  }

  lost() {
    for (const nonce of this.ports.keys()) this.end(nonce);
  }

  end(nonce) {
    this.ports.get(nonce)?.postMessage({ nonce });
    this.ports.delete(nonce);
    if (this.ports.size) return;
    this.source?.close();
    this.source = null;
  }
}

const ownConnection = new SharedConnection();
if (!self.document) self.onconnect = ({ ports: [port] }) => ownConnection.serve(port);
