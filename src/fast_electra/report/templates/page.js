// Live charts (hover, arrow keys, zoom, saving) and tokens that explain themselves on hover, touch and focus.
// Without this script the page keeps its static charts and the tokens' titles.
"use strict";
(() => {
  const { charts, theme, file_theme: fileTheme } = JSON.parse(document.getElementById("embedded").textContent);

  // ---- charts
  const rowsOf = (columns) => {
    const fields = Object.keys(columns);
    return columns[fields[0]].map((_, index) => {
      const row = {};
      for (const field of fields) if (columns[field][index] !== null) row[field] = columns[field][index];
      return row;
    });
  };
  const written = (value, percent) =>
    percent
      ? `${(100 * value).toFixed(1)} %`
      : value.toLocaleString("en", { maximumSignificantDigits: Math.abs(value) < 1e5 ? 4 : 6 });
  const download = (name, href) => {
    const link = document.createElement("a");
    link.download = name;
    link.href = href;
    link.click();
  };
  const nearest = (rows, field, x) => {
    let best = null;
    for (const row of rows) {
      if (row[field] !== undefined && (best === null || Math.abs(row.x - x) < Math.abs(best.x - x))) best = row;
    }
    return best;
  };

  async function liven(figure) {
    const key = figure.dataset.chart;
    const { spec } = charts[key];
    const { columns } = spec.data;
    const rows = rowsOf(columns);
    const plot = figure.querySelector(".plot");
    const readout = figure.querySelector(".readout");
    const meta = spec.usermeta;
    let shown = rows; // the rows inside the zoomed range
    let view = null;
    let position = null; // index into `shown`, for the arrow keys

    const spoken = plot.getAttribute("aria-label");

    const draw = async () => {
      const autosize = { type: "fit-x", contains: "padding" };
      const live = { ...spec, width: "container", autosize, data: { values: shown } };
      const options = { renderer: "svg", actions: false, config: theme, tooltip: { disableDefaultStyle: true } };
      view?.finalize();
      ({ view } = await vegaEmbed(plot, live, options));
      plot.setAttribute("role", "img"); // vega-embed's own words are "Vega visualization"
      plot.setAttribute("aria-label", spoken);
      plot.removeAttribute("aria-roledescription");
      rest();
    };
    const save = async (kind) => {
      if (kind === "CSV") {
        const fields = Object.keys(columns);
        const names = Object.fromEntries((meta?.series ?? []).map(({ field, name }) => [field, name]));
        const cell = (value) => (/[",\n]/.test(`${value}`) ? `"${`${value}`.replaceAll('"', '""')}"` : `${value}`);
        const lines = [fields.map((field) => cell(names[field] ?? (field === "x" && meta ? meta.x : field)))];
        for (const row of shown) lines.push(fields.map((field) => cell(row[field] ?? "")));
        const text = lines.map((line) => line.join(",")).join("\n");
        return download(`${key}.csv`, URL.createObjectURL(new Blob([text], { type: "text/csv" })));
      }
      const file = { ...spec, data: { values: shown } };
      const result = await vegaEmbed(document.createElement("div"), file, { renderer: "none", config: fileTheme });
      if (kind === "PNG") return download(`${key}.png`, await result.view.toImageURL("png", 2));
      const svg = new Blob([await result.view.toSVG()], { type: "image/svg+xml" });
      return download(`${key}.svg`, URL.createObjectURL(svg));
    };
    // What stands under the chart while nobody points at it.
    const rest = () => {
      plot.querySelector(".cursor")?.remove();
      readout.replaceChildren();
      const buttons = ["SVG", "PNG", "CSV"].map((kind) => [kind, `Save ${kind} of this chart`, () => save(kind)]);
      if (shown !== rows) buttons.unshift(["Zoom out", "Zoom out", () => zoom(null)]);
      for (const [text, label, action] of buttons) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = text;
        button.setAttribute("aria-label", label);
        button.addEventListener("click", action);
        readout.append(button);
      }
    };
    const zoom = (range) => {
      const inside = range ? rows.filter((row) => row.x >= range[0] && row.x <= range[1]) : rows;
      if (inside.length < 3) return;
      shown = inside;
      position = null;
      draw();
    };

    await draw();
    if (!meta) return; // not a line chart: Vega's own tooltips do

    // Between pixels of the screen and values of x: the SVG may be scaled down (print, a narrow column).
    const geometry = () => {
      const svg = plot.querySelector("svg").getBoundingClientRect();
      const ratio = svg.width / plot.querySelector("svg").viewBox.baseVal.width;
      const base = plot.getBoundingClientRect();
      const [left, top] = view.origin();
      return {
        value: (clientX) => view.scale("x").invert((clientX - svg.left) / ratio - left),
        pixel: (x) => svg.left - base.left + ratio * (left + view.scale("x")(x)),
        top: svg.top - base.top + ratio * top,
        height: ratio * view.height(),
      };
    };
    const overlay = (name) => {
      let element = plot.querySelector(`.${name}`);
      if (!element) {
        element = document.createElement("div");
        element.className = name;
        plot.append(element);
      }
      return element;
    };
    const point = (x) => {
      const place = geometry();
      const hits = meta.series.map(({ field, name }) => [name, field, nearest(shown, field, x)]).filter((hit) => hit[2]);
      if (!hits.length) return;
      const closest = hits.reduce((best, hit) => (Math.abs(hit[2].x - x) < Math.abs(best[2].x - x) ? hit : best))[2];
      const cursor = overlay("cursor");
      Object.assign(cursor.style, {
        left: `${place.pixel(closest.x)}px`, top: `${place.top}px`, height: `${place.height}px`,
      });
      const values = hits.map(([name, field, row]) => {
        const elsewhere = row.x === closest.x ? "" : ` (at ${written(row.x)})`;
        return `${name} ${written(row[field], meta.percent)}${elsewhere}`;
      });
      readout.textContent = [`${meta.x} ${closest.x.toLocaleString("en")}`, ...values].join(" · ");
    };

    let drag = null;
    plot.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) {
        drag = event.clientX;
        plot.setPointerCapture(event.pointerId);
      }
    });
    plot.addEventListener("pointermove", (event) => {
      point(geometry().value(event.clientX));
      if (drag === null) return;
      const place = geometry();
      const base = plot.getBoundingClientRect();
      const brush = overlay("brush");
      Object.assign(brush.style, {
        left: `${Math.min(drag, event.clientX) - base.left}px`, width: `${Math.abs(event.clientX - drag)}px`,
        top: `${place.top}px`, height: `${place.height}px`,
      });
    });
    plot.addEventListener("pointerup", (event) => {
      plot.querySelector(".brush")?.remove();
      if (drag !== null && Math.abs(event.clientX - drag) > 8) {
        const place = geometry();
        zoom([place.value(drag), place.value(event.clientX)].sort((one, other) => one - other));
      }
      drag = null;
    });
    plot.addEventListener("dblclick", () => zoom(null));
    figure.addEventListener("pointerleave", rest);
    plot.addEventListener("focusout", rest);
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return zoom(null);
      const last = shown.length - 1;
      const stride = event.shiftKey ? 10 : 1;
      const from = position ?? last;
      const moves = { ArrowLeft: from - stride, ArrowRight: from + stride, Home: 0, End: last };
      if (!(event.key in moves)) return undefined;
      event.preventDefault();
      position = Math.max(0, Math.min(last, moves[event.key]));
      return point(shown[position].x);
    });
  }

  // Charts below the fold wait until they come near, so that the first screen is there at once.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        watcher.unobserve(entry.target);
        liven(entry.target);
      }
    }
  }, { rootMargin: "400px" });
  for (const figure of document.querySelectorAll("figure.chart")) watcher.observe(figure);

  // ---- tokens: one tab stop a text, arrow keys between its marked tokens, the sentence below it
  for (const text of document.querySelectorAll("pre.tokens")) {
    const note = text.nextElementSibling;
    const tokens = [...text.querySelectorAll("span[title]")];
    const marked = tokens.filter((token) => token.className);
    let current = -1;
    const show = (token) => {
      for (const other of text.querySelectorAll(".current")) other.classList.remove("current");
      token?.classList.add("current");
      note.textContent = token ? token.dataset.note : "";
    };
    for (const token of tokens) {
      token.dataset.note = token.title; // the line below says it: a second, slower tooltip would only be in the way
      token.removeAttribute("title");
    }
    if (tokens.length) text.tabIndex = 0;
    for (const kind of ["pointerover", "click"]) {
      text.addEventListener(kind, (event) => show(event.target.closest("span[data-note]")));
    }
    text.addEventListener("pointerleave", () => show(null));
    text.addEventListener("blur", () => show(null));
    text.addEventListener("keydown", (event) => {
      const stops = marked.length ? marked : tokens;
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !stops.length) return;
      event.preventDefault();
      current = (Math.max(current, step < 0 ? 0 : -1) + step + stops.length) % stops.length;
      show(stops[current]);
    });
  }

  // ---- the code to copy
  for (const box of document.querySelectorAll(".copy")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(box.querySelector("code").textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(box.querySelector("code")); // no clipboard for files in this browser
      }
    });
    box.append(button);
  }
})();
