// Why this weight moved: the recorded step, its batch and losses, the largest movers, and for a chosen weight the gradient as a sum over
// tokens, the clip, Adam's numbers, the change, and what that does to the loss.
import { button, drawing, element, fill, number, percent, plural, token } from "./dom.js";
import { help } from "./help.js";
import { ask, tell } from "./store.js";

export function weightSection() {
  const batch = element("div"), movers = element("div"), detail = element("div", { id: "weight-detail" });
  const view = element("section", { class: "weight-section", id: "weight-section", "aria-label": "Why a weight moved", hidden: true }, batch, movers, detail);

  async function show(event) {
    view.hidden = false;
    batch.replaceChildren(...batchTable(event));
    movers.replaceChildren(element("h3", {}, "The weights that moved most"), element("ol", { class: "movers" }, event.movers.map((each) => element("li", {},
      button([nameOf(each.parameter, each.index)].join(""), () => explain(each.parameter, each.index), { class: "link" }), element("span", { class: "numbers" }, ` ${number(each.before)} → ${number(each.after)}`)))));
    const first = event.movers[0];
    await explain(first.parameter, first.index);
  }

  async function explain(parameter, index) {
    try {
      const found = await ask("weight", { parameter, index });
      fill(detail, weightDetail(found));
      const along = element("div", { class: "along" });
      detail.append(along);
      const points = await ask("weight_loss", { parameter, index });
      along.replaceChildren(...lossAlong(points.points, found));
      tell("problem", "");
    } catch (problem) { tell("problem", problem.message); }
  }
  return { view, show, explain, clear: () => { view.hidden = true; batch.replaceChildren(); movers.replaceChildren(); detail.replaceChildren(); } };
}

const nameOf = (parameter, index) => `${parameter}[${index.join(", ")}]`;

function batchTable(event) {
  const counted = event.batch.map((row) => row.filter((each) => each.loss !== null));
  const sum = (row) => row.reduce((total, each) => total + each.loss, 0);
  const all = counted.flat(), padding = event.batch.flat().length - all.length;
  const most = Math.max(...all.map((each) => each.loss), 1e-9);
  return [
    element("h2", {}, "Where the loss comes from", help("losses")),
    element("p", {}, `Step ${event.step} read ${plural(event.batch.length, "sequence")}. Each token is coloured by its loss: how much what came next surprised the model. `,
      `All ${all.length} losses add up to ${number(sum(all), 5)}; divided by ${all.length} that is the loss of the batch, ${number(event.loss, 5)}. `,
      padding ? [`${plural(padding, "place")} are padding and do not count `, help("padding"), "."] : ""),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The batch" }, element("table", { class: "steps batch" },
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "tokens, by the loss of the next one"), element("th", { scope: "col" }, "tokens"), element("th", { scope: "col" }, "mean loss"))),
      element("tbody", {}, counted.map((row) => element("tr", {}, element("td", { class: "sequence" }, row.map((each) => {
        const chip = element("span", { class: "chip", title: `→ ${each.target}: ${number(each.loss)} nats` }, token(each.token));
        chip.style.setProperty("--surprise", `${(100 * each.loss) / most}%`);
        return chip;
      })), element("td", {}, row.length), element("td", {}, number(sum(row) / row.length))))),
      element("tfoot", {}, element("tr", {}, element("th", { scope: "row" }, "the batch"), element("td", {}, all.length), element("td", {}, number(event.loss)))))),
  ];
}

