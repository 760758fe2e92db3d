// Keep the token that this session's pages send with each change. Other ports of this host cannot read it.
"use strict";
addEventListener("DOMContentLoaded", () => localStorage.setItem("bgd-token", document.body.dataset.token));
