"use strict";
(() => {
  const data = JSON.parse(document.querySelector("#data").textContent);
  const panel = document.querySelector("#panel");
  const matrix = document.querySelector(".matrix");
  const buttons = [...document.querySelectorAll("[data-cell]")];
  // Only a probability of exactly 1 may read as 100 %.
  const percent = (share) => (share === 1 ? 100 : Math.min(100 * share, 99.94)).toFixed(1) + " %";

  const picture = (place, t, p, lines) => {
    const [index, confidence] = data.images[place];
    const figure = document.createElement("figure"), image = document.createElement("span");
    const caption = document.createElement("figcaption");
    figure.className = "picture";
    figure.dataset.index = index;
    const words = data.classes[t] + ", predicted as " + data.classes[p] + " with probability " + percent(confidence);
    image.setAttribute("role", "img");
    image.setAttribute("aria-label", words);
    figure.title = words + " (image " + index + ")";
    image.style.setProperty("--x", -(place % data.columns) * data.pitch + "px");
    image.style.setProperty("--y", -Math.floor(place / data.columns) * data.pitch + "px");
    for (const text of [...lines, percent(confidence)]) {
      const line = document.createElement("div");
      line.textContent = text;
      caption.append(line);
    }
    figure.append(image, caption);
    return figure;
  };

  const show = (cell) => {
    const [t, p] = cell.split(",").map(Number), [count, places] = data.cells[cell];
    panel.querySelector("h3").textContent = data.classes[t] + (t === p ? ", predicted correctly" : " → " + data.classes[p]);
    const all = count === places.length ? (count === 1 ? "One image" : "All " + count + " images, most confident first")
      : places.length + " of " + count + " images" + (places.length ? ", most confident first" : ": this page holds only the most confident of all images");
    panel.querySelector("p").textContent = all + (places.length ? ", with the probability of " + data.classes[p] : "") + ".";
    panel.querySelector(".pictures").replaceChildren(...places.map((place) => picture(place, t, p, [])));
    buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.cell === cell));
    if (!matrix) return;
    matrix.querySelectorAll("th.on").forEach((head) => head.classList.remove("on"));
    matrix.rows[0].cells[p + 1].classList.add("on");
    matrix.rows[t + 1].cells[0].classList.add("on");
    stopAt(buttons.find((button) => button.dataset.cell === cell && matrix.contains(button)));
  };

  // The tab key stops once in the matrix. The arrow keys move from number to number within it.
  const stopAt = (stop) => {
    matrix.querySelectorAll("button[tabindex='0']").forEach((button) => { button.tabIndex = -1; });
    stop.tabIndex = 0;
  };
  const center = (button) => {
    const cell = button.closest("td"), box = matrix.parentElement;
    box.scrollTo(cell.offsetLeft - box.clientWidth / 2, cell.offsetTop - box.clientHeight / 2);
  };
  if (matrix) {
    matrix.querySelectorAll("button").forEach((button) => { button.tabIndex = -1; });
    matrix.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      const step = steps[event.key], cell = event.target.closest("td");
      if (!step || !cell) return;
      event.preventDefault();
      let row = cell.parentElement.rowIndex + step[0], column = cell.cellIndex + step[1];
      for (; matrix.rows[row] && matrix.rows[row].cells[column]; row += step[0], column += step[1]) {
        const next = matrix.rows[row].cells[column].querySelector("button");
        if (next) { stopAt(next); next.focus(); return; }
      }
    });
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-cell]");
    if (!button) return;
    show(button.dataset.cell);
    if (matrix && !matrix.contains(button)) center(matrix.querySelector("[aria-pressed=true]"));
    panel.scrollIntoView({ block: "nearest" });
  });

  document.querySelector(".mistakes").append(...data.mistakes.map(
    ([t, p, place]) => picture(place, t, p, [data.classes[t], "→ " + data.classes[p]])));
  const first = document.querySelector(".chips [data-cell], .frequent [data-cell]") || buttons[0];
  if (first) show(first.dataset.cell);
})();
