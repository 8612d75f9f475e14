// The line about the basket: buttons of vectors that are in it say so, wherever they are.
const mark = () => {
  const keys = new Set((element.querySelector("[data-keys]")?.dataset.keys ?? "").split(" "));
  document.querySelectorAll('button[data-action="add"][data-vector]').forEach((button) => {
    const { layer, head, vector } = button.dataset;
    const inside = String(keys.has(`vector:${layer},${head},${vector}`));
    if (button.getAttribute("aria-pressed") === inside) return;
    button.setAttribute("aria-pressed", inside);
    button.textContent = inside === "true" ? "In the edit" : "Add to edit";
  });
};
watch("value", mark);
let waiting = false;
new MutationObserver(() => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    mark();
  });
}).observe(document.body, { childList: true, subtree: true });
