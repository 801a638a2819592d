"use strict";
/* Browsers start no workers for pages opened from a disk. This one runs a worker's script in a
   hidden frame instead, which is all that the search of these pages needs of it. */
if (location.protocol === "file:") {
  window.IFrameWorker = class IFrameWorker extends EventTarget {
    constructor(address) {
      super();
      this.onmessage = this.onerror = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => {
        const message = new MessageEvent("message", {data});
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      };
      inside.importScripts = (...addresses) => addresses.reduce(
        (before, one) => before.then(() => this.load(one)), Promise.resolve());
      this.ready = this.load(address);
    }
    load(address) {
      const script = this.frame.contentDocument.createElement("script");
      script.src = address;
      return new Promise((done, failed) => {
        script.onload = done;
        script.onerror = failed;
        this.frame.contentDocument.body.append(script);
      });
    }
    postMessage(data) {
      this.ready.then(() => {
        const inside = this.frame.contentWindow;
        const message = new inside.MessageEvent("message", {data});
        inside.dispatchEvent(message);
      });
    }
    terminate() { this.frame.remove(); }
  };
  window.Worker = window.IFrameWorker;
}
