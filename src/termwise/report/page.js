// Draws the page's figures from the one embedded payload. No eval (Vega's interpreter), no style attributes, no network.
(() => {
  "use strict";
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const root = document.documentElement;
  let said = payload.languages[root.lang]; // figures, headings and words in the language that is shown
  const views = new Map(); // chart element -> its view, the names of its signals, what ends it
  const widths = new WeakMap(); // chart element -> the width that it was drawn for
  const turns = new WeakMap(); // chart element -> how often it was drawn

  // The tables are embedded by columns, some of them as runs of values; figures want rows. Built once, copied per view
  // (Vega writes into its rows).
  const rows = {};
  const unpacked = (column) => (column.runs ? column.runs.flatMap(([value, count]) => Array(count).fill(value)) : column);
  for (const [name, packed] of Object.entries(payload.tables)) {
    const keys = Object.keys(packed);
    const columns = Object.fromEntries(keys.map((key) => [key, unpacked(packed[key])]));
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

  const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

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
        lesion: line("accent", 2), "lesion-point": point("accent", 14), "lesion-whisker": { color: color("accent"), strokeWidth: 1.25, strokeOpacity: 0.8 },
        "lesion-draw": { color: color("soft"), size: 34, filled: true, opacity: 0.4, strokeWidth: 0 }, "tile-bar": flat("tile-3", 1),
        target: flat("ink", 0), lit: { color: color("ink"), strokeWidth: 1, strokeOpacity: 0.55 },
        bound: { color: color("ink"), strokeWidth: 1, strokeDash: [4, 3], strokeOpacity: 0.75 },
        label: { color: color("ink"), fontSize: 11 }, "label-halo": { color: color("paper"), stroke: color("paper"), strokeWidth: 4, strokeJoin: "round", fontSize: 11 },
        "on-strong": { color: color("on-strong"), fontSize: 11 }, "on-weak": { color: color("ink"), fontSize: 11 },
        "mean-band": { fillOpacity: 0.15, strokeWidth: 0 }, "mean-constants": { strokeWidth: 1.75, strokeDash: [1, 4], strokeCap: "round" },
        ...degrees,
        "mean-paths": line("soft", 1.5, { strokeDash: [1, 3.5] }), "mean-norm": line("ink", 1.25, { strokeDash: [5, 3] }), "count-point": point("soft", 16),
        ridge: { fillOpacity: 1, stroke: color("paper"), strokeWidth: 1.25, strokeJoin: "round" },
        "ridge-means": line("tail", 1.25), "ridge-mean": point("tail", 26),
        learned: { ...point("accent", 60), strokeWidth: 1 }, "learned-against": { ...point("tail", 60), strokeWidth: 1 },
        "learned-span": line("accent", 3, { strokeOpacity: 0.3 }),
        size: line("accent", 1.5, { strokeOpacity: 0.55 }), "size-point": point("accent", 26),
      },
    };
  }

  const GUTTER = 38; // the axis: what a panel's width has beside the plot, if the panel does not say it
  const PADDING = 2 + 12; // on both sides

  // A scale's colours by their names in the style sheet: a list of them, or so many places on a ramp.
  const colors = (range) => (Array.isArray(range) ? range.map((item) => (typeof item === "string" ? color(item) : item)) : ramp(range.ramp, range.count));

  // The specification with its width and its colours. What comes from the data (values, domains) is left as it is.
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

  // The named data sources of a compiled specification get the embedded rows before its first run, and its signals the
  // place where the reader is.
  function filled(spec) {
    for (const source of spec.data) if (source.name in rows) source.values = rows[source.name].map((row) => ({ ...row }));
    for (const signal of spec.signals ?? []) if (signal.name in place) signal.value = place[signal.name];
    return spec;
  }

  async function draw(chart) {
    const spec = said.figures[chart.dataset.figure].panels[chart.dataset.panel];
    const width = chart.clientWidth;
    const turn = (turns.get(chart) ?? 0) + 1;
    turns.set(chart, turn);
    widths.set(chart, width);
    views.get(chart)?.finalize();
    views.delete(chart);
    chart.classList.remove("failed");
    try {
      const options = {
        mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false, config: theme(), patch: filled,
        tooltip: { disableDefaultStyle: true },
      };
      const room = Math.max(width - (spec.usermeta?.gutter ?? GUTTER) - PADDING, 120);
      const result = await vegaEmbed(chart, sized(spec, room), options);
      // Drawn anew meanwhile, or left with its language.
      if (turns.get(chart) !== turn || !chart.isConnected) return result.finalize();
      chart.querySelector("svg").setAttribute("aria-hidden", "true"); // the chart around it says all
      const signals = new Set((result.vgSpec.signals ?? []).map((signal) => signal.name));
      views.set(chart, { view: result.view, signals, finalize: result.finalize });
      result.view.addEventListener("pointermove", (_, item) => point(item));
      result.view.addEventListener("pointerout", () => point(null));
    } catch (error) {
      chart.classList.add("failed");
      chart.textContent = said.strings.failed.replace("{reason}", error.message);
      console.error(error);
    }
  }

  const charts = () => [...document.querySelectorAll(".chart[data-panel]")];
  const drawAll = () => Promise.all(charts().map(draw));

  // Where the reader is -------------------------------------------------------------------------------------------
  // The record that sliders show (a place among the steps), and the depth and the step that are lit in every figure.
  const place = { at: (payload.steps?.length ?? 1) - 1, depthAt: null, stepAt: null };
  const pill = document.getElementById("cursor");
  const steps = payload.steps ?? [];
  const depths = [...new Set((rows.spectrum ?? []).map((row) => row.depth).filter((depth) => depth !== null))].sort((a, b) => a - b);
  const whole = (number) => number.toLocaleString(root.lang);

  function move(change) {
    const news = Object.entries(change).filter(([name, value]) => place[name] !== value);
    if (!news.length) return;
    for (const [name, value] of news) place[name] = value;
    for (const { view, signals } of views.values()) {
      const known = news.filter(([name]) => signals.has(name));
      for (const [name, value] of known) view.signal(name, value);
      if (known.length) view.runAsync();
    }
    const words = [];
    if (place.depthAt !== null) words.push(said.strings.depth.replace("{depth}", place.depthAt));
    if (place.stepAt !== null) words.push(said.strings.step.replace("{step}", whole(place.stepAt)));
    pill.textContent = words.join(" · ");
    pill.hidden = !words.length;
  }

  // Lines and areas, which have all of their rows, are let through by the style sheet.
  function point(item) {
    // A pointer at rest, below which the page is scrolled, is no reader where keys are used.
    if (document.activeElement?.matches(".chart:focus-visible")) return;
    const { depth = null, step = null } = item?.datum ?? {};
    const lit = (value) => (typeof value === "number" ? value : null);
    move({ depthAt: lit(depth), stepAt: lit(step) });
  }

  function onKey(event) {
    const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1] };
    const keys = said.figures[event.currentTarget.dataset.figure]?.panels[event.currentTarget.dataset.panel]?.usermeta?.keys ?? [];
    if (event.key === "Escape") return move({ depthAt: null, stepAt: null });
    const [which, turn] = arrows[event.key] ?? [];
    if (!keys[which]) return;
    event.preventDefault();
    const [name, all] = keys[which] === "depth" ? ["depthAt", depths] : ["stepAt", steps];
    const by = keys[which].startsWith("-") ? -turn : turn;
    const now = all.indexOf(place[name]);
    move({ [name]: all[now < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(now + by, 0), all.length - 1)] });
  }

  function onFocus(event) {
    const keys = said.figures[event.currentTarget.dataset.figure]?.panels[event.currentTarget.dataset.panel]?.usermeta?.keys;
    if (!keys || !event.currentTarget.matches(":focus-visible")) return;
    pill.textContent = said.strings[keys.length > 1 ? "keys.both" : `keys.${keys[0]}`];
    pill.hidden = false;
  }

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
    const [least, most] = sizes.reduce(([low, high], size) => [Math.min(low, size), Math.max(high, size)], [Infinity, 0]);
    const places = Math.min(Math.max(3 - Math.floor(Math.log10(most)), 1), 6);
    const small = least < 10 ** -places;
    return (value) => (small && value !== 0 && Math.abs(value) < 10 ** -places ? value.toExponential(2) : value.toFixed(places));
  }

  function fillTable(shown, at, box) {
    const table = document.createElement("table");
    const head = table.createTHead().insertRow();
    for (const key of shown.columns) {
      const th = document.createElement("th");
      th.scope = "col";
      th.textContent = said.columns[key];
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

  function save(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function saveTable(table) {
    const head = table.columns.map((key) => csvField(payload.names?.[key] ?? key)).join(",");
    const lines = chosen(table, null).map((row) => table.columns.map((key) => csvField(cell(key, row[key]))).join(","));
    save(new Blob([[head, ...lines, ""].join("\n")], { type: "text/csv" }), table.file);
  }

  // Pictures ------------------------------------------------------------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";

  function piece(tag, attributes, ...children) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function text(words, x, y, look) {
    return piece("text", { x, y, fill: look.color, "font-size": look.fontSize, "font-weight": look.fontWeight, "font-family": look.fontFamily }, words);
  }

  // Words in lines of at most so many pixels; where there are no spaces, as in Chinese, between characters, but no line
  // begins with a mark that closes or ends with one that opens.
  function folded(words, width, look) {
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = `${look.fontWeight} ${look.fontSize} ${look.fontFamily}`;
    const lines = [""];
    for (const part of words.match(/[（“]*(?:[\u3000-\u9fff\uff00-\uffef]|[^\s\u3000-\u9fff\uff00-\uffef]+)[，。；：、）”]*\s*|\s+/g) ?? []) {
      if (lines.at(-1) && pen.measureText((lines.at(-1) + part).trimEnd()).width > width) lines.push("");
      lines[lines.length - 1] += part;
    }
    return lines.map((line) => line.trimEnd());
  }

  // A copy that does not need the style sheet; what Vega has drawn does not anyway.
  const LOOKS = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity", "font-family", "font-size", "font-weight", "text-anchor", "writing-mode", "visibility"];
  function copied(svg) {
    const copy = svg.cloneNode(true);
    if (svg.classList.contains("marks")) return copy;
    const [from, to] = [svg, copy].map((each) => [each, ...each.querySelectorAll("*")]);
    from.forEach((each, i) => {
      const look = getComputedStyle(each);
      for (const name of LOOKS) to[i].setAttribute(name, look.getPropertyValue(name));
      if (look.transform === "none") to[i].removeAttribute("transform"); // the style sheet stands it upright
    });
    for (const words of copy.querySelectorAll(".hint")) words.remove(); // in a picture there is nothing to point at
    return copy;
  }

  // Title, key and panels of a figure as one picture, where they are on the page.
  function picture(section) {
    const title = section.querySelector("h2, h3");
    const body = section.querySelector(".panels").getBoundingClientRect();
    const paper = color("paper");
    const width = Math.ceil(body.width) + 2 * 16;
    const inner = [];
    const look = getComputedStyle(title);
    const size = parseFloat(look.fontSize);
    let top = 16;
    for (const line of folded(title.textContent, body.width, look)) {
      inner.push(text(line, 16, top + size, look));
      top += 1.35 * size;
    }
    top += 8;
    const legend = section.querySelector(".legend");
    const origin = legend?.getBoundingClientRect();
    for (const item of legend?.children ?? []) {
      const box = item.getBoundingClientRect();
      const swatch = item.querySelector("svg");
      const mark = swatch && swatch.getBoundingClientRect();
      const own = getComputedStyle(item);
      if (mark) {
        const copy = copied(swatch);
        for (const [name, value] of Object.entries({ x: 16 + mark.x - origin.x, y: top + mark.y - origin.y, width: mark.width, height: mark.height })) copy.setAttribute(name, value);
        inner.push(copy);
      }
      inner.push(text(item.textContent.trim(), 16 + box.x - origin.x + (mark ? mark.width + 7 : 0), top + box.y - origin.y + 0.72 * box.height, own));
    }
    top += (origin?.height ?? 0) + 14;
    for (const words of section.querySelectorAll(".panel > h3, .panel > h4, .panel > .detail")) {
      const box = words.getBoundingClientRect();
      const own = getComputedStyle(words);
      folded(words.textContent, box.width, own).forEach((line, i) => {
        inner.push(text(line, 16 + box.x - body.x, top + box.y - body.y + 1.05 * parseFloat(own.fontSize) + i * parseFloat(own.lineHeight), own));
      });
    }
    for (const svg of section.querySelectorAll(".panels svg")) {
      const box = svg.getBoundingClientRect();
      const copy = copied(svg);
      for (const [name, value] of Object.entries({ x: 16 + box.x - body.x, y: top + box.y - body.y, width: box.width, height: box.height })) copy.setAttribute(name, value);
      inner.push(copy);
    }
    const height = Math.ceil(top + body.height + 16);
    const ground = piece("rect", { width, height, fill: paper });
    const label = piece("title", {}, title.textContent);
    const made = piece("svg", { xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}` }, label, ground, ...inner);
    return { source: new XMLSerializer().serializeToString(made), width, height };
  }

  const asBlob = (drawn) => new Blob([drawn.source], { type: "image/svg+xml" });

  async function savePng(drawn, name) {
    const image = new Image();
    image.src = URL.createObjectURL(asBlob(drawn));
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: 2 * drawn.width, height: 2 * drawn.height });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    URL.revokeObjectURL(image.src);
    canvas.toBlob((blob) => save(blob, name), "image/png");
  }

  // Every figure's controls ---------------------------------------------------------------------------------------
  let tables = []; // what fills those that are open
  function equip() {
    tables = [];
    for (const section of document.querySelectorAll("section[data-figure]")) {
      const name = section.dataset.figure;
      const slider = section.querySelector("input[type=range]");
      for (const tools of section.querySelectorAll(".tools")) {
        const shown = said.figures[name].tables[tools.dataset.table];
        tools.querySelector("button.csv").addEventListener("click", () => saveTable(shown));
        tools.querySelector("button.svg")?.addEventListener("click", () => save(asBlob(picture(section)), `termwise-${name}.svg`));
        tools.querySelector("button.png")?.addEventListener("click", () => savePng(picture(section), `termwise-${name}.png`));
        const details = tools.querySelector("details");
        const refresh = () => details?.open && fillTable(shown, slider ? place.at : null, details.querySelector(".scroll"));
        details?.addEventListener("toggle", refresh);
        tables.push(refresh);
      }
      for (const chart of section.querySelectorAll(".chart")) {
        chart.addEventListener("keydown", onKey);
        chart.addEventListener("focus", onFocus);
        chart.addEventListener("blur", () => { move({ depthAt: null, stepAt: null }); pill.hidden = true; });
      }
      slider?.addEventListener("input", () => choose(Number(slider.value)));
    }
    if (steps.length) choose(place.at);
  }

  // All figures show the same record.
  function choose(at) {
    move({ at });
    const words = said.strings.step.replace("{step}", whole(steps[at]));
    for (const box of document.querySelectorAll(".slider")) {
      const slider = box.querySelector("input");
      slider.value = at;
      slider.setAttribute("aria-valuetext", words);
      box.querySelector("output").textContent = words;
    }
    for (const refresh of tables) refresh();
  }

  // Another language ----------------------------------------------------------------------------------------------
  const nav = document.querySelector(".languages");
  const page = document.getElementById("page");
  const kept = Object.fromEntries([...document.querySelectorAll("template")].map((each) => [each.lang, each.content]));
  kept[root.lang] = document.createDocumentFragment();
  kept[root.lang].append(...page.cloneNode(true).childNodes);
  function speak(language) {
    if (language === root.lang) return;
    for (const { finalize } of views.values()) finalize();
    views.clear();
    page.replaceChildren(kept[language].cloneNode(true));
    root.lang = language;
    said = payload.languages[language];
    document.title = said.title;
    document.querySelector(".licences summary").textContent = said.strings.licences;
    for (const button of nav.children) button.setAttribute("aria-pressed", String(button.dataset.language === language));
    equip();
    drawAll();
  }
  for (const button of nav.children) button.addEventListener("click", () => speak(button.dataset.language));
  nav.hidden = false;
  equip();

  // Redrawing: another width, another colour scheme, paper ----------------------------------------------------------
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(() => charts().filter((chart) => chart.clientWidth !== widths.get(chart)).forEach(draw), 120);
  };
  const printing = (on) => () => {
    root.toggleAttribute("data-theme", false);
    if (on) root.dataset.theme = "print";
    drawAll();
  };
  drawAll().then(() => {
    root.dataset.drawn = "true";
    new ResizeObserver(later).observe(document.body);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", printing(true));
  addEventListener("afterprint", printing(false));
})();
