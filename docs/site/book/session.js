// One Python for the page, in a worker that the first run starts. Where the page may share memory with it, an interrupt is a KeyboardInterrupt;
// elsewhere, as on a plain static host, the worker is ended, and the next run starts another one.

export function makeSession(root) {
  let worker = null, ready = null, waiting = null, gone = false, shared = null;
  const INTERRUPTED = "interrupted";

  function begin(say) {
    gone = false;
    worker = new Worker(new URL("_static/book/session-worker.js", root), { type: "module" });
    ready = new Promise((done, failed) => {
      worker.onmessage = ({ data }) => {
        if (data.progress) (waiting ? waiting.say : say)(data.progress);
        else if (data.ready) done();
        else if (data.failed) { worker = null; failed(new Error(data.failed)); }
        else if (data.printed !== undefined) waiting.print(data.printed);
        else waiting.done(data.error);
      };
      worker.onerror = (event) => { worker = null; failed(new Error(event.message || "Python could not be loaded")); };
    });
    if (self.crossOriginIsolated) {
      shared = new Uint8Array(new SharedArrayBuffer(1));
      worker.postMessage({ shared });
    }
    keepForLater(root);
    return ready;
  }

  // Resolves with null, with the traceback, or with INTERRUPTED.
  function run(code, { name, alone, print, say }) {
    return new Promise((done, failed) => {
      waiting = { done: (error) => { waiting = null; done(error); }, print, say };
      (worker ? ready : begin(say)).then(() => { say("Running …"); if (worker) worker.postMessage({ code, name, alone }); }, failed);
    });
  }

  function interrupt() {
    if (!waiting) return;
    if (shared) { shared[0] = 2; return; } // SIGINT
    worker.terminate();
    worker = null;
    gone = true;
    waiting.done(INTERRUPTED);
  }

  return { run, interrupt, INTERRUPTED, isGone: () => gone };
}

// The service worker keeps Python, and what this page is made of, for when there is no network.
async function keepForLater(root) {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register(new URL("offline.js", root));
    if (!navigator.serviceWorker.controller) await new Promise((done) => navigator.serviceWorker.addEventListener("controllerchange", done, { once: true }));
    const own = performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => name.startsWith(root.href) && !name.includes("/runtime/"));
    await Promise.all([location.href, ...own].map((name) => fetch(name)));
  } catch { /* then it works with a network only */ }
}
