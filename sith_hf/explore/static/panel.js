// A part of the page: its elements with data-action send their data-* values to Python.
const values = (target) => Object.fromEntries(Object.entries(target.dataset).map(([key, value]) => [key, String(value)]));
element.addEventListener("click", (event) => {
  const target = event.target.closest("button[data-action]");
  if (target) trigger("click", values(target));
});
// A slider shows its value while it moves, and sends it when it rests. (Gradio's "always_last" would repeat the first.)
// Each slider waits for itself: one that moves right after another does not stop it.
const resting = new WeakMap();
element.addEventListener("input", (event) => {
  const target = event.target.closest("input[type=range][data-action]");
  if (!target) return;
  const shown = target.parentElement.querySelector("output");
  if (shown) shown.value = Number(target.value).toFixed(2);
  clearTimeout(resting.get(target));
  resting.set(target, setTimeout(() => trigger("input", { ...values(target), value: String(target.value) }), 200));
});
element.addEventListener("change", (event) => {
  const target = event.target.closest("input[data-action]:not([type=range]), select[data-action]");
  if (target) trigger("input", { ...values(target), value: String(target.value) });
});
