"use strict";
window.addEventListener("error", (event) => {
  const box = document.getElementById("script-errors");
  box.textContent += event.message + "\n";
  box.hidden = false;
});

document.documentElement.classList.add("scripted");

// Tabs: a bar of buttons, then as many panes.
for (const tabs of document.querySelectorAll(".tabs")) {
  const buttons = [...tabs.querySelectorAll(":scope > .bar > button")];
  const panes = [...tabs.querySelectorAll(":scope > .pane")];
  const open = (chosen) => buttons.forEach((button, i) => {
    button.setAttribute("aria-selected", String(i === chosen));
    panes[i].classList.toggle("open", i === chosen);
  });
  buttons.forEach((button, i) => button.addEventListener("click", () => open(i)));
  open(0);
}

// Sorting: numbers by data-value or by their text, empty cells last.
const key = (row, column) => {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number.parseFloat(text);
  return text === "" ? null : Number.isNaN(number) || /[a-z]/i.test(text) ? text : number;
};
const order = (a, b) => {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const sort = (column) => {
    const head = heads[column], down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? order(a, b) : down ? order(b, a) : order(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  heads.forEach((head, column) => {
    head.tabIndex = 0;
    head.title ||= "Sort by this column";
    head.addEventListener("click", () => sort(column));
    head.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort(column);
    });
  });
}

// Curves, drawn by uPlot when their tab is in view; colours follow the page's.
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const looks = matchMedia("(prefers-color-scheme: dark)");
for (const box of document.querySelectorAll(".curves")) {
  const charts = JSON.parse(box.querySelector("script").textContent);
  const [choice, plot] = [box.querySelector("select"), box.querySelector(".plot")];
  const shown = new Map();
  let drawn = null;
  const tell = (value) => (value === null || value === undefined ? "–" : Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(4))));
  const draw = () => {
    if (!box.clientWidth) return;
    const chart = charts[choice.selectedIndex];
    const axis = { stroke: colour("ink"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") } };
    const line = ({ label, colour: own, dash, points }) => ({
      label, width: points ? 0 : 1.6, dash: dash ? [6, 4] : undefined, spanGaps: true, show: shown.get(label) ?? true,
      stroke: own === "#000000" || own === "#1f2328" ? colour("ink") : own,
      points: points ? { show: true, size: 7, fill: colour("paper") } : { show: false },
      value: (_, value) => tell(value),
    });
    drawn?.destroy();
    drawn = new uPlot({
      width: box.clientWidth, height: Math.max(300, Math.min(480, box.clientWidth / 2.4)),
      scales: { x: { time: false }, y: { distr: chart.log ? 3 : 1, ...(chart.range && { range: chart.range }) } },
      axes: [{ ...axis, label: chart.x }, { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : tell(tick))) }],
      series: [{ label: chart.x, value: (_, value) => tell(value) }, ...chart.lines.map(line)],
      hooks: { setSeries: [(self, i) => { if (i) shown.set(self.series[i].label, self.series[i].show); }] },
      cursor: { focus: { prox: 24 } }, focus: { alpha: 0.35 },
    }, [chart.at, ...chart.lines.map(({ values }) => values)], plot);
    box.dataset.drawn = chart.title;
  };
  choice.addEventListener("change", draw);
  looks.addEventListener("change", draw);
  let width = 0;
  new ResizeObserver(() => {
    if (box.clientWidth === width) return;
    width = box.clientWidth;
    requestAnimationFrame(draw);
  }).observe(box);
}

// The world: an orthographic view that both canvases share.
const world = JSON.parse(document.getElementById("world-data").textContent);
const view = { turn: 0.7, tilt: 0.35 };
const project = ([x, y, z]) => {
  const [s, c] = [Math.sin(view.turn), Math.cos(view.turn)];
  const [t, u] = [Math.sin(view.tilt), Math.cos(view.tilt)];
  const depth = c * y + s * x;
  return [c * x - s * y, u * z - t * depth, u * depth + t * z];
};

function draw(canvas, arm) {
  const pen = canvas.getContext("2d");
  const [w, h] = [canvas.width, canvas.height];
  const scale = Math.min(w, h) * 0.33;
  const place = (p, length = 1) => {
    const [x, y, depth] = project(p);
    return [w / 2 + x * scale * length, h / 2 - y * scale * length, depth];
  };
  pen.clearRect(0, 0, w, h);
  pen.fillStyle = looks.matches ? "rgba(154,163,173,0.45)" : "rgba(90,98,110,0.4)";
  for (const point of world.points) {
    const [x, y] = place(point, 0.28);
    pen.fillRect(x - 1.3, y - 1.3, 2.6, 2.6);
  }
  const things = world.features.map((p, i) => ({ p, i, kind: "feature" }))
    .concat(arm.columns.map((p, i) => ({ p, i, kind: "column" })));
  things.sort((a, b) => project(a.p)[2] - project(b.p)[2]);
  for (const { p, i, kind } of things) {
    const [x, y, depth] = place(p, kind === "feature" ? 1.25 : 1);
    pen.globalAlpha = 0.65 + 0.35 * (depth + 1) / 2;
    pen.strokeStyle = pen.fillStyle = kind === "feature"
      ? (world.anchored.includes(i) ? colour("blue") : colour("ink"))
      : (arm.cosine[i] > 0.95 ? "#009E73" : "#D55E00");
    pen.lineWidth = kind === "feature" ? 1.6 : 1;
    pen.beginPath();
    pen.moveTo(w / 2, h / 2);
    pen.lineTo(x, y);
    pen.stroke();
    pen.beginPath();
    if (kind === "feature") {
      const [ax, ay] = [x - w / 2, y - h / 2];
      const length = Math.hypot(ax, ay) || 1;
      const [ux, uy] = [ax / length, ay / length];
      pen.moveTo(x + 7 * ux, y + 7 * uy);
      pen.lineTo(x - 4 * uy, y + 4 * ux);
      pen.lineTo(x + 4 * uy, y - 4 * ux);
    } else {
      pen.moveTo(x, y - 7);
      pen.lineTo(x + 7, y);
      pen.lineTo(x, y + 7);
      pen.lineTo(x - 7, y);
    }
    pen.closePath();
    pen.fill();
  }
  pen.globalAlpha = 1;
}

const scenes = Object.entries(world.arms).map(([name, arm]) => [document.getElementById("world-" + name), arm, name]);
const redraw = () => scenes.forEach(([canvas, arm]) => draw(canvas, arm));
for (const [canvas, arm, name] of scenes) {
  canvas.parentElement.querySelector("figcaption").textContent =
    name + ": " + arm.recovered + " of " + world.features.length + " features recovered"
    + (name === "anchored" ? ", " + world.anchored.length + " of them given" : "") + "; " + arm.dead + " latents dead";
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    view.turn += event.movementX * 0.01;
    view.tilt = Math.max(-1.5, Math.min(1.5, view.tilt + event.movementY * 0.01));
    redraw();
  });
}
looks.addEventListener("change", redraw);
redraw();
document.documentElement.dataset.ready = "yes";