function weightDetail(found) {
  const most = Math.max(...found.terms.map((term) => Math.abs(term.value)), 1e-30);
  const line = (name, value, text, id) => element("tr", {}, element("th", { scope: "row" }, name), element("td", { id }, number(value, 6)), element("td", { class: "dim" }, text));
  const uses = found.terms.some((term) => term.use);
  return [
    element("h2", {}, "Why ", element("code", {}, nameOf(found.parameter, found.index)), " moved"),
    element("h3", {}, `1. The gradient is a sum over ${plural(found.count, "use")} of the weight`, help("gradient")),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The gradient's terms" }, element("table", { class: "steps" },
      element("thead", {}, element("tr", {}, ["sequence, position", "token", "then came", ...(uses ? ["used"] : []), found.terms[0] && found.terms[0].input !== null ? "what came in" : "", "gradient of what went out", "adds"].map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, found.terms.slice(0, 20).map((term) => element("tr", {},
        element("th", { scope: "row" }, `${term.row + 1}, ${term.position}`), element("td", {}, token(term.token)), element("td", {}, term.target === null ? "–" : token(term.target)), uses ? element("td", {}, term.use) : null,
        element("td", {}, term.input === null ? "" : number(term.input)), element("td", {}, number(term.output_gradient)),
        element("td", { class: term.value < 0 ? "weight negative" : "weight" }, element("span", { class: "fill", style: { width: `${(100 * Math.abs(term.value)) / most}%` } }), element("span", {}, number(term.value)))))),
      element("tfoot", {}, found.count > 20 ? element("tr", {}, element("th", { scope: "row", colspan: uses ? 6 : 5 }, `the other ${found.count - 20}`), element("td", {}, number(found.other_sum + found.terms.slice(20).reduce((total, term) => total + term.value, 0)))) : null,
        element("tr", {}, element("th", { scope: "row", colspan: uses ? 6 : 5 }, "sum: the gradient"), element("td", { id: "weight-gradient" }, number(found.gradient, 6)))))),
    found.note ? element("p", { class: "note" }, found.note) : null,
    element("h3", {}, "2. From the gradient to the step", help("adam")),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The optimizer's numbers" }, element("table", { class: "steps" }, element("tbody", {},
      line(["gradient norm ", help("gradient_norm")], found.norm, found.clip === null ? "no limit" : `of all parameters; the limit is ${number(found.clip)}`),
      line("clip factor", found.factor, found.factor < 1 ? "the whole gradient is scaled down" : "within the limit: left as it is"),
      line("g", found.clipped, "the gradient that the optimizer gets", "weight-clipped"),
      line("m", found.m, `${number(found.beta1)} · ${number(found.m_before)} + ${number(1 - found.beta1, 3)} · g`),
      line("v", found.v, `${number(found.beta2)} · ${number(found.v_before)} + ${number(1 - found.beta2, 3)} · g²`),
      line("m̂", found.m_hat, `m / (1 − ${number(found.beta1)}^${found.t})`),
      line("v̂", found.v_hat, `v / (1 − ${number(found.beta2)}^${found.t})`),
      line("learning rate", found.learning_rate, "at this step"),
      found.weight_decay ? line("decay", -found.decayed, `learning rate · ${number(found.weight_decay)} · weight`) : null,
      line("step", -found.moved, "− learning rate · m̂ / (√v̂ + ε)"),
      line("before", found.before, ""), line("after", found.after, "", "weight-after"), line("change", found.change, found.before ? `${percent(Math.abs(found.change / found.before))} of what it was` : "it was 0")))),
  ];
}

function lossAlong(points, found) {
  const width = 520, height = 190, losses = points.map((each) => each.loss), low = Math.min(...losses), high = Math.max(...losses);
  const pad = (high - low) * 0.1 || 1e-9, x = (scale) => 70 + ((width - 90) * (scale - points[0].scale)) / (points.at(-1).scale - points[0].scale), y = (loss) => 12 + ((height - 44) * (high + pad - loss)) / (high - low + 2 * pad);
  const before = points.find((each) => each.scale === 0), after = points.find((each) => each.scale === 1);
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `loss of the batch from ${number(before.loss, 7)} to ${number(after.loss, 7)} as only this weight moves` },
    drawing("path", { class: "loss-line", d: points.map((each, i) => `${i ? "L" : "M"}${x(each.scale)} ${y(each.loss)}`).join("") }),
    points.map((each) => drawing("circle", { class: each.scale === 0 ? "before" : each.scale === 1 ? "after" : "loss-dot", cx: x(each.scale), cy: y(each.loss), r: each.scale === 0 || each.scale === 1 ? 5 : 3 })),
    drawing("text", { class: "axis", x: x(0), y: height - 8, "text-anchor": "middle", "font-size": 11 }, "before"), drawing("text", { class: "axis", x: x(1), y: height - 8, "text-anchor": "middle", "font-size": 11 }, "after"),
    drawing("text", { class: "axis", x: 64, y: y(high), "text-anchor": "end", "font-size": 10 }, number(high, 8)), drawing("text", { class: "axis", x: 64, y: y(low), "text-anchor": "end", "font-size": 10 }, number(low, 8)));
  const change = after.loss - before.loss, linear = found.gradient * found.change;
  return [element("h3", {}, "3. The loss of this batch, if only this weight moves", help("along")), svg,
    element("p", {}, `From ${number(before.loss, 7)} to ${number(after.loss, 7)}: a change of ${number(change, 3)}. The gradient times the change says ${number(linear, 3)}.`)];
}
