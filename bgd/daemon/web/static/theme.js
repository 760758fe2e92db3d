// The theme that was chosen in this browser, set before anything is drawn.
"use strict";
const THEMES = ["system", "light", "dark"];
function showTheme() {
  const theme = (document.documentElement.dataset.theme = localStorage.getItem("bgd-theme") ?? THEMES[0]);
  const button = document.getElementById("theme");
  if (button) button.textContent = `Theme: ${theme}`;
}
showTheme();
for (const event of ["DOMContentLoaded", "storage"]) addEventListener(event, showTheme);
addEventListener("click", ({ target }) => {
  if (target.id !== "theme") return;
  localStorage.setItem("bgd-theme", THEMES[(THEMES.indexOf(localStorage.getItem("bgd-theme") ?? THEMES[0]) + 1) % 3]);
  showTheme();
});
