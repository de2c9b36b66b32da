// What the words mean: a "?" beside them opens a few lines, and leads to the section of the book that says it all.
import { button, element } from "./dom.js";
import { openDrawer } from "./cell.js";

const CHAPTERS = {
  attention: "07-attention", gpt: "09-a-gpt-that-writes", tokenizer: "05-a-tokenizer", network: "03-a-first-network", slopes: "01-slopes", counting: "04-counting", well: "10-training-it-well", block: "08-the-block",
};
const TOPICS = {
  nats: ["Nats", "The loss of a token is −log(probability that the model gave it), with the natural logarithm, so its unit is the nat. A token that was certain costs 0; one that got a share of 1 in 27 costs log 27 = 3.3. The entropy is the loss that the model expects of itself.", "counting", "how-good-can-a-prediction-be"],
  temperature: ["Temperature", "The logits are divided by it before the softmax. Below 1 the likely tokens become likelier, above 1 the shares come closer together; at 0 the most probable one is always taken.", "gpt", "temperature-top-k-top-p"],
  top_k: ["Top-k", "Only the k most probable tokens may be drawn; the shares of the others are given to them in proportion.", "gpt", "temperature-top-k-top-p"],
  top_p: ["Top-p", "Only the smallest set of most probable tokens may be drawn whose shares reach p together.", "gpt", "temperature-top-k-top-p"],
  draw: ["The draw", "A random number between 0 and 1 falls into the share of one token. The same seed gives the same numbers, on every machine, as `tinygpt generate --seed` has them.", "gpt", "writing"],
  attention: ["Attention", "Each position asks with its query; the keys of the positions up to its own answer. The better they fit, the larger the share of that position's value in what the head says.", "attention", "self-attention-and-why-it-looks-back-only"],
  scores: ["Scores", "The product of a query and a key, divided by the root of their size, so that it does not grow with the size.", "attention", "why-the-square-root"],
  query: ["Query, key, value", "Three linear maps of the same vector: what a position asks for, what it answers to, and what it hands over.", "attention", "a-lookup-that-is-never-quite-sure"],
  key: ["Query, key, value", "Three linear maps of the same vector: what a position asks for, what it answers to, and what it hands over.", "attention", "a-lookup-that-is-never-quite-sure"],
  value: ["Query, key, value", "Three linear maps of the same vector: what a position asks for, what it answers to, and what it hands over.", "attention", "a-lookup-that-is-never-quite-sure"],
  turned_query: ["Rotary positions", "Pairs of numbers are turned by an angle that grows with the position, so that a product of a query and a key depends on how far apart they stand.", "attention", "order-does-not-matter-until-it-is-told"],
  turned_key: ["Rotary positions", "Pairs of numbers are turned by an angle that grows with the position, so that a product of a query and a key depends on how far apart they stand.", "attention", "order-does-not-matter-until-it-is-told"],
  stream: ["The stream", "A vector for each position that runs through the whole model. Each block reads it and adds something to it.", "block", "the-residual-stream"],
  tokenizer: ["Tokens", "A model reads integers. The tokenizer cuts a text into pieces of a vocabulary, each of which has a number.", "tokenizer", "merging-by-hand"],
  counting: ["What counting says", "This model has counted, in the text that it learns from, what followed the last tokens. The longest context that was seen says most, and leaves a part to the shorter ones. The network learns how far to trust these probabilities, and what counting does not know.", "counting", "further-back"],
  network: ["What the network adds", "The last vector, multiplied with a column for every token. Before the first step of the training all these are 0; a positive number makes a token likelier than counting has it.", "counting", "further-back"],
  confidence: ["Trust in counting", "One number a position by which what counting says is multiplied. At 1 it is taken as it is; above 1 likely tokens become likelier still, below 1 the shares come closer together, and at 0 the network speaks alone. The training begins at 0, and soon is about 1.", "counting", "further-back"],
  losses: ["Three losses, one number", "The loss of a token is −log of the probability that it got. The loss of a sequence is the mean over its tokens, and the loss of the batch the mean over all tokens of all sequences: long ones weigh more. What training makes smaller is the last.", "gpt", "one-text-many-lessons"],
  padding: ["Padding", "Rows of a batch are as long as its longest one. What is filled up has no target, is no part of the loss and gets no gradient.", "gpt", "one-text-many-lessons"],
  gradient_norm: ["Gradient norm", "The length of the gradient of all parameters together: the root of the sum of all squares. Where it is larger than the limit, the whole gradient is scaled down to it.", "well", "when-a-gradient-is-too-long"],
  gradient: ["A gradient is a sum", "A weight is used at every position of every sequence. Its gradient is the sum of what each use contributes: what came in there, times the gradient of what went out.", "slopes", "the-gradient-of-a-matrix-product"],
  adam: ["AdamW", "m is a running mean of the gradient and v one of its square. Both begin at 0, so they are divided by 1 − β^t. The weight moves by the learning rate times m̂ / (√v̂ + ε).", "network", "adam-a-learning-rate-for-each-parameter"],
  learning_rate: ["Learning rate", "About how far a weight moves in a step of Adam. It rises during the warm-up and then falls along a cosine.", "well", "a-learning-rate-that-changes"],
  along: ["Only this weight", "All other weights stay as they were before the step; this one is moved by multiples of what the step did. The slope at 0 is its gradient.", "slopes", "measuring-a-slope"],
};

export function help(name) {
  const topic = TOPICS[name];
  return topic ? button("?", () => show(topic), { class: "help", "aria-label": `What is this: ${topic[0]}` }) : null;
}

function show([title, text, chapter, section]) {
  const book = document.documentElement.dataset.book, file = CHAPTERS[chapter];
  const place = `chapter ${Number(file.slice(0, 2))} of the book`;
  openDrawer(element("p", { class: "eyebrow" }, "In a few words"), element("h2", {}, title), element("p", {}, text),
    element("p", {}, book ? element("a", { href: `${book}${file}.html#${section}` }, `More in ${place}`) : `More in ${place}, docs/${file}.md.`));
}
