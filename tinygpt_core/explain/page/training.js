// Training over time: curves from the log, and each parameter at the steps of which the log tells.

function lineChart(title, lines, unit, height = 210) {
  const width = 520, pad = { left: 58, right: 12, top: 10, bottom: 26 };
  const xs = lines.flatMap((line) => line.x), ys = lines.flatMap((line) => line.y).filter((value) => value !== null);
  const low = Math.min(...ys), high = Math.max(...ys), room = high - low || Math.abs(high) || 1;
  const left = Math.min(...xs), right = Math.max(...xs, left + 1);
  const x = (value) => pad.left + ((value - left) / (right - left)) * (width - pad.left - pad.right);
  const y = (value) => pad.top + (1 - (value - low) / room) * (height - pad.top - pad.bottom);
  const last = lines[0].y[lines[0].y.length - 1];
  const chart = drawing("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} over the steps, from ${number(lines[0].y[0])} to ${number(last)}` });
  for (const share of [0, 0.5, 1]) {
    const value = low + share * room;
    chart.append(drawing("line", { class: "rule", x1: pad.left, x2: width - pad.right, y1: y(value), y2: y(value) }), drawing("text", { class: "axis", x: pad.left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value, 2)));
  }
  chart.append(drawing("text", { class: "axis", x: pad.left, y: height - 6 }, `step ${left}`), drawing("text", { class: "axis", x: width - pad.right, y: height - 6, "text-anchor": "end" }, right));
  for (const line of lines) {
    const points = line.x.map((value, i) => [value, line.y[i]]).filter(([, value]) => value !== null);
    chart.append(drawing("path", { class: `line ${line.style}`, d: points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("") }));
    if (line.style === "second") points.forEach(([a, b]) => chart.append(drawing("circle", { class: "second", cx: x(a), cy: y(b), r: 3.5 }, drawing("title", {}, `${line.name} ${number(b)} at step ${a}`))));
  }
  const key = lines.length > 1 ? element("p", { class: "key" }, lines.map((line) => element("span", { class: line.style }, line.name))) : null;
  return element("figure", {}, element("figcaption", {}, element("b", {}, title), ` ${unit}`), chart, key);
}

// The mean of up to 21 neighbours of each point: what is left when the chance of the batches is taken out.
function smoothed(values, reach = 10) {
  return values.map((_, i) => {
    const near = values.slice(Math.max(0, i - reach), i + reach + 1).filter((value) => value !== null);
    return near.length ? near.reduce((sum, value) => sum + value, 0) / near.length : null;
  });
}

function noisy(name, x, y) {
  const raw = { name, x, y, style: "raw" };
  return x.length > 60 ? [raw, { name: `${name}, mean of 21 neighbours`, x, y: smoothed(y), style: "first" }] : [{ ...raw, style: "first" }];
}

function lossLines({ log, validation }) {
  const lines = noisy("training", log.step, log.loss);
  return validation.step.length ? [...lines, { name: "validation", x: validation.step, y: validation.loss, style: "second" }] : lines;
}

function histogram(entry, width = 150, height = 34) {
  const most = Math.max(...entry.counts, 1), step = width / entry.counts.length;
  const picture = drawing("svg", { class: "histogram", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `values from ${number(entry.low)} to ${number(entry.high)}, standard deviation ${number(entry.deviation)}` });
  picture.append(drawing("path", { d: entry.counts.map((value, i) => `M${(i * step).toFixed(1)} ${height}v${(-(value / most) * (height - 2)).toFixed(1)}h${(step * 0.9).toFixed(1)}V${height}z`).join("") }));
  const zero = (-entry.low / (entry.high - entry.low)) * width;
  if (zero > 0 && zero < width) picture.append(drawing("line", { class: "zero", x1: zero, x2: zero, y1: 0, y2: height }));
  return picture;
}

const DECADES = [-5, -1]; // of the scale for update-to-weight ratios
const onScale = (ratio) => Math.max(0, Math.min(1, (Math.log10(Math.max(ratio, 1e-30)) - DECADES[0]) / (DECADES[1] - DECADES[0])));

// What guessing and counting need on the validation text, and the model among them, the best last.
function ladderTable(ladder, loss) {
  const words = { uniform: "guessing evenly", unigram: "counting tokens" };
  const rungs = Object.entries(ladder).map(([name, nats]) => [words[name] || `counting ${name}`, nats]);
  rungs.push(["this model", loss]);
  rungs.sort(([, a], [, b]) => b - a);
  const row = ([name, nats]) => element("tr", { class: name === "this model" && "own" }, element("th", { scope: "row" }, name), element("td", {}, nats.toFixed(3)));
  return element("table", { class: "ladder" }, element("caption", {}, "The ladder: nats a token on the validation text"), element("tbody", {}, rungs.map(row)));
}

function trainingView(data) {
  const { log, validation, ladder, snapshots, note } = data.training, view = element("div", { class: "training" });
  if (log && log.step.length > 1) {
    const charts = element("div", { class: "charts" }, lineChart("Loss", lossLines(data.training), "nats a token"), lineChart("Learning rate", [{ x: log.step, y: log.learning_rate, style: "first", name: "" }], ""));
    if (log.gradient_norm) charts.append(lineChart("Gradient norm", noisy("gradient norm", log.step, log.gradient_norm), "before clipping"));
    else charts.append(element("p", { class: "note" }, "The log of this run does not tell the gradient's norm: an earlier version wrote it, or a device that kept that number to itself."));
    view.append(element("h2", {}, "The run so far"), charts);
    if (ladder && Object.keys(ladder).length) view.append(ladderTable(ladder, validation.loss[validation.loss.length - 1]));
  } else view.append(element("h2", {}, "The run so far"), element("p", { class: "note" }, "The log of this run has no steps yet."));
  if (snapshots.length) parameterTable(view, snapshots, note);
  return view;
}

// One row a parameter, at the checkpoint of the slider; the last column shows its ratio at all of them.
function parameterTable(view, snapshots, note) {
  const updated = snapshots.filter((snapshot) => snapshot.parameters.some((entry) => entry.ratio));
  const over = new Map();
  updated.forEach((snapshot) => snapshot.parameters.forEach((entry) => over.set(entry.name, [...(over.get(entry.name) || []), [snapshot, entry.ratio]])));
  const body = element("tbody"), label = element("output", { for: "checkpoint" });
  const slider = element("input", { type: "range", id: "checkpoint", min: 0, max: snapshots.length - 1, value: 0, on: { input: () => choose(Number(slider.value)) } });

  function strip(name, now) {
    const width = 130, height = 26, points = over.get(name) || [], step = width / Math.max(1, points.length);
    const picture = drawing("svg", { class: "strip", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, drawing("line", { class: "rule", x1: 0, x2: width, y1: height / 2, y2: height / 2 }));
    points.forEach(([snapshot, ratio], i) => { if (ratio) picture.append(drawing("circle", { class: snapshot === now ? "now" : "", cx: (i + 0.5) * step, cy: height - 3 - onScale(ratio) * (height - 6), r: snapshot === now ? 4 : 2.2 })); });
    return picture;
  }

  function choose(place) {
    const now = snapshots[place];
    slider.value = place;
    slider.setAttribute("aria-valuetext", now.label);
    label.textContent = now.label;
    body.replaceChildren(...now.parameters.map((entry) => element("tr", {}, element("th", { scope: "row" }, entry.name),
      element("td", { class: "spread" }, histogram(entry), element("span", { class: "ends" }, element("span", {}, number(entry.low, 2)), element("span", {}, number(entry.high, 2)))),
      ...[entry.deviation, entry.norm, entry.gradient, entry.ratio].map((value) => element("td", { class: "figure" }, number(value))),
      element("td", {}, strip(entry.name, now)))));
  }

  const heads = ["parameter", "values", "deviation σ", "norm ‖w‖", "gradient ‖g‖", "update ‖Δw‖ / ‖w‖", "the same over the run"];
  view.append(element("h2", {}, "Each parameter"), element("p", { class: "note" }, `Move the slider to see the values spread out as the run goes on. ‖Δw‖ / ‖w‖ is the share of its length by which an update moved a parameter: near 1e-3, the line in the last column (which spans 1e-5 to 0.1), is a common rule of thumb; far less learns slowly, far more is unstable. Where a column is empty, there was no update. ${note}`),
    element("div", { class: "buttons" }, element("label", { for: "checkpoint" }, "Checkpoint"), slider, label),
    element("div", { class: "scrolled", tabindex: 0, role: "region", "aria-label": "Parameters" }, element("table", { class: "parameters" },
      element("thead", {}, element("tr", {}, heads.map((name) => element("th", { scope: "col" }, name)))), body)));
  view.shown = () => choose(snapshots.length - 1);
}
