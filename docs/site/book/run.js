// The blocks of a page as one program: each can be run and edited, and what it prints stands beside what the book says that it prints.
import { element } from "../../live/dom.js";
import { edit } from "./editor.js";
import { makeSession } from "./session.js";

const lines = (text) => text.replace(/\s+$/, "").split("\n").map((line) => line.trimEnd());
const same = (a, b) => lines(a).join("\n") === lines(b).join("\n");

export function start(root) {
  const needs = JSON.parse(document.body.dataset.blocks), alone = document.body.dataset.alone === "true";
  const session = makeSession(root), blocks = [];
  let running = null;

  document.querySelectorAll("article div.highlight-python").forEach((outer, place) => blocks.push(makeBlock(outer, place)));

  function makeBlock(outer, place) {
    const inner = outer.querySelector(".highlight"), pre = inner.querySelector("pre"), beside = outer.nextElementSibling;
    const original = pre.textContent, expected = beside && beside.classList.contains("highlight-text") ? beside.querySelector("pre").textContent : "";
    const block = { place, ran: false, code: () => (block.editor ? block.editor.text() : original), needs: needs[place] };
    inner.copied = block.code;
    const run = element("button", { type: "button", class: "block-button run", "aria-label": `Run block ${place + 1}` }, "Run");
    const change = element("button", { type: "button", class: "block-button edit", "aria-label": `Edit block ${place + 1}` }, "Edit");
    const status = element("span", { class: "block-status", role: "status" }), output = element("pre", { tabindex: "0", "aria-label": `What block ${place + 1} printed` });
    const panel = element("div", { class: "printed", hidden: "" }, element("div", { class: "printed-head" }), output);
    const bar = element("div", { class: "block-bar" }, run, change, status);
    outer.after(bar);
    (expected ? beside : bar).after(panel);
    if (block.needs) {
      status.textContent = `Needs ${block.needs}: it runs on your machine, not in a browser.`;
      run.disabled = change.disabled = true;
      bar.classList.add("needs");
    }
    block.say = (text) => { status.textContent = text; };
    block.busy = (is) => { run.textContent = is ? "Interrupt" : "Run"; run.setAttribute("aria-label", `${is ? "Interrupt" : "Run"} block ${place + 1}`); outer.classList.toggle("running", is); };
    block.begin = () => { output.textContent = ""; panel.className = "printed"; panel.hidden = true; };
    block.print = (text) => { output.textContent += text; panel.hidden = false; panel.firstChild.textContent = "Printed here"; };
    block.end = (error) => {
      block.ran = !error;
      if (error) { block.print(`${output.textContent ? "\n" : ""}${error}`); panel.classList.add("failed"); panel.firstChild.textContent = "It ended with an error"; return block.say(""); }
      const changed = block.code() !== original, equal = same(output.textContent, expected);
      panel.classList.add(equal ? "equal" : "differs");
      panel.hidden = !output.textContent && !expected;
      const word = changed ? (equal ? "Printed here, as the book's block" : "Printed here by the block as you changed it") : equal ? "Printed here: equal to the book’s" : "Printed here: not what the book says";
      panel.firstChild.textContent = word;
      block.say(panel.hidden ? "Ran; it prints nothing." : "");
    };
    run.addEventListener("click", () => (running ? interrupt() : runUpTo(block)));
    change.addEventListener("click", async () => {
      if (block.editor) {
        block.editor.remove();
        block.editor = null;
        pre.hidden = false;
        change.textContent = "Edit";
        return run.focus();
      }
      change.disabled = true;
      try {
        block.editor = await edit(root, inner, original, () => runUpTo(block), `Block ${place + 1}`);
        pre.hidden = true;
        change.textContent = "Undo my changes";
        block.editor.focus();
      } catch (problem) { block.say(`The editor could not be loaded (${problem.message}).`); }
      change.disabled = false;
    });
    return block;
  }

  // A page is one program: what stands before a block is run first, where it was not.
  async function runUpTo(last) {
    if (running) return;
    const todo = alone ? [] : blocks.slice(0, last.place).filter((block) => !block.ran && !block.needs);
    for (const block of [...todo, last]) {
      running = block;
      block.begin();
      block.busy(true);
      block.say("Running …");
      let error;
      try { error = await session.run(block.code(), { name: `block ${block.place + 1}`, alone, print: block.print, say: last.say }); } catch (problem) { error = problem.message; }
      block.busy(false);
      running = null;
      if (error === session.INTERRUPTED) {
        if (session.isGone()) blocks.forEach((each) => { each.ran = false; });
        block.say(session.isGone() ? "Interrupted. Python was started anew, and knows nothing of the blocks before: they run again when you run one." : "Interrupted.");
        if (block !== last) last.say("");
        return;
      }
      block.end(error);
      if (error) { if (block !== last) last.say(`Block ${block.place + 1}, which comes before, ended with an error.`); return; }
    }
  }

  function interrupt() { session.interrupt(); }
}
