// A classic script, not a module: it runs before the first paint, so that a dark page does not flash white.
(() => {
  const KEY = "flotilla-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");

  const readChoice = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // Storage may be blocked: the choice then lasts until the page is closed.
    }
  };

  let choice = readChoice();

  const apply = () => {
    const dark = choice ? choice === "dark" : system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    dispatchEvent(new Event("themechange"));
  };

  window.flotillaTheme = {
    get current() {
      return document.documentElement.dataset.theme;
    },
    toggle() {
      const next = this.current === "dark" ? "light" : "dark";
      // A choice that equals the system's setting is not stored, so that the page follows the system again.
      choice = (next === "dark") === system.matches ? null : next;
      try {
        if (choice) localStorage.setItem(KEY, choice);
        else localStorage.removeItem(KEY);
      } catch {}
      apply();
    },
  };

  system.addEventListener("change", apply);
  apply();
})();
