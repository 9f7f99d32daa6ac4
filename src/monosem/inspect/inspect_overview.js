// What all latents look like at once: how often they fire, how many a row has, their directions, the most specific.

// Bars of counts with ticks below: [place in bins, text].
function bars(counts, { title, label, ticks, axis }) {
  const [w, h, left, bottom] = [340, 150, 44, 32], most = Math.max(1, ...counts);
  const svg = el("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": title });
  const put = (name, given, ...children) => svg.append(el(name, { svg: true, ...given }, ...children));
  const x = (bin) => left + ((w - left - 8) * bin) / counts.length, y = (count) => 8 + (h - bottom - 8) * (1 - count / most);
  for (const tick of new Set([0, Math.floor(most / 2), most])) {
    put("line", { x1: left, x2: w - 8, y1: y(tick), y2: y(tick) });
    put("text", { x: left - 5, y: y(tick) + 3.5, "text-anchor": "end" }, whole(tick));
  }
  counts.forEach((count, bin) => count && put("rect", { x: x(bin) + 0.5, y: y(count), width: Math.max(1, x(bin + 1) - x(bin) - 1), height: h - bottom - y(count) },
    el("title", { svg: true }, `${label(bin)}: ${whole(count)}`)));
  for (const [bin, text] of ticks) put("text", { x: Math.min(x(bin), w - 14), y: h - bottom + 13, "text-anchor": "middle" }, text);
  put("text", { x: (left + w) / 2, y: h - 3, "text-anchor": "middle" }, axis);
  return svg;
}

// Share of rows on which a latent fires, five bins to a decade.
function densities({ header, arrays }) {
  const first = Math.floor(Math.log10(1 / header.rows)), counts = new Array(-5 * first).fill(0);
  for (const fired of arrays.fired) if (fired)
    counts[Math.min(counts.length - 1, Math.max(0, Math.floor(5 * (Math.log10(fired / header.rows) - first) + 1e-9)))]++;
  const share = (bin) => percent(10 ** (first + bin / 5)), step = first < -4 ? 2 : 1;
  const ticks = Array.from({ length: 1 - first }, (_, i) => [5 * i, first + i ? `10⁻${"⁰¹²³⁴⁵⁶⁷⁸⁹"[-first - i]}` : "1"]);
  return bars(counts, {
    title: "Latents by the share of rows on which they fire", axis: "share of rows on which a latent fires",
    label: (bin) => `latents that fire on ${share(bin)} to ${share(bin + 1)}`, ticks: ticks.filter((_, i) => i % step === 0),
  });
}

function actives({ arrays }) {
  const { active } = arrays, most = active.length - 1, least = active.findIndex((count) => count > 0);
  if (most === least) return el("p", {}, `${whole(most)} on every row`);
  const width = Math.max(1, Math.ceil((most - least + 1) / 40)), counts = [];
  for (let i = least; i <= most; i += width) counts.push(active.subarray(i, i + width).reduce((sum, count) => sum + count, 0));
  while (counts.length < 5) counts.push(0);
  const place = (i) => least + i * width;
  return bars(counts, {
    title: "Rows by how many latents fire on them", axis: "latents that fire on a row",
    label: (bin) => `rows with ${place(bin)}${width > 1 ? ` to ${place(bin + 1) - 1}` : ""} latents`,
    ticks: [0, 0.25, 0.5, 0.75].map((part) => Math.floor(part * counts.length)).filter((bin, i, all) => all.indexOf(bin) === i).map((bin) => [bin + 0.5, whole(place(bin))]),
  });
}

