// The graph as a tree of blocks (module calls) with operations and leaves in them, and where each stands.
//
// In every open block its children are put in ranks, top to bottom, so that edges point down. An edge that passes a rank gets a place there,
// and one that enters or leaves a block gets a port on the block's border; so no edge runs over a node.

const SIZE = { op: [176, 60], leaf: [150, 36], call: [264, 50], port: [10, 0], pass: [10, 0] };
const GAP = { x: 18, y: 30, pad: 18, header: 32 };

function buildTree(graph) {
  const root = { kind: "root", key: "root", children: [], open: true, parent: null, depth: 0 };
  const calls = graph.calls.map((call, index) => ({ kind: "call", key: `call${index}`, index, children: [], open: false, ...parts(call) }));
  const ops = graph.operations.map((operation, index) => ({ kind: "op", key: `op${index}`, index }));
  function parts(call) { return { name: call.name, type: call.kind }; }
  const attach = (item, parent) => { item.parent = parent; item.depth = parent.depth + 1; parent.children.push(item); };
  const placed = new Set();
  const place = (index) => {
    if (index < 0) return root;
    const call = calls[index];
    if (!placed.has(index)) { placed.add(index); attach(call, place(graph.calls[index].parent)); }
    return call;
  };
  ops.forEach((op) => attach(op, place(graph.operations[op.index].call)));
  const producer = new Map(), consumers = new Map();
  graph.operations.forEach((operation, index) => {
    producer.set(operation.output, ops[index]);
    operation.inputs.forEach((tensor) => {
      if (tensor === null) return;
      if (!consumers.has(tensor)) consumers.set(tensor, new Set());
      consumers.get(tensor).add(ops[index]);
    });
  });
  const leaves = [];
  for (const [tensor, users] of consumers) {
    if (producer.has(tensor)) continue;
    const leaf = { kind: "leaf", key: `leaf${tensor}`, tensor };
    attach(leaf, [...users].map((user) => user.parent).reduce(commonBlock));
    producer.set(tensor, leaf);
    leaves.push(leaf);
  }
  const total = (item) => {
    if (item.kind === "op") return [1, graph.operations[item.index].seconds || 0, graph.operations[item.index].backward_seconds || 0];
    if (item.kind === "leaf") return [0, 0, 0];
    const sums = item.children.map(total).reduce((a, b) => a.map((value, i) => value + b[i]), [0, 0, 0]);
    [item.operations, item.seconds, item.backwardSeconds] = sums;
    return sums;
  };
  total(root);
  return { root, calls: calls.filter((call) => call.parent), ops, leaves, producer, consumers };
}

function commonBlock(a, b) {
  while (a !== b) { if (a.depth >= b.depth) a = a.parent; else b = b.parent; }
  return a;
}

function ancestors(item) {
  const found = [];
  for (let block = item.parent; block; block = block.parent) found.push(block);
  return found;
}

// The outermost closed block around an item, or the item itself.
function shownAs(item) {
  return ancestors(item).reduce((shown, block) => (block.kind === "call" && !block.open ? block : shown), item);
}

// The edges of every open block, each between two of its children or ports.
function edgesByBlock(tree) {
  const edges = new Map(), seen = new Set(), ports = new Map();
  const port = (block, tensor, side) => {
    const key = `${side}${block.key}-${tensor}`;
    if (!ports.has(key)) ports.set(key, { kind: "port", key, tensor, side, block });
    return ports.get(key);
  };
  const add = (block, from, to, tensor) => {
    const key = `${from.key}>${to.key}:${tensor}`;
    if (seen.has(key)) return;
    seen.add(key);
    if (!edges.has(block)) edges.set(block, []);
    edges.get(block).push({ from, to, tensor, block });
  };
  for (const [tensor, users] of tree.consumers) {
    const source = shownAs(tree.producer.get(tensor));
    for (const user of users) {
      const target = shownAs(user);
      if (source === target) continue;
      const block = commonBlock(source.parent, target.parent);
      let up = source, down = target;
      while (up.parent !== block) { add(up.parent, up, port(up.parent, tensor, "exit"), tensor); up = up.parent; }
      while (down.parent !== block) { add(down.parent, port(down.parent, tensor, "entry"), down, tensor); down = down.parent; }
      if (up !== down) add(block, up, down, tensor);
    }
  }
  return edges;
}

