// The worker behind the page: Python with the runs and the protocol, one answer after the other.
import { HOME, bytesOf, lastLine, startPython } from "./python.js";

async function start() {
  const runtime = new URL("../runtime/", import.meta.url);
  const { python, manifest } = await startPython(runtime, (found) => [found.core, found.runs], (progress) => self.postMessage({ progress }));
  const microscope = python.runPython(`
import json
from tinygpt_core.live.protocol import Microscope
_manifest = json.loads(${JSON.stringify(JSON.stringify(manifest))})
Microscope(_manifest["run_folders"], _manifest["corpora"], backend="python").answer_text`);
  let before = Promise.resolve(), hasOptimizers = false;
  self.onmessage = ({ data }) => { before = before.then(async () => {
    let answer;
    try {
      if (!hasOptimizers && JSON.parse(data.request).params.continue_run) { // large, and needed for nothing else
        python.unpackArchive(await bytesOf(runtime, manifest.optimizers), "zip", { extractDir: HOME });
        hasOptimizers = true;
      }
      answer = microscope(data.request);
    } catch (problem) { answer = JSON.stringify({ error: lastLine(problem) }); } // no network, a defect, or no memory left
    self.postMessage({ id: data.id, answer });
  }); };
  self.postMessage({ ready: true });
}

start().catch((problem) => self.postMessage({ failed: lastLine(problem) }));
