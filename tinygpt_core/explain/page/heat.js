// Heat maps: values as colours from negative over zero to positive.

const painted = new Set(); // functions that repaint what the theme colours

function channels(name) {
  const hex = color(name).replace("#", "");
  return [0, 2, 4].map((place) => parseInt(hex.slice(place, place + 2), 16));
}

function mixed(from, to, share) {
  return from.map((value, i) => Math.round(value + (to[i] - value) * share));
}

// Paints one byte a cell: 127 is zero, 0 and 254 the ends of the scale, 255 not a number.
function paintSigned(canvas, cells, rows, columns) {
  const negative = channels("--negative"), zero = channels("--zero"), positive = channels("--positive"), broken = channels("--nan");
  paint(canvas, rows, columns, (place) => {
    const value = cells[place];
    if (value === 255) return broken;
    const share = Math.pow(Math.abs(value - 127) / 127, 0.8);
    return mixed(zero, value < 127 ? negative : positive, share);
  });
}

// One byte a cell holds the root of a share, so that small shares are as exact as large ones.
function shareOf(cell) {
  return (cell / 255) ** 2;
}

// Paints shares: 0 nothing, 255 everything.
function paintShare(canvas, cells, rows, columns) {
  const zero = channels("--zero"), full = channels("--positive");
  paint(canvas, rows, columns, (place) => mixed(zero, full, cells[place] / 255));
}

function paint(canvas, rows, columns, colorOf) {
  canvas.width = Math.max(1, columns);
  canvas.height = Math.max(1, rows);
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  for (let place = 0; place < rows * columns; place++) {
    const [red, green, blue] = colorOf(place);
    image.data.set([red, green, blue, 255], 4 * place);
  }
  context.putImageData(image, 0, 0);
}

function heatMap(values, width, height) {
  const [rows, columns] = values.grid, cells = decode(values.cells);
  const cell = Math.max(1, Math.min(width / Math.max(1, columns), height / Math.max(1, rows), 14));
  const canvas = element("canvas", {
    class: "heat", role: "img",
    "aria-label": `heat map of ${rows} by ${columns} elements, from ${number(values.min)} to ${number(values.max)}`,
    style: `width:${Math.round(Math.max(8, cell * columns))}px;height:${Math.round(Math.max(8, cell * rows))}px`,
  });
  const repaint = () => paintSigned(canvas, cells, rows, columns);
  canvas.repaint = repaint;
  repaint();
  return canvas;
}

function statistics(values) {
  const rows = [["min", number(values.min)], ["max", number(values.max)], ["mean", number(values.mean)],
    ["zeros", percent(values.zeros)], ["NaN", percent(values.nans)]];
  const meaning = { zeros: "the share of its elements that are exactly 0", NaN: "the share of its elements that are not a number" };
  return element("dl", { class: "stats" }, rows.map(([name, text]) =>
    element("div", { class: name === "NaN" && values.nans ? "bad" : "", title: meaning[name] }, element("dt", {}, name), element("dd", {}, text))));
}

function sampled(values) {
  const [rows, columns] = values.matrix, [down, across] = values.grid;
  if (rows === down && columns === across) return "every element";
  return `${down} of ${count(rows, "row")}, ${across} of ${count(columns, "column")}`;
}
