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
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? order(a, b) : down ? order(b, a) : order(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  }));
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
  pen.fillStyle = "rgba(90,98,110,0.4)";
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
      ? (world.anchored.includes(i) ? "#0072B2" : "#1f2328")
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
redraw();
document.documentElement.dataset.ready = "yes";