// Sets x, y, width and height of everything visible, relative to the block it is in, then absolutely. Returns the segments to draw.
function layout(tree) {
  const edges = edgesByBlock(tree), segments = [];
  const arrange = (block) => {
    for (const child of block.children) {
      if (child.kind === "call" && child.open) arrange(child);
      else [child.width, child.height] = SIZE[child.kind];
      if (child.kind === "leaf") child.width = Math.max(96, 32 + 7 * Math.min(28, child.label.length));
    }
    arrangeBlock(block, edges.get(block) || [], segments);
  };
  arrange(tree.root);
  const settle = (block, x, y) => {
    for (const item of block.inside) {
      item.x += x; item.y += y;
      if (item.kind === "call" && item.open) settle(item, item.x, item.y);
    }
  };
  tree.root.x = tree.root.y = 0;
  settle(tree.root, 0, 0);
  return segments.map((segment) => ({ tensor: segment.tensor, path: pathOf(segment) }));
}

function arrangeBlock(block, edges, segments) {
  const ports = [...new Set(edges.flatMap((edge) => [edge.from, edge.to]).filter((item) => item.kind === "port"))];
  ports.forEach((port) => { [port.width, port.height] = SIZE.port; });
  const order = block.children.filter((item) => item.kind !== "leaf");
  const into = new Map(), outOf = new Map();
  for (const edge of edges) {
    into.set(edge.to, [...(into.get(edge.to) || []), edge.from]);
    outOf.set(edge.from, [...(outOf.get(edge.from) || []), edge.to]);
  }
  const rank = new Map();
  for (const item of order) {
    const before = (into.get(item) || []).map((from) => rank.get(from)).filter((value) => value !== undefined);
    rank.set(item, before.length ? Math.max(...before) + 1 : 0);
  }
  for (const leaf of block.children.filter((item) => item.kind === "leaf")) {
    const after = (outOf.get(leaf) || []).map((to) => rank.get(to)).filter((value) => value !== undefined);
    rank.set(leaf, (after.length ? Math.min(...after) : 0) - 1);
  }
  const ranks = [...rank.values()], first = Math.min(0, ...ranks), last = Math.max(0, ...ranks);
  ports.forEach((port) => rank.set(port, port.side === "entry" ? first - 1 : last + 1));
  const rows = new Map();
  const put = (item, place) => { if (!rows.has(place)) rows.set(place, []); rows.get(place).push(item); };
  ports.forEach((port) => put(port, rank.get(port)));
  block.children.filter((item) => item.kind === "leaf").forEach((item) => put(item, rank.get(item)));
  order.forEach((item) => put(item, rank.get(item)));
  const links = [];
  const passing = new Map(); // one way down for all uses of a tensor from the same source
  for (const edge of edges) {
    let previous = edge.from;
    const route = [];
    for (let place = rank.get(edge.from) + 1; place < rank.get(edge.to); place++) {
      const key = `${edge.from.key}:${edge.tensor}@${place}`;
      if (!passing.has(key)) {
        const pass = { kind: "pass", key, width: SIZE.pass[0], height: 0 };
        passing.set(key, pass);
        put(pass, place);
        links.push([previous, pass]);
      }
      previous = passing.get(key);
      route.push(previous);
    }
    links.push([previous, edge.to]);
    segments.push({ ...edge, route });
  }
  const places = [...rows.keys()].sort((a, b) => a - b), grid = places.map((place) => rows.get(place));
  straighten(grid, links);
  let y = block.kind === "root" ? GAP.pad : GAP.header;
  grid.forEach((row, place) => {
    const height = Math.max(...row.map((item) => item.height), 0);
    row.forEach((item) => {
      item.row = [y, y + height];
      item.y = item.kind === "leaf" ? y + height - item.height : y + (height - item.height) / 2;
    });
    const next = grid[place + 1];
    y += height + (height && next && next.some((item) => item.kind !== "port") ? GAP.y : height ? GAP.y / 2 : 4);
  });
  const left = Math.min(...grid.flat().map((item) => item.x)), right = Math.max(...grid.flat().map((item) => item.x + item.width));
  const label = block.kind === "call" ? 40 + 8 * (block.name.length + block.type.length + 3) : 0;
  const width = Math.max(right - left + 2 * GAP.pad, label), shift = (width - (right - left)) / 2 - left;
  grid.flat().forEach((item) => { item.x += shift; });
  block.inside = grid.flat();
  block.width = width;
  block.height = y + (block.kind === "root" ? GAP.pad : 0);
}

