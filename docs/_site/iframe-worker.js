// The search runs in a web worker, and browsers start no worker for a page that was opened from a folder. On such a page a hidden
// frame runs the worker's script instead. Material loads this file in place of the polyfill that it would take from a server.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.messages = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html><title>Search</title>";
      this.frame.addEventListener("load", () => this.start(url), { once: true });
      document.body.append(this.frame);
    }

    start(url) {
      const scope = this.frame.contentWindow;
      scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = scope.document.createElement("script");
      script.src = url;
      script.addEventListener("load", () => {
        this.started = true;
        for (const data of this.messages.splice(0)) this.postMessage(data);
      });
      scope.document.body.append(script);
    }

    // As a worker does, it answers later and never inside the call.
    postMessage(data) {
      if (!this.started) this.messages.push(data);
      else setTimeout(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
