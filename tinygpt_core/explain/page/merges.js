// The tokenizer at work: bytes become tokens, one merge at a time.

function mergesView(data) {
  const { kind, chunks, note } = data.merges, total = chunks.reduce((sum, chunk) => sum + chunk.steps.length, 0);
  const rows = chunks.map((chunk) => element("li", {}, element("span", { class: "pieces" })));
  const said = element("p", { class: "reading", "aria-live": "polite" });
  const slider = element("input", { type: "range", min: 0, max: total, value: total, "aria-label": "Merges done", id: "merges-done", on: { input: () => show(Number(slider.value)) } });

  function show(done) {
    slider.value = done;
    slider.setAttribute("aria-valuetext", `${done} of ${count(total, "merge")}`);
    let left = done, message = done ? "" : "Nothing is merged yet: every byte is a token of its own.";
    chunks.forEach((chunk, i) => {
      let pieces = chunk.pieces.map((text, place) => [text, chunk.ids[place]]);
      const now = Math.min(left, chunk.steps.length);
      let fresh = -1;
      chunk.steps.slice(0, now).forEach(([place, id, text], n) => {
        const merged = left <= chunk.steps.length && n === now - 1 && now === left && left > 0;
        if (merged) message = [element("b", {}, visible(pieces[place][0])), " and ", element("b", {}, visible(pieces[place + 1][0])), " become ", element("b", {}, visible(text)), `, token ${id}: of all neighbours in this piece this pair was learned first. Merge ${done} of ${total}.`];
        pieces = [...pieces.slice(0, place), [text, id], ...pieces.slice(place + 2)];
        fresh = merged ? place : -1;
      });
      left -= now;
      rows[i].classList.toggle("now", fresh >= 0);
      rows[i].firstChild.replaceChildren(...pieces.map(([text, id], place) => element("span", { class: `piece ${place === fresh ? "fresh" : ""}` }, element("span", { class: "glyph" }, visible(text)), element("span", { class: "id" }, id))));
    });
    said.replaceChildren(...[message].flat());
  }

  const view = element("div", { class: "merges" }, element("h2", {}, kind === "bpe" ? "From bytes to tokens" : "From characters to tokens"), element("p", { class: "note" }, note));
  if (total) view.append(element("div", { class: "buttons" },
    element("button", { type: "button", "aria-label": "Undo a merge", on: { click: () => show(Math.max(0, Number(slider.value) - 1)) } }, "◀"),
    element("button", { type: "button", "aria-label": "Next merge", on: { click: () => show(Math.min(total, Number(slider.value) + 1)) } }, "▶"), slider), said);
  view.append(element("ol", { class: "chunks" }, rows));
  const { vocabulary } = data.merges;
  if (vocabulary) view.append(element("h2", {}, "The vocabulary"), element("p", { class: "note" }, "All the characters that the tokenizer knows, and its special tokens."),
    element("div", { class: "pieces vocabulary" }, vocabulary.map(([text, id]) => element("span", { class: "piece" }, element("span", { class: "glyph" }, visible(text)), element("span", { class: "id" }, id)))));
  view.shown = () => show(0);
  view.keys = (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move || !total || event.target === slider || event.target.closest("[role=tab]")) return;
    event.preventDefault();
    show(Math.max(0, Math.min(total, Number(slider.value) + move)));
  };
  return view;
}
