// The text box, its tokens, and the player that writes on: play, step, back.
import { button, byId, element, number, percent, plural, token, visible } from "./dom.js";
import { help } from "./help.js";
import { ask, change, choose, on, state, subject, tell } from "./store.js";

const written = []; // what was drawn, newest last: { before }, the text without it
let seed = 1, playing = false, drawn = null;

export function makeReader() {
  const text = byId("text"), chips = byId("chips"), reading = byId("reading"), player = byId("player");
  const play = button("Play", () => { playing = !playing; shown(); if (playing) loop(); }, { id: "play", class: "main" });
  const step = button("Write one", () => write()), back = button("Back", goBack);
  const seedInput = element("input", { type: "number", min: "0", max: "999999", value: "1", id: "seed" });
  seedInput.addEventListener("change", () => { seed = Math.max(0, Math.floor(Number(seedInput.value) || 0)); seedInput.value = seed; written.length = 0; shown(); });
  player.append(play, step, back, element("label", { for: "seed" }, "Seed ", seedInput), help("draw"));

  function shown() {
    play.textContent = playing ? "Pause" : "Play";
    play.setAttribute("aria-pressed", String(playing));
    back.disabled = !written.length;
  }
  async function loop() {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    while (playing) {
      if (await write() !== true) { playing = false; shown(); return; }
      await new Promise((done) => setTimeout(done, calm ? 700 : 350));
    }
  }
  async function write() {
    const before = state.text;
    try {
      const result = await ask("draw", { ...subject(), ...state.sampling, seed, draw: written.length });
      if (state.text !== before) return false;
      drawn = result;
      if (result.is_end) { tell("position"); reading.textContent = "Drawn: the end of the text. Here a new one would begin."; return false; }
      if (result.text === before) { reading.textContent = `Drawn: “${visible(result.token)}”, a part of a character.`; return false; }
      written.push({ before });
      text.value = result.text;
      await change({ text: result.text });
      shown();
      return true;
    } catch (problem) { tell("problem", problem.message); return false; }
  }
  function goBack() {
    playing = false;
    const last = written.pop();
    if (last) { text.value = last.before; drawn = null; change({ text: last.before }); }
    shown();
  }
  text.addEventListener("input", () => { playing = false; written.length = 0; drawn = null; shown(); change({ text: text.value }); });

  on("about", () => { text.disabled = false; written.length = 0; drawn = null; shown(); });
  on("forward", () => {
    const { tokens, predictions, dropped } = state.forward;
    const most = Math.max(...predictions.map((each) => each.loss || 0), 1e-9);
    chips.replaceChildren(...tokens.map((each, place) => {
      const loss = place ? predictions[place - 1].loss : null;
      const chip = element("span", { class: "chip", role: "option", tabindex: "-1", "aria-selected": "false", "data-place": place, title: loss === null ? "the first token: nothing was expected" : `surprise ${number(loss)} nats` }, token(each.text));
      if (loss !== null) chip.style.setProperty("--surprise", `${(100 * loss) / most}%`);
      return chip;
    }));
    if (dropped) reading.textContent = `The model reads the last ${plural(tokens.length, "token")}; the ${plural(dropped, "token")} before them find no room.`;
    else reading.textContent = `${plural(tokens.length, "token")}, of at most ${state.about.context_length}. The stronger a token's colour, the more it surprised the model.`;
    mark();
  });
  on("position", mark);

  function mark() {
    for (const chip of chips.children) {
      const is = Number(chip.dataset.place) === state.position;
      chip.setAttribute("aria-selected", String(is));
      chip.tabIndex = is ? 0 : -1;
    }
  }
  chips.addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    if (chip) choose(Number(chip.dataset.place));
  });
  chips.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
    if (!move) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(chips.children.length - 1, state.position + move)));
    chips.children[state.position].focus();
  });
  shown();
}

// The draw, as a line from 0 to 1 cut into the candidates' shares, with the number that was drawn.
export function drawPicture() {
  if (!drawn) return element("p", { class: "note" }, "“Write one” draws the next token: a random number between 0 and 1 falls into the share of one of them.");
  const shares = element("div", { class: "line", "aria-hidden": "true" });
  let from = 0;
  for (const each of drawn.candidates) {
    const width = 100 * each.share;
    if (width > 0.15) shares.append(element("span", { class: each.id === drawn.id ? "share drawn" : "share", style: { left: `${100 * (each.until - each.share)}%`, width: `${width}%` } }, width > 3 ? token(each.text) : ""));
    from = each.until;
  }
  if (from < 1) shares.append(element("span", { class: "share", style: { left: `${100 * from}%`, width: `${100 * (1 - from)}%` } }));
  if (drawn.number !== null) shares.append(element("span", { class: "needle", style: { left: `${100 * drawn.number}%` } }));
  const how = drawn.number === null ? "the most probable token, since the temperature is 0: " : `${number(drawn.number, 6)}, which falls into the share of `;
  const chosen = drawn.candidates.find((each) => each.id === drawn.id);
  return element("div", { class: "draw" }, element("p", {}, "Drawn: ", how, token(drawn.token, { class: "token strong" }), ` (${percent(chosen.share)} of ${plural(drawn.count, "candidate")}).`), shares);
}
