(() => {
  "use strict";
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

  // Tables.

  const keyOf = (row, column) => row.cells[column].dataset.key;
  const isNumber = (key) => key !== "" && Number.isFinite(Number(key));
  const compare = (a, b) => {
    if (isNumber(a) && isNumber(b)) return Number(a) - Number(b);
    return a.localeCompare(b, undefined, { numeric: true });
  };

  function sort(table, column, order) {
    const sign = order === "ascending" ? 1 : -1;
    const rows = all("tbody tr", table);
    rows.sort((first, second) => {
      const [a, b] = [keyOf(first, column), keyOf(second, column)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * compare(a, b);
    });
    table.tBodies[0].append(...rows);
    for (const head of all("thead th", table)) head.setAttribute("aria-sort", "none");
    table.tHead.rows[0].cells[column].setAttribute("aria-sort", order);
  }

  function makeSortable(table, tell) {
    all("thead th", table).forEach((head, column) => {
      const button = make("button", { type: "button" });
      button.append(...head.querySelector(".title").childNodes);
      head.querySelector(".title").replaceWith(button);
      head.setAttribute("aria-sort", head.dataset.order || "none");
      button.addEventListener("click", () => {
        const firstWay = head.classList.contains("text") ? "ascending" : "descending";
        const other = firstWay === "ascending" ? "descending" : "ascending";
        const order = head.getAttribute("aria-sort") === firstWay ? other : firstWay;
        sort(table, column, order);
        tell(`, sorted by ${button.textContent}, ${order}`);
      });
    });
  }

  function makeTable(holder) {
    const table = holder.querySelector("table");
    const rows = all("tbody tr", table);
    const status = make("p");
    status.setAttribute("role", "status");
    const tell = (more = "") => {
      const shown = rows.filter((row) => !row.hidden).length;
      status.textContent = `${shown} of ${rows.length} rows${more}`;
    };
    if (rows.length > 1) makeSortable(table, tell);
    if (!("searchable" in holder.dataset)) {
      status.className = "unseen";
      holder.append(status);
      return;
    }
    const caption = table.caption.textContent;
    const search = make("input", { type: "search", placeholder: "Search rows" });
    search.setAttribute("aria-label", `Search rows of: ${caption}`);
    search.addEventListener("input", () => {
      const wanted = search.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
      tell();
    });
    const tools = make("div", { className: "tools" });
    tools.append(search, status);
    holder.querySelector(".scroll").before(tools);
    tell();
  }
  all(".table").forEach(makeTable);

  // Sample sets that are drawn.

  const sets = document.querySelector(".sets");
  sets?.addEventListener("change", ({ target }) => {
    for (const line of all("[data-set]")) {
      if (line.dataset.set === target.value) line.toggleAttribute("hidden", !target.checked);
    }
  });

  // One ranking of several at a time, the same for every query.

  function chooseRanking(name) {
    for (const holder of all(".panel, #all")) {
      const rankings = all(".ranking", holder);
      const known = rankings.some((one) => one.dataset.choice === name);
      for (const one of rankings) one.hidden = known && one.dataset.choice !== name;
    }
    for (const select of all("select.rankings")) {
      if (all("option", select).some((option) => option.value === name)) select.value = name;
    }
  }
  let rankings = 0;
  for (const holder of all(".panel, #all")) {
    const names = all(".ranking", holder).map((one) => one.dataset.choice);
    if (names.length < 2) continue;
    const id = `rankings-${(rankings += 1)}`;
    const select = make("select", { className: "rankings", id });
    select.append(...names.map((name) => make("option", { value: name, textContent: name })));
    select.addEventListener("change", () => chooseRanking(select.value));
    const controls = make("div", { className: "controls" });
    controls.append(make("label", { htmlFor: id, textContent: "Divergence" }), select);
    holder.querySelector(".ranking").before(controls);
    if (rankings === 1) queueMicrotask(() => chooseRanking(names[0]));
  }

  // One query at a time.

  const chooser = document.getElementById("chooser");
  if (!chooser) return;
  const panels = all(".panel");
  const select = document.getElementById("query");
  const every = document.getElementById("every");
  const [previous, next] = ["previous", "next"].map((id) => document.getElementById(id));
  function choose(anchor) {
    const showAll = every.getAttribute("aria-pressed") === "true";
    for (const panel of panels) panel.hidden = !showAll && panel.id !== anchor;
    select.value = anchor;
    previous.disabled = select.selectedIndex === 0;
    next.disabled = select.selectedIndex === panels.length - 1;
    if (showAll) document.getElementById(anchor).scrollIntoView();
  }
  const step = (by) => choose(panels[select.selectedIndex + by].id);
  const byAddress = () => {
    const anchor = decodeURIComponent(location.hash.slice(1));
    return panels.some((panel) => panel.id === anchor) ? anchor : null;
  };
  select.addEventListener("change", () => choose(select.value));
  previous.addEventListener("click", () => step(-1));
  next.addEventListener("click", () => step(1));
  every.addEventListener("click", () => {
    const pressed = every.getAttribute("aria-pressed") !== "true";
    every.setAttribute("aria-pressed", String(pressed));
    every.textContent = pressed ? "Show one" : "Show all";
    for (const panel of panels) panel.hidden = !pressed && panel.id !== select.value;
  });
  addEventListener("hashchange", () => byAddress() && choose(byAddress()));
  chooser.hidden = panels.length < 2;
  choose(byAddress() ?? panels[0].id);
})();
