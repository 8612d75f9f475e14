// A part of the page: its elements with data-action send their data-* values to Python.
const values = (target) => Object.fromEntries(Object.entries(target.dataset).map(([key, value]) => [key, String(value)]));
element.addEventListener("click", (event) => {
  const target = event.target.closest("button[data-action]");
  if (target) trigger("click", values(target));
});
element.addEventListener("change", (event) => {
  const target = event.target.closest("input[data-action], select[data-action]");
  if (target) trigger("input", { ...values(target), value: String(target.value) });
});
