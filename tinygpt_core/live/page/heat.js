// A matrix as a heat map that can be pointed at and walked through by keyboard, with names on its axes and a key of its colours.
import { drawing, element, number, visible } from "./dom.js";

const painted = new Set();
const LINGER = 150; // milliseconds on a cell before it is asked how that was made

export function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => {
    const value = style.getPropertyValue(name).trim();
    return [1, 3, 5].map((place) => parseInt(value.slice(place, place + 2), 16));
  };
  return { negative: read("--negative"), zero: read("--zero"), positive: read("--positive") };
}

export function repaintAll() { for (const paint of painted) if (!paint()) painted.delete(paint); }

// Draws rows of numbers into a canvas, one pixel a cell; `scale` is the magnitude of the full colour.
export function paint(canvas, rows, scale, root = false) {
  const { negative, zero, positive } = colours(), width = rows[0].length;
  canvas.width = width;
  canvas.height = rows.length;
  const context = canvas.getContext("2d"), image = context.createImageData(width, rows.length);
  let place = 0;
  for (const row of rows) for (const value of row) {
    let share = scale ? Math.min(1, Math.abs(value) / scale) : 0;
    if (root) share = Math.sqrt(share);
    const end = value < 0 ? negative : positive;
    for (let i = 0; i < 3; i++) image.data[place + i] = zero[i] + (end[i] - zero[i]) * share;
    image.data[place + 3] = 255;
    place += 4;
  }
  context.putImageData(image, 0, 0);
}

export function largest(rows) {
  let most = 0;
  for (const row of rows) for (const value of row) if (Math.abs(value) > most) most = Math.abs(value);
  return most;
}

export function thumbnail(rows, root) {
  const canvas = element("canvas", { class: "thumb-map", "aria-hidden": "true" }), scale = root ? 1 : largest(rows);
  const draw = () => { if (drawn && !canvas.isConnected) return false; paint(canvas, rows, scale, root); return true; };
  let drawn = false;
  draw();
  requestAnimationFrame(() => { drawn = true; });
  painted.add(draw);
  return canvas;
}

