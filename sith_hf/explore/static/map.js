// The map: one cell is in the order of Tab, and arrow keys move between cells.
const cells = () => [...element.querySelectorAll('[role="gridcell"] button')];
const enter = (cell) => {
  cells().forEach((other) => (other.tabIndex = other === cell ? 0 : -1));
  cell.focus();
};
element.addEventListener("keydown", (event) => {
  const all = cells();
  const at = all.indexOf(event.target);
  if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  const wide = event.target.closest('[role="row"]').querySelectorAll('[role="gridcell"]').length;
  const column = at % wide;
  const row = at - column;
  const next = {
    ArrowRight: column < wide - 1 ? at + 1 : at,
    ArrowLeft: column > 0 ? at - 1 : at,
    ArrowDown: at + wide < all.length ? at + wide : at,
    ArrowUp: at >= wide ? at - wide : at,
    Home: row,
    End: row + wide - 1,
    PageUp: column,
    PageDown: all.length - wide + column,
  }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  enter(all[next]);
});
