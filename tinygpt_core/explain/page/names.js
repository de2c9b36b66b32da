// What operations, values and inputs are called.

function namesOf(graph) {
  const writer = new Map(graph.operations.map((operation, index) => [operation.output, index]));

  // What an input or parameter is called inside the block of that name.
  function leafName(index, block = "") {
    const tensor = graph.tensors[index];
    if (tensor.name) return block && tensor.name.startsWith(`${block}.`) ? tensor.name.slice(block.length + 1) : tensor.name;
    if (!tensor.shape.length && tensor.values && tensor.values.max !== null) return `number ${number(tensor.values.max, 4)}`;
    const user = graph.operations.find((operation) => operation.inputs.includes(index));
    if (!user) return "";
    const name = inputName(user, user.inputs.indexOf(index));
    return name.startsWith("input") || name.length < 2 ? (tensor.kind === "parameter" ? "leaf" : "input") : name;
  }

  function nameOf(index) {
    const tensor = graph.tensors[index];
    if (tensor.kind === "gradient") return `gradient of ${tensor.of === null || tensor.of === undefined ? "an input" : nameOf(tensor.of)}`;
    if (writer.has(index)) return `${graph.operations[writer.get(index)].kind} #${writer.get(index) + 1}`;
    return tensor.name || leafName(index);
  }

  // The names in a formula: those of the parameters of `forward`.
  function inputName(operation, place) {
    const source = graph.classes[operation.kind].forward;
    const found = source && /def \w+\(([^)]*)\)/s.exec(source.text);
    const names = found ? found[1].split(",").map((part) => part.split(/[:=]/)[0].trim()).filter((name) => name && name !== "self" && name !== "cls") : [];
    const name = names[place];
    return name && !name.startsWith("*") ? name : `input ${place + 1}`;
  }

  return { writer, leafName, nameOf, inputName };
}
