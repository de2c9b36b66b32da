// Every page of the book: a copy button at each block. Where the site has Python for the browser and comes from a web server, its Python
// blocks can also be edited and run. This file is a classic script, since browsers start no modules from a disk.
(() => {
  const article = document.querySelector("article");
  if (!article) return;
  const legacyCopy = (text) => {
    const box = document.createElement("textarea");
    box.value = text;
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  };
  for (const block of article.querySelectorAll("div[class*='highlight-'] > .highlight, .source > .highlight")) {
    const copy = document.createElement("button");
    copy.type = "button";
    copy.className = "block-button copy";
    copy.textContent = "Copy";
    copy.addEventListener("click", async () => {
      const text = block.copied ? block.copied() : block.querySelector("pre").textContent;
      try { await navigator.clipboard.writeText(text); } catch { legacyCopy(text); }
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    block.append(copy);
  }
  const root = new URL(document.documentElement.dataset.content_root || "./", location.href);
  if (document.body.dataset.blocks && location.protocol !== "file:") import(new URL("_static/book/run.js", root)).then((run) => run.start(root));
})();
