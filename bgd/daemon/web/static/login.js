// Keep the token that this session's pages send with each change. Other ports of this host cannot read it.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const { base, token } = document.body.dataset;
  localStorage.setItem(`bgd-token${base}`, token); // other daemons may be below other paths of this host
});
