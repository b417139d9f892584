(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  let kept = null;
  try {
    kept = localStorage.getItem("dtda-theme");
  } catch {
    // Pages opened from disk may not be allowed to keep anything.
  }
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
})();
