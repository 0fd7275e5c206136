const runs = [...document.querySelectorAll("#runs a")];
for (const cell of document.querySelectorAll(".runs")) {  // the addresses are in the page once
  const own = cell.dataset.runs.split(" ").filter(Boolean).map(at => runs[at - 1]);
  if (!own.length) continue;
  const details = document.createElement("details"), summary = document.createElement("summary");
  summary.textContent = own.length === 1 ? "1 run" : `${own.length} runs`;
  details.append(summary);
  details.addEventListener("toggle", () => {
    if (details.childElementCount === 1) own.forEach((run, at) => {
      const link = run.cloneNode();
      link.textContent = at + 1;
      link.title = run.textContent;
      details.append(link, " ");
    });
  });
  cell.append(details);
}
function compare(a, b, at, sign) {
  const x = a.cells[at].dataset.key, y = b.cells[at].dataset.key;
  if (x === "" || y === "") return (x === "") - (y === "");  // what is missing stays below
  const m = Number(x), n = Number(y);
  return sign * (Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n);
}
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], rows = [...body.rows];
  heads.forEach((head, at) => head.firstElementChild?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows.sort((a, b) => compare(a, b, at, down ? -1 : 1)));
  }));
  const bar = table.closest(".scroll").previousElementSibling;
  if (!bar?.classList.contains("bar")) continue;
  const filter = bar.querySelector("[type=search]"), count = bar.querySelector("span");
  const show = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    count.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
  };
  filter.addEventListener("input", show);
  bar.querySelector("[type=checkbox]")?.addEventListener("change", event =>
    table.classList.toggle("narrow", !event.target.checked));
  show();
}
