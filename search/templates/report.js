"use strict";
const night = matchMedia("(prefers-color-scheme: dark)");
function paint(box) {
  const ink = night.matches ? "#e4e9ef" : "#2b3440";
  return Plotly.relayout(box, { "font.color": ink, "hoverlabel.bgcolor": night.matches ? "#1a2129" : "#ffffff",
    "hoverlabel.font.color": ink, "hoverlabel.bordercolor": "#98a5b3" });
}
for (const data of document.querySelectorAll('script[id^="data-"]')) {
  const box = document.getElementById(data.id.slice(5));
  const figure = JSON.parse(data.textContent);
  Plotly.newPlot(box, figure.data, figure.layout, { responsive: true, displaylogo: false, displayModeBar: "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d"], showSendToCloud: false, showEditInChartStudio: false }).then(paint);
  night.addEventListener("change", () => paint(box));
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = head.classList.contains("n");
      const key = row => { const value = row.cells[column].dataset.sort; return numeric && value !== "" ? Number(value) : value; };
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = numeric ? x - y : x.localeCompare(y);
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); } });
  });
}
const words = document.getElementById("words"), ending = document.getElementById("ending"), backend = document.getElementById("backend");
function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of document.querySelectorAll("#trials tbody tr")) {
    const text = row.textContent.toLowerCase();
    const fits = wanted.every(word => text.includes(word)) && (!ending.value || row.dataset.ending === ending.value)
      && (!backend.value || row.dataset.backend === backend.value);
    row.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = shown;
}
if (words) for (const control of [words, ending, backend]) control.addEventListener("input", filter);
document.addEventListener("click", async event => {
  if (!event.target.matches("button.copy")) return;
  const code = event.target.parentElement.querySelector("code");
  try { await navigator.clipboard.writeText(code.textContent); } catch {
    const range = document.createRange(); range.selectNodeContents(code);
    getSelection().removeAllRanges(); getSelection().addRange(range); document.execCommand("copy");
  }
  event.target.textContent = "copied";
  setTimeout(() => { event.target.textContent = "copy"; }, 1200);
});
