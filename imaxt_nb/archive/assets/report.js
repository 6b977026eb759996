const toggle = document.getElementById("toggle-code");
toggle.hidden = false;
toggle.addEventListener("click", () => {
  const open = toggle.getAttribute("aria-pressed") !== "true";
  document.querySelectorAll("details.source").forEach((d) => { d.open = open; });
  toggle.setAttribute("aria-pressed", String(open));
  toggle.textContent = open ? "Hide all code" : "Show all code";
});
