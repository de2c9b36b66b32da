// Python inside a worker: Pyodide, with archives that lie beside it unpacked in its home. All comes from one folder, and nothing else is loaded.

export const HOME = "/home/pyodide";

export async function bytesOf(runtime, name) {
  const response = await fetch(new URL(name, runtime));
  if (!response.ok) throw new Error(`${name} could not be loaded (${response.status})`);
  return response.arrayBuffer();
}

// `archives` says which of the manifest's archives are wanted; `say` is told what is being done.
export async function startPython(runtime, archives, say) {
  const manifest = JSON.parse(new TextDecoder().decode(await bytesOf(runtime, "manifest.json"))), wanted = archives(manifest);
  say(`Loading Python (at most ${manifest.megabytes} MB, once) …`);
  const files = Promise.all(wanted.map((name) => bytesOf(runtime, name)));
  const { loadPyodide } = await import(new URL("pyodide/pyodide.mjs", runtime));
  const python = await loadPyodide({ indexURL: new URL("pyodide/", runtime).href });
  say("Unpacking tinygpt …");
  for (const archive of await files) python.unpackArchive(archive, "zip", { extractDir: HOME });
  python.runPython(`import sys; sys.path.insert(0, ${JSON.stringify(HOME)})`);
  return { python, manifest };
}

export const lastLine = (problem) => String(problem.message || problem).trim().split("\n").pop();
