// Python inside a worker: Pyodide, the core, the runs, and the protocol. Everything lies beside the page.
const runtime = new URL("../runtime/", import.meta.url);
const say = (progress) => self.postMessage({ progress });

async function bytesOf(name) {
  const response = await fetch(new URL(name, runtime));
  if (!response.ok) throw new Error(`${name} could not be loaded (${response.status})`);
  return response.arrayBuffer();
}

async function start() {
  const manifest = await (await fetch(new URL("manifest.json", runtime))).json();
  say("Loading Python (about 6 MB, once) …");
  const files = Promise.all([bytesOf(manifest.core), bytesOf(manifest.runs)]);
  const { loadPyodide } = await import(new URL("pyodide/pyodide.mjs", runtime));
  const python = await loadPyodide({ indexURL: new URL("pyodide/", runtime).href });
  say("Unpacking tinygpt and its runs …");
  const [core, runs] = await files;
  python.unpackArchive(core, "zip", { extractDir: "/home/pyodide" });
  python.unpackArchive(runs, "zip", { extractDir: "/home/pyodide" });
  const microscope = python.runPython(`
import json, sys
sys.path.insert(0, "/home/pyodide")
from tinygpt_core.live.protocol import Microscope
_manifest = json.loads(${JSON.stringify(JSON.stringify(manifest))})
Microscope(_manifest["run_folders"], _manifest["corpora"], backend="python").answer_text`);
  self.onmessage = ({ data }) => self.postMessage({ id: data.id, answer: microscope(data.request) });
  self.postMessage({ ready: true });
}

start().catch((problem) => self.postMessage({ failed: String(problem.message || problem).trim().split("\n").pop() }));
