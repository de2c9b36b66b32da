// Puts the views into tabs, and keeps the theme.

const data = JSON.parse(document.getElementById("data").textContent);

function start() {
  document.getElementById("title").textContent = data.title;
  document.getElementById("about").textContent = data.about;
  document.getElementById("facts").append(...data.facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  const views = [
    ["overview", "Overview", overviewView, data.graph], ["step", "Graph", stepView, data.graph], ["attention", "Attention", attentionView, data.attention],
    ["tokens", "Predictions", tokensView, data.tokens], ["merges", "Tokenizer", mergesView, data.merges], ["training", "Training", trainingView, data.training],
  ];
  const tabs = document.getElementById("tabs"), main = document.getElementById("main"), built = new Map();
  const show = (target, from = false) => {
    const [key, detail] = target.split(":");
    for (const [name, , make, part] of views) {
      const tab = document.getElementById(`tab-${name}`), page = document.getElementById(`view-${name}`), chosen = name === key;
      tab.setAttribute("aria-selected", String(chosen));
      tab.setAttribute("tabindex", chosen ? 0 : -1);
      page.hidden = !chosen;
      if (chosen && !built.has(name)) {
        built.set(name, part ? make(data, (target) => show(target, true)) : element("p", { class: "missing" }, data.missing[name] || "Nothing of this was recorded."));
        page.append(built.get(name));
        if (built.get(name).shown) built.get(name).shown();
      }
    }
    document.getElementById("tip").hidden = true;
    const view = built.get(key);
    if (detail && view.open) view.open(detail);
    if (from) document.getElementById(`tab-${key}`).focus();
  };
  for (const [name, label] of views) {
    tabs.append(element("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `view-${name}`, on: { click: (event) => { show(name); if (event.detail && name === "step") main.focus({ preventScroll: true }); } } }, label)); // by mouse: so that the arrow keys go through the steps
    main.append(element("div", { role: "tabpanel", id: `view-${name}`, "aria-labelledby": `tab-${name}`, hidden: true }));
  }
  tabs.addEventListener("keydown", (event) => {
    const all = [...tabs.children], step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    next.click();
  });
  document.addEventListener("keydown", (event) => {
    const chosen = views.find(([name]) => !document.getElementById(`view-${name}`).hidden);
    const view = chosen && built.get(chosen[0]);
    if (view && view.keys && !event.ctrlKey && !event.metaKey && !event.altKey) view.keys(event);
  });
  theme();
  show(data.tokens || data.training ? "overview" : "step");
}

function theme() {
  const names = ["auto", "light", "dark"], switcher = document.getElementById("theme");
  let chosen = 0;
  const apply = () => {
    if (chosen) document.documentElement.dataset.theme = names[chosen];
    else delete document.documentElement.dataset.theme;
    switcher.textContent = `Theme: ${names[chosen]}`;
    painted.forEach((repaint) => repaint());
  };
  switcher.addEventListener("click", () => { chosen = (chosen + 1) % 3; apply(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
}

start();
