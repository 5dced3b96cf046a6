// Turns the links to the sections into tabs; without scripts they stay links and all sections show.
(function () {
  const list = document.querySelector(".tabs");
  if (!list) return;
  const tabs = Array.from(list.querySelectorAll("a"));
  const panels = tabs.map((tab) => document.getElementById(tab.hash.slice(1)));
  list.setAttribute("role", "tablist");
  tabs.forEach((tab, index) => {
    tab.parentElement.setAttribute("role", "presentation");
    tab.setAttribute("role", "tab");
    tab.id = "tab-" + panels[index].id;
    tab.setAttribute("aria-controls", panels[index].id);
    panels[index].setAttribute("role", "tabpanel");
    panels[index].setAttribute("aria-labelledby", tab.id);
    panels[index].tabIndex = 0;
  });
  function show(chosen, focus) {
    tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", String(index === chosen));
      tab.tabIndex = index === chosen ? 0 : -1;
      panels[index].hidden = index !== chosen;
    });
    if (focus) tabs[chosen].focus();
  }
  function named(hash) {
    return Math.max(0, tabs.findIndex((tab) => tab.hash === hash));
  }
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", (event) => {
      event.preventDefault();
      history.replaceState(null, "", tab.hash);
      show(index, true);
    });
    tab.addEventListener("keydown", (event) => {
      const last = tabs.length - 1;
      const moves = {
        ArrowRight: index === last ? 0 : index + 1,
        ArrowLeft: index === 0 ? last : index - 1,
        Home: 0,
        End: last,
      };
      if (event.key === " ") tab.click();
      else if (event.key in moves) tabs[moves[event.key]].click();
      else return;
      event.preventDefault();
    });
  });
  // A link elsewhere in the page may name a section that is not shown.
  window.addEventListener("hashchange", () => show(named(location.hash), true));
  show(named(location.hash), false);
})();
