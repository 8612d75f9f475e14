// The open head: marked in the map, and scrolled to where it is below the map.
let opened = "";
watch("value", () => {
  const head = element.querySelector("[data-open-layer]");
  if (!head) return;
  const { openLayer, openHead } = head.dataset;
  document.querySelectorAll('#map [role="gridcell"] button').forEach((cell) => {
    const here = cell.dataset.layer === openLayer && cell.dataset.head === openHead;
    cell.setAttribute("aria-pressed", String(here));
    cell.tabIndex = here ? 0 : -1;
  });
  const place = `${openLayer} ${openHead}`;
  const below = element.getBoundingClientRect().top > window.innerHeight * 0.6;
  if (place !== opened && below) element.scrollIntoView({ block: "start" });
  opened = place;
});
