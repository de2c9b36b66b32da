// The guided tour: ten stops that follow one letter forward, through the loss, backward, and into the update.
import { button, byId, element, token } from "./dom.js";
import { change, choose, state } from "./store.js";

export function makeTour(views, show) {
  let place = -1, box = null, opener = null, isAnother = false;
  const letter = () => token(state.forward.tokens[Math.min(state.position, state.forward.tokens.length - 1)].text);
  const counts = () => state.forward.views.some((each) => each.name === "counting");
  const pick = () => choose(Math.min(state.forward.tokens.length - 1, state.about.is_documents ? 2 : 1));
  const record = async () => {
    show("train");
    isAnother = false;
    if (!views.train.isBegun()) await views.train.begin(true);
    if (!views.train.isBegun()) { // this run cannot go on here: its text is another, or it is too large
      await views.train.begin(false);
      isAnother = views.train.isBegun();
    }
    await views.train.pause(); // a training that goes on forgets what was recorded
    await views.train.single();
  };
  const recorded = () => (document.querySelector(".along svg") ? show("train") : record());
  const stops = [
    ["A letter", () => ["The model reads tokens. We follow one of them, ", letter(), ", all the way."], async () => { if (!state.text) { byId("text").value = "get_value"; await change({ text: "get_value" }); } pick(); }, "#chips"],
    ["It becomes a vector", () => ["Its number picks a row of a table: ", letter(), " is now a list of numbers, one row of this map. They were learned."], () => { show("values"); return views.values.choose("embedding"); }, "#flow"],
    ["It asks, and others answer", () => ["The vector is mapped to a query, a key and a value. The query of ", letter(), " meets the keys of all positions up to its own."], () => { show("values"); return views.values.choose("blocks.0.query"); }, "#flow"],
    ["It looks back", () => ["q · k, scaled, masked, and made into shares: this row is what ", letter(), " looks at. Switch the head off, and see what the prediction loses."], () => show("attention"), "#attention-row"],
    ["It thinks by itself", () => ["What the heads say is added to the stream; then the MLP works on each position alone, and adds its part."], () => { show("values"); return views.values.choose("blocks.0.mlp"); }, "#flow"],
    ["It expects", () => ["The last vector is multiplied with a column for every token", counts() ? ", and what counting says is added, as far as the network trusts it" : "", ": the logits. Softmax makes probabilities of them: what could come after ", letter(), "."], () => show("next"), "#sampling"],
    ["It is surprised", () => [isAnother ? "This run cannot be trained further here, so a new small model is. " : "", "In training the next token is known. The loss is −log of the probability that it got: the table shows it for every token of a batch."], record, "#weight-section"],
    ["Backward", () => ["The chain rule walks back. A weight's gradient is a sum: each token that used it adds what came in times the gradient of what went out."], recorded, "#weight-gradient"],
    ["The update", () => ["The gradient is clipped, averaged into m and v, corrected for their start at zero, and scaled by the learning rate: this is how far the weight moves."], recorded, "#weight-after"],
    ["A little better", () => ["With only this weight moved, the loss of this batch changes by this much. All of them move at once, a thousand times: that is training. Press Start, and watch."], recorded, ".along"],
  ];

  async function go(next) {
    if (box.getAttribute("aria-busy") === "true") return; // one stop after the other
    place = next;
    if (place >= stops.length) return end();
    const [title, text, prepare, target] = stops[place];
    box.setAttribute("aria-busy", "true");
    await prepare();
    if (place !== next) return;
    box.setAttribute("aria-busy", "false");
    document.querySelectorAll(".toured").forEach((each) => each.classList.remove("toured"));
    const shown = document.querySelector(target);
    if (shown) {
      shown.classList.add("toured");
      shown.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    }
    box.replaceChildren(element("p", { class: "eyebrow" }, `Stop ${place + 1} of ${stops.length}`), element("h2", { tabindex: "-1" }, title), element("p", {}, text()),
      element("div", { class: "buttons" }, button("Back", () => go(place - 1), { disabled: place === 0 }), button(place === stops.length - 1 ? "Finish" : "Next", () => go(place + 1), { class: "main" }), button("End the tour", end)));
    box.querySelector("h2").focus({ preventScroll: true });
  }
  function end() {
    place = -1;
    document.querySelectorAll(".toured").forEach((each) => each.classList.remove("toured"));
    if (box) box.remove();
    box = null;
    if (opener) opener.focus();
  }
  return function start() {
    if (box || !state.forward) return;
    opener = document.activeElement;
    box = element("section", { class: "tour", role: "dialog", "aria-label": "Guided tour", on: { keydown: (event) => { if (event.key === "Escape") end(); } } });
    document.body.append(box);
    go(0);
  };
}
