// The editor of a block: CodeMirror, loaded when the first block is edited.

const wanted = {
  "codemirror-commands": ["defaultKeymap", "history", "historyKeymap"],
  "codemirror-language": ["bracketMatching", "indentOnInput", "indentUnit", "syntaxHighlighting"],
  "codemirror-lang-python": ["python"],
  "codemirror-view": ["EditorView", "drawSelection", "keymap"],
  "lezer-highlight": ["classHighlighter"],
};
let loaded = null;

async function load(root) {
  const parts = await Promise.all(Object.entries(wanted).map(async ([file, names]) => {
    const module = await import(new URL(`runtime/editor/${file}.js`, root));
    return names.map((name) => [name, module[name]]);
  }));
  return Object.fromEntries(parts.flat());
}

// Puts an editor with a text into an element; `run` is called by Ctrl-Enter or Shift-Enter.
export async function edit(root, parent, text, run, label) {
  loaded ||= load(root);
  const code = await loaded;
  const go = () => { run(); return true; };
  const view = new code.EditorView({
    doc: text.replace(/\n$/, ""),
    parent,
    extensions: [
      code.history(), code.drawSelection(), code.indentOnInput(), code.indentUnit.of("    "), code.bracketMatching(), code.python(), code.syntaxHighlighting(code.classHighlighter),
      code.keymap.of([{ key: "Ctrl-Enter", run: go }, { key: "Cmd-Enter", run: go }, { key: "Shift-Enter", run: go }, ...code.defaultKeymap, ...code.historyKeymap]),
      code.EditorView.contentAttributes.of({ "aria-label": label }),
    ],
  });
  view.dom.addEventListener("keydown", (event) => event.stopPropagation()); // the page has keys of its own, such as "/" for the search
  return { text: () => `${view.state.doc.toString()}\n`, focus: () => view.focus(), remove: () => view.destroy() };
}
