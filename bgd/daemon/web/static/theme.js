// The theme that was chosen in this browser, set before anything is drawn; without a choice it is the system's.
"use strict";

const NEXT_THEME = { system: "light", light: "dark", dark: "system" };
const root = document.documentElement;

function setTheme(theme) {
  root.dataset.theme = theme in NEXT_THEME ? theme : "system";
  const button = document.getElementById("theme");
  if (button) button.textContent = `Theme: ${root.dataset.theme}`;
}

const chosenTheme = () => localStorage.getItem("bgd-theme");
setTheme(chosenTheme());
addEventListener("storage", () => setTheme(chosenTheme()));
addEventListener("DOMContentLoaded", () => {
  setTheme(chosenTheme());
  document.getElementById("theme")?.addEventListener("click", () => {
    localStorage.setItem("bgd-theme", NEXT_THEME[root.dataset.theme]);
    setTheme(chosenTheme());
  });
});
