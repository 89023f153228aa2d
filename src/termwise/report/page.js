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

  // So many places on a ramp of the style sheet, between its six stops.
  function ramp(name, count) {
    const stops = [0, 1, 2, 3, 4, 5].map((i) => color(`${name}-${i}`).match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16)));
    return Array.from({ length: count }, (_, i) => {
      const at = (i * (stops.length - 1)) / Math.max(count - 1, 1);
      const [low, high] = [stops[Math.floor(at)], stops[Math.ceil(at)]];
      return `rgb(${low.map((value, j) => Math.round(value + (at % 1) * (high[j] - value))).join(",")})`;
    });
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
        series: { strokeWidth: 2.25, strokeCap: "round", strokeJoin: "round" }, "series-point": { size: 30, strokeWidth: 0, opacity: 1 },
        "series-dot": { size: 5, strokeWidth: 0, opacity: 1 }, "series-band": { fillOpacity: 0.14, strokeWidth: 0 },
        "series-mark": { size: 56, strokeWidth: 0, opacity: 1, filled: true }, "series-whisker": { strokeWidth: 1.75, strokeCap: "round" },
        "series-bar": { cornerRadiusEnd: 1 }, number: { color: color("soft"), fontSize: 11 },
        bound: { color: color("ink"), strokeWidth: 1, strokeDash: [4, 3], strokeOpacity: 0.75 },
        label: { color: color("ink"), fontSize: 11 }, "label-halo": { color: color("paper"), stroke: color("paper"), strokeWidth: 4, strokeJoin: "round", fontSize: 11 },
        "on-strong": { color: color("on-strong"), fontSize: 11 }, "on-weak": { color: color("ink"), fontSize: 11 },
        "mean-band": { fillOpacity: 0.15, strokeWidth: 0 }, "mean-constants": { strokeWidth: 1.75, strokeDash: [5, 4] },
        ...degrees,
      },
    };
  }

  const GUTTER = 38; // the axis: what a panel's width has beside the plot, if the panel does not say it
  const PADDING = 2 + 12; // on both sides

  // A scale's colours by their names in the style sheet: a list of them, or so many places on a ramp.
  const colors = (range) => (Array.isArray(range) ? range.map((item) => (typeof item === "string" ? color(item) : item)) : ramp(range.ramp, range.count));

  // The specification with its width and its colours. What comes from the data (params, values, domains) is left as it is.
  function sized(node, width) {
    if (Array.isArray(node)) return node.map((item) => sized(item, width));
    if (node === null || typeof node !== "object") return node;
    const copy = {};
    for (const [key, value] of Object.entries(node)) {
      if (key === "width" && value === "fill") copy[key] = width;
      else if (key === "range") copy[key] = colors(value);
      else copy[key] = ["params", "values", "domain"].includes(key) ? value : sized(value, width);
    }
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
      views.set(chart, await vegaEmbed(chart, sized(spec, Math.max(width - (spec.usermeta?.gutter ?? GUTTER) - PADDING, 120)), options));
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

  function chosen(table, at) {
    const keep = (row) => table.where.some((where) => Object.entries(where).every(([key, value]) => row[key] === value));
    return rows[table.source].filter((row) => keep(row) && (at === null || (row.first <= at && at <= row.last)));
  }

  // The numbers of a column: whole, or with as many decimals as four digits of the largest have.
  function format(values) {
    const numbers = values.filter((value) => typeof value === "number");
    if (numbers.every(Number.isInteger)) return String;
    const sizes = numbers.map(Math.abs).filter((value) => value > 0);
    const places = Math.min(Math.max(3 - Math.floor(Math.log10(Math.max(...sizes))), 1), 6);
    const small = Math.min(...sizes) < 10 ** -places;
    return (value) => (small && value !== 0 && Math.abs(value) < 10 ** -places ? value.toExponential(2) : value.toFixed(places));
  }

  function fillTable(shown, at, box) {
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const key of shown.columns) {
      const th = document.createElement("th");
      th.scope = "col";
      th.textContent = say.columns[key];
      head.append(th);
    }
    const body = table.createTBody();
    const found = chosen(shown, at);
    const write = Object.fromEntries(shown.columns.map((key) => [key, format(found.map((row) => row[key]))]));
    for (const row of found) {
      const line = body.insertRow();
      for (const key of shown.columns) {
        const value = cell(key, row[key]);
        const td = line.insertCell();
        if (typeof value === "number") td.className = "n";
        td.textContent = typeof value === "number" ? write[key](value) : (value ?? "");
      }
    }
    for (const th of head.cells) if ([...body.rows].some((row) => row.cells[th.cellIndex].className)) th.className = "n";
    box.replaceChildren(table);
  }

  // A spreadsheet runs a text that begins with one of = + - @, so such a name gets an apostrophe in front.
  function csvField(value) {
    if (value === null) return "";
    if (typeof value === "number") return String(value);
    const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }

  function download(table) {
    const head = table.columns.map((key) => csvField(payload.names?.[key] ?? key)).join(",");
    const lines = chosen(table, null).map((row) => table.columns.map((key) => csvField(cell(key, row[key]))).join(","));
    const blob = new Blob([[head, ...lines, ""].join("\n")], { type: "text/csv" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = table.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  for (const section of document.querySelectorAll("section[data-figure]")) {
    const slider = section.querySelector("input[type=range]");
    const refreshes = [...section.querySelectorAll(".tools")].map((tools) => {
      const shown = payload.figures[section.dataset.figure].tables[tools.dataset.table];
      tools.querySelector("button.csv").addEventListener("click", () => download(shown));
      const details = tools.querySelector("details");
      const refresh = () => details?.open && fillTable(shown, slider ? Number(slider.value) : null, details.querySelector(".scroll"));
      details?.addEventListener("toggle", refresh);
      return refresh;
    });
    slider?.addEventListener("input", () => {
      const words = say.step.replace("{step}", payload.steps[slider.value].toLocaleString(payload.language));
      section.querySelector("output").textContent = words;
      slider.setAttribute("aria-valuetext", words);
      refreshes.forEach((refresh) => refresh());
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
