// Views: filters with their order, by names that only this browser knows.
"use strict";

{
  const MOST = 20; // views
  const LONGEST = 40; // characters of a name
  const key = `bgd-views${base}`;
  const read = () => new Map(JSON.parse(localStorage.getItem(key) ?? "[]")); // what follows the ? of the address
  const query = new URLSearchParams(location.search);
  for (const field of ["before", "after", "from"]) query.delete(field);
  const shown = query.toString();
  const views = read();
  const current = [...views.keys()].find((name) => views.get(name) === shown);
  const button = document.getElementById("view");

  for (const [name, each] of views) {
    const link = document.createElement("a");
    [link.href, link.textContent] = [`?${each}`, name];
    if (name === current) link.setAttribute("aria-current", "page");
    button.before(link);
  }
  button.textContent = current === undefined ? "Save view…" : "Forget view";
  button.hidden = !shown || (current === undefined && views.size >= MOST);
  button.parentElement.hidden = button.hidden && !views.size;
  button.addEventListener("click", () => {
    const name = current ?? prompt("Name of this view:", "")?.trim().slice(0, LONGEST);
    if (!name) return;
    const changed = read(); // another tab may have changed them
    if (current === undefined) changed.set(name, shown);
    else changed.delete(name);
    localStorage.setItem(key, JSON.stringify([...changed]));
    location.reload();
  });
}
