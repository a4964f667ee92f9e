"use strict";
(() => {
  const dataset = document.getElementById("dataset");
  const cell = document.getElementById("cell");
  const shown = document.getElementById("shown");

  // An element without one of the two marks is of every data set, or of every cell.
  const matches = (element) => {
    const cells = (element.dataset.cells || "").split(" ").filter(Boolean);
    return (!dataset.value || !element.dataset.dataset || element.dataset.dataset === dataset.value)
      && (!cell.value || !cells.length || cells.includes(cell.value));
  };

  const apply = () => {
    for (const element of document.querySelectorAll("[data-cells]")) element.hidden = !matches(element);
    const runs = [...document.querySelectorAll("details.run")];
    const left = runs.filter((run) => !run.hidden).length;
    shown.textContent = left === runs.length ? `${left} runs` : `${left} of ${runs.length} runs`;
  };

  // A link to a run opens it, whatever the filter says.
  const follow = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    if (target.closest("[hidden]")) {
      dataset.value = cell.value = "";
      apply();
    }
    if (target.matches("details.run")) target.open = true;
    target.scrollIntoView();
  };

  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  dataset.addEventListener("change", apply);
  cell.addEventListener("change", apply);
  window.addEventListener("hashchange", follow);
  // The same link once more changes no address.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (link && link.hash === location.hash) follow();
  });
  apply();
  follow();
})();