// A dot per latent; those that the list leaves out are faint.
function directionMap(model, list) {
  const { arrays, header } = model;
  const canvas = el("canvas", { role: "img", "aria-label": "Map of decoder directions" }), tip = el("div", { class: "tip", hidden: true });
  const place = (j, size) => [(0.5 + (0.48 * arrays.place[2 * j]) / 32767) * size[0], (0.5 - (0.48 * arrays.place[2 * j + 1]) / 32767) * size[1]];
  const size = () => [canvas.clientWidth, canvas.clientHeight];
  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    return Object.fromEntries(["dim", "bar", "up", "hot", "ink"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  };
  const draw = () => {
    if (!canvas.isConnected) return;
    const ratio = window.devicePixelRatio || 1, [w, h] = size(), pen = canvas.getContext("2d"), c = colours();
    [canvas.width, canvas.height] = [w * ratio, h * ratio];
    pen.scale(ratio, ratio);
    const listed = new Set(list().state.order), r = header.n_q > 6000 ? 1.3 : header.n_q > 1500 ? 1.8 : 3;
    // Thousands of small dots are squares, which a canvas fills several times as fast.
    const dots = (latents, radius, colour, alpha) => {
      [pen.globalAlpha, pen.fillStyle] = [alpha, colour];
      for (const j of latents) {
        const [x, y] = place(j, [w, h]);
        if (radius < 2) { pen.fillRect(x - radius, y - radius, 2 * radius, 2 * radius); continue; }
        pen.beginPath();
        pen.arc(x, y, radius, 0, 7);
        pen.fill();
      }
    };
    const every = Array.from({ length: header.n_q }, (_, j) => j), clear = (j) => listed.has(j) && arrays.fired[j];
    dots(every.filter((j) => !clear(j)), r, c.dim, 0.25);
    dots(every.filter(clear), r, c.bar, 0.75);
    dots(every.slice(0, header.anchored?.names.length ?? 0), r + 2, `rgb(${c.hot})`, 0.95);
    dots(model.labels.every(), r + 2, c.up, 0.95);
    if (list().state.chosen >= 0) dots([list().state.chosen], r + 3, c.ink, 1);
  };
  const nearest = (event) => {
    const box = canvas.getBoundingClientRect(), at = [event.clientX - box.left, event.clientY - box.top];
    let best = -1, least = 144;
    for (let j = 0; j < header.n_q; j++) {
      const [x, y] = place(j, [box.width, box.height]), far = (x - at[0]) ** 2 + (y - at[1]) ** 2;
      if (far < least) [best, least] = [j, far];
    }
    return [best, at];
  };
  canvas.addEventListener("pointermove", (event) => {
    const [j, [x, y]] = nearest(event);
    tip.hidden = j < 0;
    canvas.style.cursor = j < 0 ? "default" : "pointer";
    if (j < 0) return;
    tip.replaceChildren(el("b", {}, String(j)), " ", labelled(model, j), model.summary(j));
    tip.style.left = `${Math.min(x + 12, canvas.clientWidth - 180)}px`;
    tip.style.top = `${y + 12}px`;
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("click", (event) => { const [j] = nearest(event); if (j >= 0) list().choose(j); });
  new ResizeObserver(draw).observe(canvas);
  document.addEventListener("looks", draw);
  return el("div", { class: "map" }, canvas, tip);
}

// By what a firing says of its word or class, in bits; null where none says anything.
function specific(model, list) {
  const { arrays, header } = model;
  if (!arrays.bits) return null;
  const order = Array.from({ length: header.n_q }, (_, j) => j).filter((j) => arrays.bits[j] >= 0.05 && arrays.fired[j] >= 10);
  order.sort((a, b) => arrays.bits[b] - arrays.bits[a] || a - b);
  if (!order.length) return null;
  const noun = header.class_places ? "class" : "token";
  return [el("h3", {}, "Most specific"), el("p", { class: "note" }, `bits that a firing tells of its ${noun}, of latents that fire on at least 10 rows`),
    el("table", { class: "near" }, el("tbody", {}, order.slice(0, 12).map((j) => el("tr", {},
    el("td", { class: "n" }, el("button", { type: "button", class: "link", onclick: () => list().choose(j) }, String(j))),
    el("td", { class: "n" }, `${arrays.bits[j].toFixed(1)} bits`), el("td", { class: "n" }, percent(arrays.fired[j] / header.rows)),
    el("td", {}, el("span", { class: "word" }, oneLine(model.modal(j))), labelled(model, j))))))];
}

// Texts of one's own; without any, how to have some.
function own(model, list) {
  const { header } = model, table = el("div", {});
  if (header.kind !== "tokens" && !header.own) return null;
  const tell = (word, entries) => table.replaceChildren(el("p", { class: "note" }, entries.length ? ["fire on ", el("span", { class: "word" }, oneLine(word)), ", the strongest first"] : "none fires"),
    nearTable(model, entries, (j) => list().choose(j)));
  return [el("h3", {}, "Your text"), header.own ? el("p", { class: "note" }, "choose a token to see which latents fire on it")
    : el("p", { class: "note" }, "monosem inspect DICTIONARY --try “a text of your own” shows here which latents fire on each of its tokens"),
  ownTexts(model, { tell }), table];
}

function overviewOf(model, list) {
  const { header, arrays } = model;
  const never = arrays.fired.reduce((sum, fired) => sum + (fired === 0), 0);
  const fact = (name, value) => el("span", {}, name + " ", el("b", {}, value));
  const legend = ["a dot is a latent; dots of similar decoder columns lie near each other", header.anchored ? "orange: anchored" : "", "green: labelled", "faint: left out of the list, or never fires here"];
  return [el("h2", {}, "Overview"),
    el("div", { class: "facts" }, fact("latents", whole(header.n_q)), header.fvu === null ? null : fact("FVU", short(header.fvu)), fact("L0", short(header.l0)),
      fact("never fire on these rows", `${whole(never)} (${percent(never / header.n_q)})`)),
    header.fvu > 1 ? el("p", { class: "note warning" }, "FVU above 1: the reconstruction is worse than the mean of these rows. Rows of another site or scale do this, and so does a model that was trained on few rows.") : null,
    labelBar(model),
    el("div", { class: "charts" },
      el("div", {}, el("h3", {}, "How often latents fire"), densities(model)),
      el("div", {}, el("h3", {}, "Latents per row"), actives(model))),
    el("h3", {}, "Decoder directions"), directionMap(model, list), el("p", { class: "note" }, legend.filter(Boolean).join(" · ")),
    own(model, list),
    specific(model, list)];
}

async function begin() {
  const root = document.documentElement, detail = document.getElementById("detail");
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "dark" : "light";
  const looks = () => document.dispatchEvent(new Event("looks"));
  document.getElementById("theme").addEventListener("click", () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; looks(); });
  const model = modelOf(await unpack(document.getElementById("data").textContent));
  const { header, arrays } = model;
  const noun = { tokens: "tokens", images: "images", texts: "texts", rows: "rows" }[header.kind];
  const never = arrays.fired.reduce((sum, fired) => sum + (fired === 0), 0);
  document.getElementById("lead").textContent = [header.method, `${whole(header.n_q)} latents on ${whole(header.rows)} ${noun}`,
    header.fvu === null ? "" : `FVU ${short(header.fvu)}`, `L0 ${short(header.l0)}`, never ? `${whole(never)} never fire here` : "all fire"].filter(Boolean).join(" · ");
  const show = (parts) => { detail.replaceChildren(...parts.flat(Infinity).filter(Boolean)); detail.scrollTop = 0; looks(); };
  const open = makeDetail(model, (j) => list.choose(j));
  const list = makeList(model, (j) => {
    open(j);
    history.replaceState(null, "", `#latent-${j}`);
  });
  model.labels.listen((latents) => { list.renew(latents); looks(); });
  const overview = () => show(overviewOf(model, () => list));
  document.getElementById("overview").addEventListener("click", overview);
  document.getElementById("help").addEventListener("click", () => show(welcome(model)));
  const follow = () => {
    const found = /^#latent-(\d+)$/.exec(location.hash);
    if (found && Number(found[1]) < header.n_q) list.choose(Number(found[1]));
    else overview();
  };
  window.addEventListener("hashchange", follow);
  follow();
  root.dataset.ready = "yes";
  document.dispatchEvent(new Event("ready"));
}
begin().catch((error) => fault(typeof DecompressionStream === "undefined" ? "This browser is too old for the page (it lacks DecompressionStream); use one from 2023 or later." : String(error)));
