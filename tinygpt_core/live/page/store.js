// What all views show: the text, the chosen position, what is switched off, and the forward pass over it. A change is asked for by `change`,
// and those who listen are told when the answer is there.
import { newestOnly } from "./engine.js";

export const state = { about: null, text: "", position: null, heads: [], parts: [], forward: null, sampling: { temperature: 1, top_k: null, top_p: null } };
const listeners = { forward: [], position: [], about: [], problem: [] };
let engine = null;

export const setEngine = (made) => { engine = made; };
export const ask = (method, params) => engine.ask(method, params);
export const engineName = () => engine.name;
export function on(event, listener) { listeners[event].push(listener); }
export function tell(event, ...given) { for (const listener of listeners[event]) listener(...given); }

// What says which forward pass is meant; the engine keeps the last one.
export const subject = () => ({ text: state.text, heads: state.heads, parts: state.parts });

export const refresh = newestOnly(async () => {
  try {
    state.forward = await ask("forward", subject());
    const last = state.forward.tokens.length - 1;
    if (state.position === null || state.position > last || state.follows) state.position = last;
    tell("problem", "");
    tell("forward");
  } catch (problem) { tell("problem", problem.message); }
});

export function change(values) {
  if ("text" in values && values.text !== state.text) state.follows = true;
  Object.assign(state, values);
  return refresh();
}

export function choose(position) {
  state.follows = position === state.forward.tokens.length - 1;
  state.position = position;
  tell("position");
}

export async function opened(about) {
  Object.assign(state, { about, heads: [], parts: [], position: null, follows: true });
  tell("about");
}

export function toggle(kind, pair) {
  const same = (other) => other[0] === pair[0] && other[1] === pair[1];
  const list = state[kind];
  return change({ [kind]: list.some(same) ? list.filter((other) => !same(other)) : [...list, pair] });
}

export const isOff = (kind, first, second) => state[kind].some((pair) => pair[0] === first && pair[1] === second);
