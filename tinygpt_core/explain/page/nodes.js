// The pictures of blocks, operations, parameters and inputs, at the places that the layout gave them.

function nodePicture(graph, item, slowest) {
  if (item.kind === "call" && item.open) {
    const label = item.name ? shortName(item.name) : "model";
    return drawing("g", { class: "node header", "data-key": item.key, role: "button", tabindex: -1, "aria-expanded": "true", "aria-label": `Fold ${label}, ${item.type}` },
      drawing("rect", { class: "grip", x: item.x + 6, y: item.y + 5, width: 26 + 8 * (label.length + item.type.length + 2), height: 21, rx: 5 }),
      drawing("text", { x: item.x + 14, y: item.y + 20 }, "▾ ", drawing("tspan", { class: "name" }, label), drawing("tspan", { class: "kind" }, `  ${item.type}`)));
  }
  const { x, y, width, height } = item, middle = x + width / 2;
  if (item.kind === "call") {
    const call = graph.calls[item.index], label = item.name ? shortName(item.name) : "model";
    const about = `${count(item.operations, "operation")} · ${duration(item.seconds)}${call.parameters ? ` · ${short(call.parameters)} parameters` : ""}`;
    return drawing("g", { class: "node call", "data-key": item.key, role: "button", tabindex: -1, "aria-expanded": "false", "aria-label": `Open ${label}, ${item.type}: ${about}` },
      drawing("rect", { class: "behind", x: x + 4, y: y + 4, width, height, rx: 9 }), drawing("rect", { class: "box", x, y, width, height, rx: 9 }),
      drawing("text", { class: "title", x: x + 14, y: y + 21 }, "▸ ", fit(label, 26)), drawing("text", { class: "sub", x: x + 14, y: y + 39 }, about));
  }
  if (item.kind === "leaf") {
    const tensor = graph.tensors[item.tensor], { label } = item;
    return drawing("g", { class: `node leaf ${tensor.kind}`, "data-key": item.key, role: "button", tabindex: -1, "aria-label": `${tensor.kind} ${label}, ${shapeOf(tensor)}` },
      drawing("rect", { class: "box", x, y, width, height, rx: height / 2 }),
      drawing("text", { class: "title", x: middle, y: y + 15, "text-anchor": "middle" }, fit(label, 28)),
      drawing("text", { class: "sub", x: middle, y: y + 29, "text-anchor": "middle" }, shapeOf(tensor)));
  }
  const operation = graph.operations[item.index], output = graph.tensors[operation.output];
  return drawing("g", { class: "node op", "data-key": item.key, role: "button", tabindex: -1, "aria-label": `${operation.kind} number ${item.index + 1}, result ${shapeOf(output)}, ${duration(operation.seconds)}` },
    drawing("rect", { class: "box", x, y, width, height, rx: 7 }),
    drawing("rect", { class: "spent", x: x + 1, y: y + height - 4, width: (width - 2) * Math.sqrt((operation.seconds || 0) / slowest), height: 3, rx: 1.5 }),
    drawing("text", { class: "title", x: middle, y: y + 18, "text-anchor": "middle" }, fit(operation.kind, 24)),
    drawing("text", { class: "sub", x: middle, y: y + 34, "text-anchor": "middle" }, `${shapeOf(output)} · ${output.dtype}`),
    drawing("text", { class: "sub", x: middle, y: y + 49, "text-anchor": "middle" }, operation.bytes === null ? "" : `${duration(operation.seconds)} · ${operation.view ? "a view" : bytes(operation.bytes)}`));
}

function short(value) {
  return value < 1e4 ? value.toLocaleString("en") : value < 1e6 ? `${number(value / 1e3)}k` : `${number(value / 1e6)}M`;
}

function fit(text, most) {
  return text.length <= most ? text : `…${text.slice(text.length - most + 1)}`;
}
