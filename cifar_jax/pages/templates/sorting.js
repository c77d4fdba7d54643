"use strict";
// A click on a heading sorts the bodies of its table. Bodies without a value stay last.
document.querySelectorAll("table.sortable thead button").forEach((button) => button.addEventListener("click", () => {
  const head = button.closest("th"), table = button.closest("table"), place = head.cellIndex;
  const first = head.dataset.first, other = first === "descending" ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  const sign = order === "ascending" ? 1 : -1;
  const key = (body) => {
    const cell = body.rows[0].cells[place], value = cell.dataset.value;
    return value === undefined ? (head.dataset.words ? cell.textContent : null) : Number(value);
  };
  const compare = (a, b) => {
    const x = key(a), y = key(b);
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
  };
  table.querySelectorAll("thead th").forEach((th) => th.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order);
  table.append(...[...table.tBodies].sort(compare));
}));