// Orders each row by its neighbours, then moves items as near to their neighbours as the row allows.
function straighten(grid, links) {
  const above = new Map(), below = new Map();
  links.forEach(([from, to]) => {
    above.set(to, [...(above.get(to) || []), from]);
    below.set(from, [...(below.get(from) || []), to]);
  });
  const pack = (row) => { let x = 0; row.forEach((item) => { item.x = x; x += item.width + GAP.x; }); };
  const middle = (item) => item.x + item.width / 2;
  const mean = (items) => items.reduce((sum, item) => sum + middle(item), 0) / items.length;
  grid.forEach(pack);
  for (let sweep = 0; sweep < 6; sweep++) {
    const neighbours = sweep % 2 ? below : above, rows = sweep % 2 ? [...grid].reverse() : grid;
    for (const row of rows) {
      const key = new Map(row.map((item) => [item, neighbours.get(item) ? mean(neighbours.get(item)) : middle(item)]));
      row.sort((a, b) => key.get(a) - key.get(b));
      pack(row);
    }
  }
  const heavy = (item) => ({ leaf: 0.001, pass: 0.002, port: 0.05 })[item.kind] || 1;
  for (let sweep = 0; sweep < 24; sweep++) {
    const rows = sweep % 2 ? [...grid].reverse() : grid;
    for (const row of rows) {
      const wanted = row.map((item) => {
        const near = [...(above.get(item) || []), ...(below.get(item) || [])];
        const main = near.filter((other) => other.kind !== "leaf");
        const used = item.kind === "leaf" || !main.length ? near : main;
        if (!used.length) return middle(item);
        const weight = used.reduce((sum, other) => sum + heavy(other), 0);
        return used.reduce((sum, other) => sum + heavy(other) * middle(other), 0) / weight;
      });
      spread(row, wanted, heavy);
    }
  }
}

// The places nearest to the wanted ones, in the least squares, that keep order and distance (isotonic regression).
function spread(row, wanted, weightOf) {
  let offset = 0;
  const groups = [], offsets = [];
  row.forEach((item, i) => {
    if (i) offset += row[i - 1].width / 2 + item.width / 2 + GAP.x;
    offsets.push(offset);
    let group = { sum: (wanted[i] - offset) * weightOf(item), weight: weightOf(item), size: 1 };
    while (groups.length && groups[groups.length - 1].sum / groups[groups.length - 1].weight > group.sum / group.weight) {
      const last = groups.pop();
      group = { sum: last.sum + group.sum, weight: last.weight + group.weight, size: last.size + group.size };
    }
    groups.push(group);
  });
  let i = 0;
  for (const group of groups)
    for (let n = 0; n < group.size; n++, i++) row[i].x = group.sum / group.weight + offsets[i] - row[i].width / 2;
}

function pathOf({ from, to, tensor, route }) {
  const portOf = (item, side) => (item.kind === "call" && item.open ? item.inside.find((o) => o.kind === "port" && o.side === side && o.tensor === tensor) : null);
  const middle = (item) => item.x + item.width / 2;
  const exit = portOf(from, "exit"), entry = portOf(to, "entry");
  let x = middle(exit || from), y = from.kind === "port" ? from.block.y + 26 : from.y + from.height;
  if (exit) y = from.y + from.height;
  let path = `M${x.toFixed(1)} ${y.toFixed(1)}`;
  if (from.kind === "port") path = `M${x.toFixed(1)} ${from.block.y.toFixed(1)}V${y.toFixed(1)}`;
  const bend = (toX, toY) => {
    const half = (toY - y) / 2;
    path += Math.abs(toX - x) < 0.5 ? `V${toY.toFixed(1)}` : `C${x.toFixed(1)} ${(y + half).toFixed(1)} ${toX.toFixed(1)} ${(toY - half).toFixed(1)} ${toX.toFixed(1)} ${toY.toFixed(1)}`;
    x = toX; y = toY;
  };
  for (const pass of route) {
    const half = (pass.row[1] - pass.row[0]) / 2;
    bend(middle(pass), pass.y - half);
    bend(middle(pass), pass.y + half);
  }
  if (to.kind === "port") { bend(middle(to), to.y); path += `V${(to.block.y + to.block.height).toFixed(1)}`; } else bend(middle(entry || to), to.y);
  return path;
}
