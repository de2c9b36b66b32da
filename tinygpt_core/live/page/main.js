// Starts the engine, and puts the views under their tabs.
import { attentionView } from "./attention.js";
import { closeDrawer } from "./cell.js";
import { byId, element } from "./dom.js";
import { makeEngine } from "./engine.js";
import { repaintAll } from "./heat.js";
import { nextView } from "./next.js";
import { makeReader } from "./reader.js";
import { ask, change, engineName, on, opened, setEngine, state, tell } from "./store.js";
import { makeTour } from "./tour.js";
import { trainView } from "./train.js";
import { tokensView, valuesView } from "./values.js";

const status = byId("status");
const views = { next: nextView(), attention: attentionView(), values: valuesView(), tokens: tokensView(), train: trainView() };
const titles = { next: "Next token", attention: "Attention", values: "Graph and values", tokens: "Tokens", train: "Train" };

for (const [name, view] of Object.entries(views)) {
  byId("tabs").append(element("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `view-${name}`, "aria-selected": "false", tabindex: "-1", on: { click: () => show(name) } }, titles[name]));
  view.id = `view-${name}`;
  view.setAttribute("role", "tabpanel");
  view.setAttribute("aria-labelledby", `tab-${name}`);
  view.hidden = true;
  byId("views").append(view);
}

function show(name) {
  for (const [other, view] of Object.entries(views)) {
    view.hidden = other !== name;
    const tab = byId(`tab-${other}`);
    tab.setAttribute("aria-selected", String(other === name));
    tab.tabIndex = other === name ? 0 : -1;
  }
  return views[name].shown();
}

byId("tabs").addEventListener("keydown", (event) => {
  const names = Object.keys(views), now = names.findIndex((name) => !views[name].hidden), move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!move) return;
  const next = names[(now + move + names.length) % names.length];
  show(next);
  byId(`tab-${next}`).focus();
  event.preventDefault();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !byId("drawer").hidden) closeDrawer(); });

const themes = ["auto", "light", "dark"];
byId("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme || "auto", next = themes[(themes.indexOf(now) + 1) % themes.length];
  document.documentElement.dataset.theme = next;
  byId("theme").textContent = `Theme: ${next}`;
  repaintAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaintAll);

on("problem", (text) => {
  status.textContent = text || `Ready: ${engineName()}.`;
  status.classList.toggle("problem", Boolean(text));
});
on("about", () => {
  const { about } = state, run = byId("run");
  byId("about").textContent = `${about.shows_training ? "The model in training" : about.run}: GPT with ${about.parameters.toLocaleString("en")} parameters, ${about.sizes}, ${about.vocabulary} tokens (${about.tokenizer}), on ${about.backend}.`;
  byId("run-label").hidden = about.runs.length < 2;
  run.replaceChildren(...about.runs.map((name) => element("option", { value: name }, name)));
  run.value = about.run;
  views.train.about(about);
});
byId("run").addEventListener("change", async () => {
  try {
    await opened(await ask("open", { run: byId("run").value }));
    await change({ text: byId("text").value });
  } catch (problem) { tell("problem", problem.message); }
});
byId("tour").addEventListener("click", makeTour(views, show));

makeReader();
show("next");
const engine = makeEngine((text) => { status.textContent = text; });
setEngine(engine);
engine.start().then(async () => {
  await opened(await ask("about"));
  const text = byId("text");
  if (!text.value) text.value = state.about.is_documents ? "get_valu" : "The ";
  await change({ text: text.value });
  document.documentElement.dataset.ready = "true";
}).catch((problem) => tell("problem", problem.message));