// options: rows, rowNames, columnNames (texts or null), axes [down, across], label, share (values are shares from 0 to 1), cell (pixels),
// onPoint(row, column), onChoose(row, column), chosen [row, column], howMade(row, column): a promise of a line that says how a cell was made.
export function heatMap(options) {
  const { rows, rowNames, columnNames, axes, label, share = false } = options;
  const count = rows.length, width = rows[0].length, scale = share ? 1 : largest(rows);
  const cell = options.cell || Math.max(7, Math.min(24, Math.floor(560 / Math.max(width, count))));
  const clip = (text) => { const seen = visible(String(text)); return seen.length > 9 ? `${seen.slice(0, 8)}…` : seen; };
  const left = rowNames ? 78 : 34, top = columnNames && cell >= 9 ? 70 : 22;
  const canvas = element("canvas", { class: "heat-canvas", tabindex: "0", role: "img", "aria-label": `${label}: ${axes[0]} × ${axes[1]}, ${count} × ${width}. Arrow keys walk through it; Enter says how a cell was made.` });
  canvas.style.width = `${cell * width}px`;
  canvas.style.height = `${cell * count}px`;
  canvas.style.left = `${left}px`;
  canvas.style.top = `${top}px`;
  const names = drawing("svg", { "aria-hidden": "true", width: left + cell * width + 4, height: top + cell * count + 4 });
  const size = Math.min(12, Math.max(7, cell - 1));
  const every = Math.max(1, Math.ceil(10 / cell));
  for (let i = 0; i < count; i += every) names.append(drawing("text", { class: "axis", x: left - 5, y: top + (i + 0.5) * cell, "text-anchor": "end", "dominant-baseline": "central", "font-size": size }, rowNames ? clip(rowNames[i]) : i));
  if (columnNames && cell >= 9) for (let i = 0; i < width; i++) names.append(drawing("text", { class: "axis", transform: `translate(${left + (i + 0.5) * cell} ${top - 5}) rotate(-90)`, "dominant-baseline": "central", "font-size": size }, clip(columnNames[i])));
  else for (let i = 0; i < width; i += Math.max(1, Math.ceil(26 / cell))) names.append(drawing("text", { class: "axis", x: left + (i + 0.5) * cell, y: top - 8, "text-anchor": "middle", "font-size": 10 }, i));
  const frame = drawing("rect", { class: "dot", width: cell, height: cell, visibility: "hidden" });
  names.append(frame);
  const reading = element("p", { class: "cell-reading", "aria-live": "polite" });
  let [row, column] = options.chosen || [count - 1, 0];
  const tokenName = (list, place) => (list ? ` “${visible(String(list[place]))}”` : "");
  let lingering = null;
  const linger = () => {
    clearTimeout(lingering);
    if (options.howMade) lingering = setTimeout(async () => {
      const [askedRow, askedColumn] = [row, column], line = await options.howMade(row, column);
      if (line && reading.isConnected && askedRow === row && askedColumn === column) reading.append(element("span", { class: "made" }, line));
    }, LINGER);
  };
  const show = (chosen) => {
    frame.setAttribute("x", left + column * cell);
    frame.setAttribute("y", top + row * cell);
    frame.setAttribute("visibility", "visible");
    reading.replaceChildren(element("span", {}, `${axes[0]} ${row}`, element("bdi", {}, tokenName(rowNames, row)), `, ${axes[1]} ${column}`, element("bdi", {}, tokenName(columnNames, column)), ": "), element("b", {}, number(rows[row][column], 6)));
    linger();
    if (chosen && options.onChoose) options.onChoose(row, column);
    else if (options.onPoint) options.onPoint(row, column);
  };
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const place = [Math.floor((event.clientY - box.top) / cell), Math.floor((event.clientX - box.left) / cell)];
    return [Math.max(0, Math.min(count - 1, place[0])), Math.max(0, Math.min(width - 1, place[1]))];
  };
  canvas.addEventListener("mousemove", (event) => {
    const [newRow, newColumn] = at(event);
    if (newRow !== row || newColumn !== column || frame.getAttribute("visibility") === "hidden") { [row, column] = [newRow, newColumn]; show(false); }
  });
  canvas.addEventListener("click", (event) => { [row, column] = at(event); show(true); });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -width], End: [0, width] }[event.key];
    if (move) {
      row = Math.max(0, Math.min(count - 1, row + move[0]));
      column = Math.max(0, Math.min(width - 1, column + move[1]));
      show(false);
    } else if (event.key === "Enter" || event.key === " ") show(true);
    else return;
    event.preventDefault();
  });
  let drawn = false;
  const draw = () => { if (drawn && !canvas.isConnected) return false; paint(canvas, rows, scale, share); return true; };
  draw();
  requestAnimationFrame(() => { drawn = true; });
  painted.add(draw);
  const plot = element("div", { class: "plot" }, names, canvas);
  plot.style.width = `${left + cell * width + 4}px`;
  plot.style.height = `${top + cell * count + 4}px`;
  return element("figure", { class: "heat" }, element("figcaption", {}, element("span", { class: "axes" }, `${axes[0]} ↓  ×  ${axes[1]} →`), key(scale, share)), element("div", { class: "plot-scroll" }, plot), reading);
}

// The key of the colours: from minus the scale over 0 to the scale.
function key(scale, share) {
  const ends = share ? ["0", "1"] : [`−${number(scale, 3)}`, number(scale, 3)];
  return element("span", { class: "key", role: "img", "aria-label": `colours from ${ends[0]} to ${ends[1]}` }, ends[0], element("span", { class: share ? "ramp half" : "ramp" }), ends[1]);
}
