// Training over time: curves from the log, and the parameters at each checkpoint.

function lineChart(title, lines, unit) {
  const width = 520, height = 200, pad = { left: 52, right: 12, top: 10, bottom: 26 };
  const xs = lines.flatMap((line) => line.x), ys = lines.flatMap((line) => line.y).filter((value) => value !== null);
  const low = Math.min(...ys), high = Math.max(...ys), room = high - low || Math.abs(high) || 1;
  const left = Math.min(...xs), right = Math.max(...xs, left + 1);
  const x = (value) => pad.left + ((value - left) / (right - left)) * (width - pad.left - pad.right);
  const y = (value) => pad.top + (1 - (value - low) / room) * (height - pad.top - pad.bottom);
  const chart = drawing("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} over the steps, from ${number(lines[0].y[0])} to ${number(lines[0].y[lines[0].y.length - 1])}` });
  for (const share of [0, 0.5, 1]) {
    const value = low + share * room;
    chart.append(drawing("line", { class: "rule", x1: pad.left, x2: width - pad.right, y1: y(value), y2: y(value) }), drawing("text", { class: "axis", x: pad.left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  chart.append(drawing("text", { class: "axis", x: pad.left, y: height - 6 }, `step ${left}`), drawing("text", { class: "axis", x: width - pad.right, y: height - 6, "text-anchor": "end" }, right));
  lines.forEach((line) => {
    const points = line.x.map((value, i) => [value, line.y[i]]).filter(([, value]) => value !== null);
    chart.append(drawing("path", { class: `line ${line.style}`, d: points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("") }));
    if (line.style === "second") points.forEach(([a, b]) => chart.append(drawing("circle", { class: "second", cx: x(a), cy: y(b), r: 3 }, drawing("title", {}, `${line.name} ${number(b)} at step ${a}`))));
  });
  const key = lines.length > 1 ? element("p", { class: "key" }, lines.map((line) => element("span", { class: line.style }, line.name))) : null;
  return element("figure", {}, element("figcaption", {}, element("b", {}, title), ` ${unit}`), chart, key);
}

function histogram(entry, width = 230, height = 64) {
  const most = Math.max(...entry.counts, 1), step = width / entry.counts.length;
  const picture = drawing("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${entry.name}: values from ${number(entry.low)} to ${number(entry.high)}, standard deviation ${number(entry.deviation)}` });
  picture.append(drawing("path", { d: entry.counts.map((value, i) => `M${(i * step).toFixed(1)} ${height}v${(-(value / most) * (height - 2)).toFixed(1)}h${(step * 0.9).toFixed(1)}V${height}z`).join("") }));
  const zero = (-entry.low / (entry.high - entry.low)) * width;
  if (zero > 0 && zero < width) picture.append(drawing("line", { class: "zero", x1: zero, x2: zero, y1: 0, y2: height }));
  return picture;
}

function trainingView(data) {
  const { log, validation, snapshots, note, ratios } = data.training;
  const view = element("div", { class: "training" }), charts = element("div", { class: "charts" });
  if (log && log.step.length > 1) {
    const lines = [{ name: "training", x: log.step, y: log.loss, style: "first" }];
    if (validation.step.length) lines.push({ name: "validation", x: validation.step, y: validation.loss, style: "second" });
    charts.append(lineChart("Loss", lines, "nats a token"), lineChart("Learning rate", [{ x: log.step, y: log.learning_rate, style: "first", name: "" }], ""));
    if (log.gradient_norm) charts.append(lineChart("Gradient norm", [{ x: log.step, y: log.gradient_norm, style: "first", name: "" }], "before clipping"));
    view.append(element("h2", {}, "The run so far"), charts);
  }
  if (ratios && ratios.length) {
    const place = (value) => Math.max(0, Math.min(100, ((Math.log10(Math.max(value, 1e-12)) + 6) / 6) * 100));
    view.append(element("h2", {}, "Update-to-weight ratio by layer"),
      element("p", { class: "note" }, "‖Δw‖ / ‖w‖ of this one update, on a logarithmic scale from 1e-6 to 1. Near 1e-3 is a common rule of thumb: far less learns slowly, far more is unstable."),
      element("table", { class: "ratios" }, element("thead", {}, element("tr", {}, ["parameter", "gradient norm", "weight norm", "ratio", ""].map((name) => element(name ? "th" : "td", name ? { scope: "col" } : {}, name)))),
        element("tbody", {}, ratios.map((entry) => element("tr", {}, element("th", { scope: "row" }, entry.name), element("td", {}, number(entry.gradient)), element("td", {}, number(entry.weight)), element("td", {}, number(entry.ratio)),
          element("td", { class: "scale", "aria-hidden": "true" }, element("span", { class: "mark", style: `left:${place(entry.ratio)}%` })))))));
  }
  if (snapshots.length) {
    const shown = element("div", { class: "histograms" }), label = element("output", { for: "checkpoint" });
    const slider = element("input", { type: "range", id: "checkpoint", min: 0, max: snapshots.length - 1, value: 0, "aria-label": "Checkpoint", on: { input: () => choose(Number(slider.value)) } });
    const choose = (place) => {
      const snapshot = snapshots[place];
      slider.value = place;
      slider.setAttribute("aria-valuetext", snapshot.label);
      label.textContent = snapshot.label;
      shown.replaceChildren(...snapshot.parameters.map((entry) => element("figure", {}, element("figcaption", {}, element("b", {}, entry.name), element("span", { class: "dim" }, ` σ ${number(entry.deviation)}`)), histogram(entry),
        element("p", { class: "ends" }, element("span", {}, number(entry.low)), entry.ratio === null || entry.ratio === undefined ? null : element("span", {}, `update ratio ${number(entry.ratio)}`), element("span", {}, number(entry.high))))));
    };
    view.append(element("h2", {}, "The parameters' values"), element("p", { class: "note" }, note), element("div", { class: "buttons" }, element("label", { for: "checkpoint" }, "Checkpoint"), slider, label), shown);
    view.shown = () => choose(snapshots.length - 1);
    view.choose = choose;
    const withRatios = snapshots.filter((snapshot) => snapshot.parameters.some((entry) => entry.ratio !== null && entry.ratio !== undefined));
    if (withRatios.length > 1) {
      const layers = new Map();
      withRatios.forEach((snapshot) => snapshot.parameters.forEach((entry) => {
        const name = layerOf(entry.name);
        if (!layers.has(name)) layers.set(name, new Map());
        const sums = layers.get(name);
        sums.set(snapshot.step, [...(sums.get(snapshot.step) || []), entry.ratio]);
      }));
      const curves = element("div", { class: "charts small" });
      for (const [name, sums] of [...layers].slice(0, 30)) curves.append(lineChart(name, [{ name: "", x: [...sums.keys()], y: [...sums.values()].map((values) => values.reduce((a, b) => a + b, 0) / values.length), style: "first" }], "update-to-weight ratio"));
      view.append(element("h2", {}, "Update-to-weight ratio over the run"), curves);
    }
  }
  return view;
}

function layerOf(name) {
  const pieces = name.split(".");
  const place = pieces.findIndex((piece) => /^\d+$/.test(piece));
  return place >= 0 ? pieces.slice(0, place + 1).join(".") : pieces[0];
}
