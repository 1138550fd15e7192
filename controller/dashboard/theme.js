// Not a module: it runs before the first paint, so that a dark page never flashes white.
(() => {
  const KEY = "flotilla-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");

  const chosen = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // Storage may be forbidden: the switch then lasts as long as the page.
    }
  };

  let choice = chosen();

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
      // What the system says anyway is not kept, so that the page follows the system again.
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
