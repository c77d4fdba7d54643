"use strict";
(() => {
  const marks = (run) => document.querySelectorAll('svg g[data-run="' + run + '"]');
  const buttons = [...document.querySelectorAll(".legend button[data-run]")];
  const groups = [...document.querySelectorAll(".legend button[data-runs]")];
  const isOn = (button) => button.getAttribute("aria-pressed") === "true";
  const buttonsOf = (group) => buttons.filter((b) => group.dataset.runs.split(" ").includes(b.dataset.run));
  const show = (button, on) => {
    button.setAttribute("aria-pressed", on);
    marks(button.dataset.run).forEach((mark) => mark.toggleAttribute("hidden", !on));
  };
  const settle = () => groups.forEach((g) => g.setAttribute("aria-pressed", buttonsOf(g).some(isOn)));
  buttons.forEach((button) => button.addEventListener("click", () => { show(button, !isOn(button)); settle(); }));
  groups.forEach((group) => group.addEventListener("click", () => {
    const on = !isOn(group);
    buttonsOf(group).forEach((button) => show(button, on));
    settle();
  }));
  document.querySelectorAll(".legend .all").forEach((all) => all.addEventListener("click", () => {
    buttons.forEach((button) => show(button, all.dataset.all === "on"));
    settle();
  }));
  // Highlights in the charts the run under the pointer in the legend or the table.
  const charts = document.querySelector(".charts");
  document.querySelectorAll("[data-run], [data-runs]").forEach((element) => {
    if (element.closest("svg")) return;
    const runs = (element.dataset.runs || element.dataset.run).split(" ");
    const set = (loud) => {
      charts.classList.toggle("quiet", loud);
      runs.forEach((run) => marks(run).forEach((mark) => mark.classList.toggle("loud", loud)));
    };
    element.addEventListener("pointerenter", () => set(true));
    element.addEventListener("pointerleave", () => set(false));
  });
})();
