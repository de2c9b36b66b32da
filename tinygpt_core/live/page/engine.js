// Two engines behind one protocol: Python on this machine, asked by fetch, and Python inside this browser, asked by messages to a worker.
// Both answer one question after the other.

class ServerEngine {
  constructor() { this.name = "Python on this machine"; }

  start() { return Promise.resolve(); }

  async ask(method, params = {}) {
    let response;
    try {
      response = await fetch("protocol", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ method, params }) });
    } catch { throw new Error("Python does not answer any more: start `tinygpt live` again, and open the address that it prints"); }
    if (!response.ok) throw new Error((await response.text()).trim());
    return unpacked(await response.json());
  }
}

class WorkerEngine {
  constructor(progress) {
    this.name = "Python in this tab";
    this.progress = progress;
    this.waiting = new Map();
    this.next = 0;
  }

  start() {
    if (location.protocol === "file:") return Promise.reject(new Error("A browser starts no Python from a file: serve this folder, for example by `python3 -m http.server`, and open its address."));
    if (navigator.serviceWorker) navigator.serviceWorker.register(new URL("../offline.js", import.meta.url)).catch(() => {}); // then it works with a network only
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    return new Promise((ready, failed) => {
      this.worker.onmessage = ({ data }) => {
        if (data.progress) this.progress(data.progress);
        else if (data.ready) ready();
        else if (data.failed) failed(new Error(data.failed));
        else {
          const waiting = this.waiting.get(data.id);
          this.waiting.delete(data.id);
          waiting(JSON.parse(data.answer));
        }
      };
      this.worker.onerror = (event) => failed(new Error(event.message || "the worker could not be loaded"));
    });
  }

  ask(method, params = {}) {
    const id = this.next++;
    return new Promise((done) => {
      this.waiting.set(id, done);
      this.worker.postMessage({ id, request: JSON.stringify({ method, params }) });
    }).then(unpacked);
  }
}

function unpacked(answer) {
  if (answer.error !== undefined) throw new Error(answer.error);
  return answer.result;
}

export function makeEngine(progress) {
  return document.documentElement.dataset.engine === "worker" ? new WorkerEngine(progress) : new ServerEngine();
}

// Of questions of one kind only the newest matters: while one is being answered, a newer one takes the place of those that wait.
export function newestOnly(work) {
  let running = false, waiting = null;
  return async function run(...given) {
    if (running) { waiting = given; return; }
    running = true;
    try {
      await work(...given);
      while (waiting) {
        const next = waiting;
        waiting = null;
        await work(...next);
      }
    } finally { running = false; waiting = null; }
  };
}
