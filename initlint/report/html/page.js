"use strict";
document.documentElement.classList.add("js");

// One line at the foot of the page explains what is pointed at or focused.
const tip = document.getElementById("tip");
function meaning(marked) {
  if (marked.dataset.tip) return marked.dataset.tip;
  const term = marked.dataset.term || marked.getAttribute("href").slice(1);
  return document.getElementById(term).textContent;
}
function explain(element) {
  const marked = element instanceof Element ? element.closest("[data-tip], [data-term], .tip") : null;
  tip.hidden = marked === null;
  tip.textContent = marked === null ? "" : meaning(marked);
}
document.addEventListener("pointerover", (event) => explain(event.target));
document.addEventListener("focusin", (event) => explain(event.target));
document.addEventListener("focusout", () => explain(null));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") explain(null);
});

// The native tooltip would say the same a second time.
for (const title of document.querySelectorAll("svg.profile title")) title.remove();

// In a profile the arrow keys move from layer to layer.
for (const chart of document.querySelectorAll("svg.profile")) {
  const columns = [...chart.querySelectorAll(".column")];
  let here = -1;
  const go = (index) => {
    if (here >= 0) columns[here].classList.remove("here");
    here = Math.max(0, Math.min(columns.length - 1, index));
    columns[here].classList.add("here");
    explain(columns[here]);
  };
  const moves = { ArrowRight: () => here + 1, ArrowLeft: () => here - 1, Home: () => 0, End: () => columns.length - 1 };
  chart.addEventListener("keydown", (event) => {
    if (!(event.key in moves)) return;
    event.preventDefault();
    go(moves[event.key]());
  });
  chart.addEventListener("blur", () => {
    if (here >= 0) columns[here].classList.remove("here");
    here = -1;
  });
}

// Filters: every word must occur.
for (const input of document.querySelectorAll(".search")) {
  const section = input.closest("section");
  const items = [...section.querySelectorAll(".cards > .card, .rows > .row")];
  const texts = items.map((item) => (item.matches(".row") ? item.firstElementChild : item).textContent.toLowerCase());
  const status = section.querySelector(".status");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    items.forEach((item, index) => {
      item.hidden = !words.every((word) => texts[index].includes(word));
      if (!item.hidden) shown += 1;
    });
    status.textContent = words.length ? `${shown} of ${items.length}` : "";
  });
}

// A link to a layer opens it; printing opens what the cards hold.
function open() {
  const row = location.hash ? document.getElementById(location.hash.slice(1)) : null;
  if (row instanceof HTMLDetailsElement) row.open = true;
}
addEventListener("hashchange", open);
open();
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll(".card > details:not(:has(.help))")) part.open = true;
});
