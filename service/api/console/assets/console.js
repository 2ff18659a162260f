// What the pages do by themselves: follow what happens, keys, plots. Everything works without it,
// but for following.
"use strict";
(() => {
  const main = document.querySelector("main");
  const mark = document.getElementById("live");
  const search = document.getElementById("search");

  // --- following -------------------------------------------------------------------------------
  // What somebody has opened or is writing stays as it is.
  Idiomorph.defaults.ignoreActiveValue = true;
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) =>
    !(name === "open" && (node.tagName === "DETAILS" || node.tagName === "DIALOG")) &&
    !(name === "class" && node.classList.contains("plot"));
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (old) =>
    !(old.nodeType === 1 && old.hasAttribute("data-kept"));

  let stream = null;
  const tell = (words, name) => {
    if (!mark) return;
    mark.textContent = words;
    mark.className = "live " + name;
  };
  const follow = () => {
    if (stream || document.hidden || !main || !main.hasAttribute("data-live")) return;
    stream = new EventSource(location.href);
    stream.addEventListener("open", () => tell("live", "on"));
    stream.addEventListener("content", (event) => {
      const selected = main.querySelector("tr.here");
      Idiomorph.morph(main, event.data, { morphStyle: "innerHTML" });
      if (selected && selected.id) choose(document.getElementById(selected.id), false);
      htmx.process(main);
      draw();
    });
    stream.addEventListener("error", () => {
      // Refused: most likely the session is over, and the page itself says so.
      if (stream && stream.readyState === EventSource.CLOSED) {
        stop("not live");
        setTimeout(() => { if (!document.hidden) follow(); }, 5000);
      } else tell("reconnecting", "off");
    });
  };
  const stop = (words) => {
    if (stream) stream.close();
    stream = null;
    tell(words, "off");
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? stop("paused") : follow()));
  addEventListener("pagehide", () => stop("paused"));
  addEventListener("pageshow", follow);

  // --- plots -----------------------------------------------------------------------------------
  // <figure class="plot" id="…" data-kept data-plot='{"x": [seconds], "series": [{"label", "y"}]}'>
  const draw = () => {
    for (const place of document.querySelectorAll("[data-plot]")) {
      if (place.dataset.drawn === place.dataset.plot) continue;
      const asked = JSON.parse(place.dataset.plot);
      const style = getComputedStyle(place);
      place.replaceChildren();
      new uPlot(
        {
          width: place.clientWidth || 300,
          height: 120,
          legend: { show: asked.series.length > 1 },
          cursor: { y: false },
          axes: [{ stroke: style.color, grid: { show: false } }, { stroke: style.color, size: 44 }],
          series: [{}, ...asked.series.map((one, at) => ({
            label: one.label, width: 1.5,
            stroke: style.getPropertyValue("--plot-" + (at + 1)).trim() || style.color,
          }))],
        },
        [asked.x, ...asked.series.map((one) => one.y)],
        place
      );
      place.dataset.drawn = place.dataset.plot;
    }
  };

  // --- keys ------------------------------------------------------------------------------------
  const rows = () => [...document.querySelectorAll("table.rows tbody tr")];
  const choose = (row, scroll = true) => {
    if (!row) return;
    for (const one of document.querySelectorAll("tr.here")) one.classList.remove("here");
    row.classList.add("here");
    if (!scroll) return;
    row.scrollIntoView({ block: "nearest" });
    const link = row.querySelector("a");
    if (link) link.focus({ preventScroll: true });
  };
  const step = (by) => {
    const all = rows();
    const at = all.findIndex((row) => row.classList.contains("here"));
    choose(all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + by, 0), all.length - 1)]);
  };
  let goes = false;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select");
    if (event.key === "Escape" && typing) return typing.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (goes) {
      goes = false;
      const wanted = [...document.querySelectorAll("header nav a")]
        .find((link) => link.textContent.trim().toLowerCase().startsWith(event.key));
      if (wanted) location.href = wanted.href;
      return;
    }
    const keys = document.getElementById("keys");
    switch (event.key) {
      case "/": if (search) { event.preventDefault(); search.focus(); search.select(); } break;
      case "j": step(1); break;
      case "k": step(-1); break;
      case "g": goes = true; break;
      case "?": if (keys && !keys.open) keys.showModal(); break;
    }
  });

  // --- suggestions -----------------------------------------------------------------------------
  const list = document.getElementById("suggestions");
  if (search && list) {
    const options = () => [...list.children];
    const chosen = () => options().find((one) => one.getAttribute("aria-selected") === "true");
    const show = (is) => {
      list.hidden = !is;
      search.setAttribute("aria-expanded", String(is));
      if (!is) search.removeAttribute("aria-activedescendant");
    };
    const select = (option) => {
      for (const one of options()) one.setAttribute("aria-selected", String(one === option));
      if (!option) return search.removeAttribute("aria-activedescendant");
      search.setAttribute("aria-activedescendant", option.id);
      option.scrollIntoView({ block: "nearest" });
    };
    const complete = (option) => {
      search.value = option.dataset.complete;
      list.replaceChildren();
      show(false);
      search.focus();
      search.dispatchEvent(new Event("input", { bubbles: true }));
    };
    // Not by htmx: it complains in the browser's console of each request that a later one replaces.
    let asking = null;
    let pause = 0;
    const ask = async () => {
      if (asking) asking.abort();
      asking = new AbortController();
      const query = "?q=" + encodeURIComponent(search.value);
      try {
        const answer = await fetch(search.dataset.suggestions + query, { signal: asking.signal });
        if (!answer.ok || answer.redirected) return;
        list.innerHTML = await answer.text();
        show(options().length > 0 && document.activeElement === search);
      } catch (error) {
        show(false); // a later request has replaced this one, or the page is being left
      }
    };
    search.addEventListener("focus", ask);
    search.addEventListener("input", () => {
      clearTimeout(pause);
      pause = setTimeout(ask, 100);
    });
    list.addEventListener("pointerdown", (event) => {
      const option = event.target.closest("li");
      if (!option) return;
      event.preventDefault();
      complete(option);
    });
    search.addEventListener("blur", () => show(false));
    search.addEventListener("keydown", (event) => {
      if (list.hidden) return;
      const all = options();
      const at = all.indexOf(chosen());
      if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        const by = event.key === "ArrowDown" ? 1 : -1;
        select(all[(at + by + all.length + (at < 0 && by < 0 ? 1 : 0)) % all.length]);
      } else if (event.key === "Enter" && at >= 0) {
        event.preventDefault();
        complete(all[at]);
      } else if (event.key === "Escape") {
        event.stopPropagation();
        show(false);
      }
    });
  }

  draw();
  follow();
})();
