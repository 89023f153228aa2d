// Draws the page's figures from the one embedded payload. No eval (Vega's interpreter), no style attributes, no network.
(() => {
  "use strict";
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const say = payload.strings;
  const views = new Map(); // chart element -> result of vegaEmbed
  const widths = new Map(); // chart element -> the width that it was drawn for

  // The tables are embedded by columns; figures want rows. Built once, copied per view (Vega writes into its rows).
  const rows = {};
  for (const [name, columns] of Object.entries(payload.tables)) {
    const keys = Object.keys(columns);
    rows[name] = columns[keys[0]].map((_, i) => Object.fromEntries(keys.map((key) => [key, columns[key][i]])));
  }

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function theme() {
    const font = getComputedStyle(document.body).fontFamily;
    const line = (name, width, more) => ({ color: color(name), strokeWidth: width, strokeCap: "round", strokeJoin: "round", ...more });
    const point = (name, size) => ({ color: color(name), stroke: color("paper"), strokeWidth: 0.75, size, filled: true, opacity: 1 });
    const flat = (name, opacity) => ({ color: color(name), fillOpacity: opacity, strokeWidth: 0, line: false });
    const degrees = {};
    for (const i of [0, 1, 2, 3, 4, 5, 6]) {
      Object.assign(degrees, {
        [`degree-${i}`]: line(`degree-${i}`, 2), [`degree-${i}-point`]: point(`degree-${i}`, 18), [`degree-${i}-band`]: flat(`degree-${i}`, 0.15),
        [`degree-${i}-name`]: { color: color(`degree-${i}`), fontSize: 11, fontWeight: 600 },
      });
    }
    return {
      background: "transparent",
      font,
      aria: false,
      padding: 0,
      view: { stroke: null },
      axis: {
        labelColor: color("soft"), titleColor: color("soft"), gridColor: color("line"), domainColor: color("faint"), tickColor: color("faint"),
        labelFontSize: 11, titleFontSize: 11, titleFontWeight: 400, titlePadding: 8, tickSize: 4, labelFlush: false,
      },
      point: { filled: true },
      range: {
        heatmap: [0, 1, 2, 3, 4].map((i) => color(`ramp-${i}`)),
        category: [0, 1, 2, 3, 4, 5].map((i) => color(`network-${i}`)),
      },
      style: {
        input: flat("accent", 1), constant: flat("constant", 1), cell: { strokeWidth: 0 },
        paths: flat("paths", 1), "paths-line": line("paths-line", 1),
        whisker: { color: color("ink"), strokeWidth: 1, strokeOpacity: 0.7 },
        value: { color: color("soft"), fontSize: 11 },
        gap: { color: color("faint"), strokeWidth: 1, strokeDash: [2, 3] },
        loss: line("ink", 1.5), "loss-point": point("ink", 16),
        halo: line("halo", 4, { strokeOpacity: 0.7 }), median: line("median", 2), quantile: line("median", 1.25, { strokeDash: [4, 3] }),
        chance: { color: color("soft"), strokeWidth: 1, strokeDash: [1, 4], strokeCap: "round" }, full: { color: color("ink"), strokeWidth: 1 },
        head: line("accent", 2.25), tail: line("tail", 1.75, { strokeDash: [6, 3] }), alone: line("alone", 1.5, { strokeDash: [2, 3] }),
        "head-point": point("accent", 30), "tail-point": point("tail", 24), "alone-point": point("alone", 24),
        "head-band": flat("accent", 0.14), "tail-band": flat("tail", 0.13), "alone-band": flat("alone", 0.13),
        mean: { strokeWidth: 2.25, strokeCap: "round", strokeJoin: "round" }, "mean-point": { size: 26, strokeWidth: 0, opacity: 1 },
        "mean-band": { fillOpacity: 0.15, strokeWidth: 0 }, "mean-constants": { strokeWidth: 1.75, strokeDash: [5, 4] },
        ...degrees,
      },
    };
  }

  const GUTTERS = 38 + 2 + 12; // the axis, and the padding on both sides: what a panel's width has beside the plot

  function sized(node, width) {
    if (Array.isArray(node)) return node.map((item) => sized(item, width));
    if (node === null || typeof node !== "object") return node;
    const copy = {};
    for (const [key, value] of Object.entries(node)) copy[key] = key === "width" && value === "fill" ? width : sized(value, width);
    return copy;
  }

  // The named data sources of a compiled specification get the embedded rows before its first run.
  function filled(spec) {
    for (const source of spec.data) if (source.name in rows) source.values = rows[source.name].map((row) => ({ ...row }));
    return spec;
  }

  async function draw(chart) {
    const spec = payload.figures[chart.dataset.figure].panels[chart.dataset.panel];
    const width = chart.clientWidth;
    widths.set(chart, width);
    views.get(chart)?.finalize();
    try {
      const options = {
        mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false, config: theme(), patch: filled,
        tooltip: { disableDefaultStyle: true },
      };
      views.set(chart, await vegaEmbed(chart, sized(spec, Math.max(width - GUTTERS, 120)), options));
    } catch (error) {
      chart.classList.add("failed");
      chart.textContent = say.failed.replace("{reason}", error.message);
      console.error(error);
    }
  }

  const charts = [...document.querySelectorAll(".chart")];
  const drawAll = () => Promise.all(charts.map(draw));

  // Tables and downloads -------------------------------------------------------------------------------------------
  const cell = (key, value) => (key === "network" ? payload.networks[value] : value);

  function chosen(figure, at) {
    const keep = (row) => Object.entries(figure.where).every(([key, value]) => row[key] === value);
    return rows[figure.source].filter((row) => keep(row) && (at === null || (row.first <= at && at <= row.last)));
  }

  function fillTable(id, box) {
    const figure = payload.figures[id];
    const slider = document.getElementById(`at-${id}`);
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const key of figure.columns) {
      const th = document.createElement("th");
      th.scope = "col";
      th.textContent = say.columns[key];
      head.append(th);
    }
    const body = table.createTBody();
    const shown = chosen(figure, slider ? Number(slider.value) : null);
    const whole = new Set(figure.columns.filter((key) => shown.every((row) => row[key] === null || Number.isInteger(row[key]))));
    for (const row of shown) {
      const line = body.insertRow();
      for (const key of figure.columns) {
        const value = cell(key, row[key]);
        const td = line.insertCell();
        if (typeof value === "number") td.className = "n";
        td.textContent = typeof value === "number" && !whole.has(key) ? value.toFixed(4) : (value ?? "");
      }
    }
    for (const th of head.cells) if (body.rows[0]?.cells[th.cellIndex].className) th.className = "n";
    box.replaceChildren(table);
  }

  // A spreadsheet runs a text that begins with one of = + - @, so such a name gets an apostrophe in front.
  function csvField(value) {
    if (value === null) return "";
    if (typeof value === "number") return String(value);
    const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  function download(id) {
    const figure = payload.figures[id];
    const lines = chosen(figure, null).map((row) => figure.columns.map((key) => csvField(cell(key, row[key]))).join(","));
    const blob = new Blob([[figure.columns.join(","), ...lines, ""].join("\n")], { type: "text/csv" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `termwise-${id}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  for (const section of document.querySelectorAll("section[data-figure]")) {
    const id = section.dataset.figure;
    const details = section.querySelector("details");
    const box = details.querySelector(".scroll");
    const refresh = () => details.open && fillTable(id, box);
    details.addEventListener("toggle", refresh);
    section.querySelector("button.csv").addEventListener("click", () => download(id));
    const slider = section.querySelector("input[type=range]");
    slider?.addEventListener("input", () => {
      const words = say.step.replace("{step}", payload.steps[slider.value].toLocaleString(payload.language));
      section.querySelector("output").textContent = words;
      slider.setAttribute("aria-valuetext", words);
      refresh();
    });
  }

  // Redrawing: another width, another colour scheme, paper ----------------------------------------------------------
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(() => charts.filter((chart) => chart.clientWidth !== widths.get(chart)).forEach(draw), 120);
  };
  const printing = (on) => () => {
    document.documentElement.toggleAttribute("data-theme", false);
    if (on) document.documentElement.dataset.theme = "print";
    drawAll();
  };
  drawAll().then(() => {
    document.documentElement.dataset.drawn = "true";
    new ResizeObserver(later).observe(document.body);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", printing(true));
  addEventListener("afterprint", printing(false));
})();
