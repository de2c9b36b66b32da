// Python for the blocks of a page. They share one namespace; blocks that stand alone get one each.
import { HOME, bytesOf, lastLine, startPython } from "../../live/python.js";

const runtime = new URL("../../runtime/", import.meta.url), decoder = new TextDecoder();
let shared = null;
self.onmessage = ({ data }) => { shared = data.shared; };

const RUNNER = `
import linecache, sys, sysconfig, traceback
_namespace = {"__name__": "document"}

def _run(code, name, alone):
    "Runs a block; returns None, or what went wrong as a person reads it."
    file = f"<{name}>"
    linecache.cache[file] = (len(code), None, code.splitlines(True), file)
    try:
        exec(compile(code, file, "exec"), {"__name__": "document"} if alone else _namespace)
    except KeyboardInterrupt:
        return "interrupted"
    except BaseException as problem:
        frames = problem.__traceback__.tb_next
        return "".join(traceback.format_exception(type(problem), problem, frames))
    finally:
        sys.stdout.flush()

_stdlib = sysconfig.get_path("stdlib")
_run`;

async function start() {
  const { python } = await startPython(runtime, (found) => [found.core, found.book], (progress) => self.postMessage({ progress }));
  if (shared) python.setInterruptBuffer(shared);
  const print = { write: (bytes) => { self.postMessage({ printed: decoder.decode(bytes, { stream: true }) }); return bytes.length; }, isatty: false };
  python.setStdout(print);
  python.setStderr(print);
  const run = python.runPython(RUNNER);
  let hasSources = false;
  self.onmessage = async ({ data }) => {
    try {
      if (!hasSources && /load_corpus|Trainer/.test(data.code)) { // a corpus may be made of the library's sources, which stand in an archive here
        python.unpackArchive(await bytesOf(runtime, "pyodide/python_stdlib.zip"), "zip", { extractDir: python.globals.get("_stdlib") });
        hasSources = true;
      }
      self.postMessage({ error: run(data.code, data.name, data.alone) ?? null });
    } catch (problem) { self.postMessage({ error: lastLine(problem) }); }
  };
  python.FS.chdir(HOME);
  self.postMessage({ ready: true });
}

start().catch((problem) => self.postMessage({ failed: lastLine(problem) }));
