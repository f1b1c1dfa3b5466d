// SPDX-License-Identifier: Apache-2.0
// Filters and draws the events of a report. Whatever a list says is put into the page as text, never as markup.
"use strict";
(() => {
  const VIOLATION = 1, NOT_BEFORE = 2, DAMAGED = 4, DRIFT = 8, PERHAPS = 16, NOBODY = 32;
  // Rows that are made at once, and rows that are printed at most: a page of tens of thousands is of no use to anybody.
  const ROWS = 200, PRINTED = 2000;
  // Containers that are drawn, and widths of the drawing in its own units.
  const LANES = 40, WIDTH = 1200, LEFT = 170, RIGHT = 12, LANE = 26, AXIS = 22, BINS = 300;

  const by = (id) => document.getElementById(id);
  const make = (name, properties, ...children) => {
    const element = document.createElement(name);
    Object.assign(element, properties);
    element.append(...children);
    return element;
  };
  const draw = (name, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const number = (value) => value.toLocaleString("en-US");

  // Events.
  const { texts, events: rows } = JSON.parse(by("data").textContent);
  const events = rows.map(([id, time, node, container, containerId, kind, flags, process, path, digest, detail, ancestors]) => {
    const at = Date.parse(texts[time]);
    return {
      id: texts[id], time: texts[time], at, node: texts[node], container: texts[container], containerId: texts[containerId],
      kind: texts[kind], flags, process: texts[process], path: texts[path], digest: texts[digest], detail: texts[detail],
      ancestors: texts[ancestors],
      of: [texts[node], texts[containerId], texts[container]].join("\n"),
    };
  });
  const isExecution = (event) => event.kind === "exec" || event.kind === "script";
  const isOfContainer = (event) => event.container !== "" && !(event.flags & NOBODY);
  const words = (event) => {
    event.words ??= [event.id, event.node, event.container, event.containerId, event.kind, event.process, event.path, event.digest,
      event.detail, event.ancestors].join("\n").toLowerCase();
    return event.words;
  };

  // What is asked for.
  const asked = { text: by("text"), container: by("container"), node: by("node"), kind: by("kind"),
    violations: by("only-violations"), drift: by("only-drift") };
  let period = null;
  let most = ROWS;
  const isAsked = () => {
    const text = asked.text.value.toLowerCase(), container = asked.container.value, node = asked.node.value, kind = asked.kind.value;
    const violations = asked.violations.checked, drift = asked.drift.checked;
    return (event) => (!violations || event.flags & VIOLATION)
      && (!drift || event.flags & (DRIFT | PERHAPS))
      && (container === "" || event.of === container)
      && (node === "" || event.node === node)
      && (kind === "" || event.kind === kind)
      && (text === "" || words(event).includes(text));
  };
  const isWithin = (event) => period === null || (event.at >= period[0] && event.at <= period[1]);

  const choices = (select, values) => {
    for (const [value, label] of values) select.append(make("option", { value, textContent: label }));
    select.closest("label").hidden = values.length < 2;
  };
  const distinct = (value) => [...new Set(events.map(value))].filter((one) => one !== "").sort();
  const containers = new Map();
  for (const event of events) if (isOfContainer(event)) containers.set(event.of, event);
  const severalNodes = distinct((event) => event.node).length > 1;
  const labels = new Map();
  for (const event of containers.values()) labels.set(event.container, (labels.get(event.container) ?? 0) + 1);
  const label = (event) => {
    const same = labels.get(event.container) > 1;
    const parts = [event.container];
    if (severalNodes) parts.push(event.node);
    if (same && event.containerId !== "") parts.push(event.containerId.slice(0, 8));
    return parts.join(", ");
  };
  choices(asked.container, [...containers].map(([of, event]) => [of, label(event)]).sort((a, b) => a[1] < b[1] ? -1 : 1));
  choices(asked.node, distinct((event) => event.node).map((node) => [node, node]));
  choices(asked.kind, distinct((event) => event.kind).map((kind) => [kind, kind]));

  // The table.
  const body = by("event-table").tBodies[0];
  let fits = [];
  const shortTime = (event) => event.time.replace("T", " ").replace(/(\.\d{3})\d*Z$/, "$1");
  const code = (text) => make("code", { textContent: text });

  const details = (event) => {
    const list = make("dl");
    const fact = (name, value) => value !== "" && list.append(make("dt", { textContent: name }), make("dd", {}, code(value)));
    fact("Event", event.id);
    fact("Time", event.time);
    fact("Node", event.node);
    fact("Container", event.containerId);
    fact("Process", event.process);
    fact("Below", event.ancestors);
    fact("File", event.path);
    fact("Digest", event.digest);
    fact("More", event.detail);
    return make("tr", { className: "more" }, make("td", { colSpan: 6 }, list));
  };
  const toggle = (button, row, event) => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    button.textContent = open ? "+" : "-";
    if (open) row.nextSibling.remove();
    else row.after(details(event));
  };
  const rowOf = (event) => {
    const button = make("button", { type: "button", textContent: "+" });
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-label", `All of event ${event.id}`);
    const mark = (event.flags & NOT_BEFORE) ? "> " : "";
    const file = make("td");
    if (event.flags & VIOLATION) file.append(make("span", { className: "flag", textContent: "violation " }));
    if (event.flags & DRIFT) file.append(make("span", { className: "flag drift", textContent: "not as in the reference " }));
    if (event.flags & PERHAPS) file.append(make("span", { className: "flag perhaps", textContent: "perhaps not as in the reference " }));
    if (event.flags & DAMAGED) file.append(make("span", { className: "flag", textContent: "damaged " }));
    file.append(code(event.path), " ", make("span", { className: "args", textContent: event.detail }));
    const [, digits = event.digest] = event.digest.split(":");
    const row = make("tr", {},
      make("td", {}, button, make("time", { textContent: mark + shortTime(event) })),
      make("td", { textContent: severalNodes ? `${event.container} ${event.node}` : event.container }),
      make("td", { textContent: event.kind }),
      make("td", {}, code(event.process)),
      file,
      make("td", {}, code(digits.slice(0, 12))));
    button.addEventListener("click", () => toggle(button, row, event));
    return row;
  };
  const fillTo = (count) => {
    const have = body.querySelectorAll("tr:not(.more)").length;
    body.append(...fits.slice(have, count).map(rowOf));
    const shown = Math.min(count, fits.length);
    const which = shown < fits.length ? `; the first ${number(shown)} are shown` : "";
    by("shown").textContent = `${number(fits.length)} of ${number(events.length)} events${which}`;
    by("more").disabled = by("every").disabled = shown >= fits.length;
  };
  const fill = () => {
    const fit = isAsked();
    fits = events.filter((event) => fit(event) && isWithin(event));
    most = ROWS;
    body.replaceChildren();
    fillTo(most);
  };

  // The drawing.
  const chart = by("chart");
  let scale = null;
  const bounds = () => {
    let [from, to] = [Infinity, -Infinity];
    for (const { at } of events) {
      if (at < from) from = at;
      if (at > to) to = at;
    }
    return from <= to ? [from, Math.max(to, from + 1000)] : null;
  };
  const whole = bounds();
  const STEPS = [1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600, 365 * 24 * 3600];
  const moment = (at, length) => {
    const date = new Date(at);
    if (Number.isNaN(date.getTime())) return "";
    const text = date.toISOString().replace("T", " ");
    return text.slice(0, length);
  };
  const axis = (from, to, height) => {
    const group = draw("g", { class: "axis" });
    const seconds = (to - from) / 1000;
    const step = (STEPS.find((step) => seconds / step <= 8) ?? seconds / 8) * 1000;
    for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
      const x = scale.x(at);
      const text = step >= 24 * 3600 * 1000 ? moment(at, 10) : moment(at, step < 60000 ? 19 : 16).slice(seconds > 20 * 3600 ? 5 : 11);
      group.append(draw("line", { x1: x, x2: x, y1: AXIS, y2: height }),
        draw("text", { x, y: 14, "text-anchor": "middle" }, text));
    }
    return group;
  };
  const lane = (of, y) => {
    const group = draw("g", { class: "lane" });
    const name = label(of[0]);
    const short = name.length > 26 ? `${name.slice(0, 25)}...` : name;
    group.append(draw("line", { x1: 0, x2: WIDTH, y1: y + LANE, y2: y + LANE }),
      draw("text", { x: 8, y: y + LANE - 8 }, short));
    const bins = new Array(BINS).fill(0), marks = new Map();
    for (const event of of) {
      const bin = Math.floor((scale.x(event.at) - LEFT) / (WIDTH - LEFT - RIGHT) * BINS);
      const at = Math.min(Math.max(bin, 0), BINS - 1);
      if (isExecution(event)) bins[at] += 1;
      const flags = event.flags & (VIOLATION | DRIFT);
      if (flags) marks.set(at, (marks.get(at) ?? 0) | flags);
    }
    const width = (WIDTH - LEFT - RIGHT) / BINS;
    bins.forEach((count, bin) => {
      if (count === 0) return;
      const height = Math.min(LANE - 6, 3 + 3 * Math.log2(count));
      group.append(draw("rect", { class: "bar", x: LEFT + bin * width, y: y + LANE - height, width: Math.max(width - 0.5, 1), height }));
    });
    for (const [bin, flags] of marks) {
      const x = LEFT + (bin + 0.5) * width;
      if (flags & VIOLATION) group.append(draw("path", { class: "mark-violation", d: `M${x - 5} ${y + LANE - 1}h10l-5 -9z` }));
      if (flags & DRIFT) group.append(draw("path", { class: "mark-drift", d: `M${x - 5} ${y + 2}h10l-5 9z` }));
    }
    return group;
  };
  const paint = () => {
    chart.replaceChildren();
    const fit = isAsked();
    const lanes = new Map();
    const [from, to] = period ?? whole ?? [0, 0];
    for (const event of events) {
      if (!isOfContainer(event) || !(event.at >= from && event.at <= to) || !fit(event)) continue;
      if (!lanes.has(event.of)) lanes.set(event.of, []);
      lanes.get(event.of).push(event);
    }
    const drawn = [...lanes.values()].slice(0, LANES);
    const height = AXIS + Math.max(drawn.length, 1) * LANE + 4;
    const width = WIDTH - LEFT - RIGHT;
    scale = { x: (at) => LEFT + (at - from) / (to - from || 1) * width, at: (x) => from + (x - LEFT) / width * (to - from) };
    const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": `Executions of ${drawn.length} containers over time` });
    svg.append(axis(from, to, height), ...drawn.map((of, nth) => lane(of, AXIS + nth * LANE)));
    if (drawn.length === 0) svg.append(draw("text", { x: LEFT, y: AXIS + LANE - 8 }, "no event fits"));
    chart.append(svg);
    if (lanes.size > LANES) chart.append(make("p", { className: "left-out",
      textContent: `${number(lanes.size - LANES)} more containers are not drawn: choose one, or a period.` }));
    choosing(svg, height);
    by("range").textContent = whole === null ? "no event has a time" : `${moment(from, 19)} to ${moment(to, 19)}, ${span((to - from) / 1000)}`;
  };
  const choose = (next) => {
    const [first, last] = whole ?? [0, 0];
    const from = Math.max(first, Math.min(next[0], next[1])), to = Math.min(last, Math.max(next[0], next[1]));
    period = to - from < 1 || (from <= first && to >= last) ? null : [from, to];
    refresh();
  };
  const choosing = (svg, height) => {
    const place = (event) => {
      const box = svg.getBoundingClientRect();
      return Math.min(Math.max((event.clientX - box.left) / box.width * WIDTH, LEFT), WIDTH - RIGHT);
    };
    svg.addEventListener("pointerdown", (down) => {
      const start = place(down);
      const chosen = draw("rect", { class: "chosen", x: start, y: AXIS, width: 0, height: height - AXIS });
      svg.append(chosen);
      svg.setPointerCapture(down.pointerId);
      svg.onpointermove = (move) => {
        const end = place(move);
        chosen.setAttribute("x", Math.min(start, end));
        chosen.setAttribute("width", Math.abs(end - start));
      };
      svg.onpointerup = (up) => {
        svg.onpointermove = svg.onpointerup = null;
        const end = place(up);
        if (Math.abs(end - start) < 4) chosen.remove();
        else choose([scale.at(start), scale.at(end)]);
      };
    });
  };
  const zoom = (way) => {
    if (whole === null) return;
    const [from, to] = period ?? whole, span = to - from, first = whole[0], last = whole[1];
    if (way === "all") choose(whole);
    if (way === "in") choose([from + span / 4, to - span / 4]);
    if (way === "out") choose([from - span / 2, to + span / 2]);
    if (way === "earlier") { const by = Math.min(span / 2, from - first); choose([from - by, to - by]); }
    if (way === "later") { const by = Math.min(span / 2, last - to); choose([from + by, to + by]); }
  };
  // In the largest unit of which there are two.
  const span = (seconds) => {
    const [unit, word] = [[86400, "days"], [3600, "hours"], [60, "minutes"]].find(([unit]) => seconds >= 2 * unit) ?? [1, "s"];
    return `${number(Math.round(seconds / unit))} ${word}`;
  };
  const refresh = () => { fill(); paint(); };

  // What people do.
  const form = by("filters");
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  const clear = () => {
    for (const field of [asked.text, asked.container, asked.node, asked.kind]) field.value = "";
    asked.violations.checked = asked.drift.checked = false;
    period = null;
  };
  form.addEventListener("reset", (event) => { event.preventDefault(); clear(); refresh(); });
  by("more").addEventListener("click", () => fillTo(most += ROWS));
  by("every").addEventListener("click", () => fillTo(most = events.length));
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(button.dataset.zoom));
  for (const button of document.querySelectorAll("[data-tree]")) {
    button.addEventListener("click", () => {
      for (const one of document.querySelectorAll(".tree details")) one.open = button.dataset.tree === "open";
    });
  }
  document.addEventListener("click", (click) => {
    const link = click.target.closest("a[data-event]");
    if (link === null) return;
    clear();
    asked.text.value = link.dataset.event;
    refresh();
    body.querySelector("button")?.click();
  });

  // On paper everything is open, and the table is as long as may be.
  const closed = new Set();
  matchMedia("print").addEventListener("change", (print) => {
    for (const one of print.matches ? document.querySelectorAll("details:not([open])") : closed) {
      one.open = print.matches;
      if (print.matches) closed.add(one);
    }
    if (!print.matches) closed.clear();
    if (print.matches) fillTo(Math.max(most, PRINTED));
  });

  document.documentElement.classList.add("js");
  refresh();
})();
