// Search, status filter and sorting. The pages are complete without any of it.
(() => {
  const tools = document.getElementById("tools");
  if (tools) {
    const search = document.getElementById("search"), status = document.getElementById("status");
    const rows = [...document.querySelectorAll("tr[data-row]")];
    const filter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const hit = words.every((w) => row.dataset.text.includes(w))
          && (!status.value || row.dataset.status.split(" ").includes(status.value));
        row.classList.toggle("hidden", !hit);
        shown += hit;
      }
      for (const part of document.querySelectorAll("section.part")) {
        part.classList.toggle("hidden", !part.querySelector("tr[data-row]:not(.hidden)"));
      }
      const active = words.length || status.value;
      document.getElementById("found").textContent = active ? `${shown} of ${rows.length} rows` : "";
      document.getElementById("nothing").classList.toggle("hidden", shown > 0);
    };
    tools.hidden = false;
    search.addEventListener("input", filter);
    status.addEventListener("change", filter);
    filter();
  }
  const value = (row, i) => {
    const cell = row.cells[i], raw = cell.dataset.value ?? cell.textContent.trim();
    return raw === "" || Number.isNaN(Number(raw)) ? raw : Number(raw);
  };
  for (const head of document.querySelectorAll("table.sortable th[data-sort]")) {
    head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending", body = head.closest("table").tBodies[0];
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = (a, b) => {
        if (a === "" || b === "") return (a === "") - (b === "") || 0; // missing values stay last
        const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
        return up ? order : -order;
      };
      body.append(...[...body.rows].sort((r, s) => compare(value(r, head.cellIndex), value(s, head.cellIndex))));
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); sort(); } });
  }
})();
