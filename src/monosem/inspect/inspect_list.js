// The list: only the rows in view are elements, so that any number of latents scrolls.

const HEIGHT = 34;
const OVERSCAN = 8;

function columnsOf(model) {
  const { header, arrays } = model;
  const columns = [
    { name: "latent", title: "Number of the latent", width: "54px", key: (j) => -j, cell: (j) => [String(j), model.anchor(j) ? el("b", { class: "anchor", title: `anchored: ${model.anchor(j).name}` }, " ⚓") : null] },
    { name: "fires on", title: "Share of rows on which the latent is not zero", width: "72px", key: (j) => arrays.fired[j], cell: (j) => [arrays.fired[j] ? percent(arrays.fired[j] / header.rows) : "never"], gauge: (j) => arrays.fired[j] / header.rows },
    { name: "max", title: "Largest activation", width: "46px", key: (j) => arrays.largest[j], cell: (j) => [short(arrays.largest[j])] },
    arrays.bits ? { name: "bits", title: `What a firing tells of its ${header.class_places ? "class" : "token"}, in bits`, width: "46px", key: (j) => arrays.bits[j], cell: (j) => [arrays.fired[j] ? arrays.bits[j].toFixed(1) : ""] }
      : { name: "mean", title: "Mean activation where it fires", width: "58px", key: (j) => arrays.mean[j], cell: (j) => [short(arrays.mean[j])] },
  ];
  if (header.class_places) columns.push({
    name: "class", title: "Class with most of its firings, and their share", width: "minmax(84px, 1fr)", left: true,
    key: (j) => model.purity(j),
    cell: (j) => (arrays.fired[j] ? [`${(100 * model.purity(j)).toFixed(0)} % `, header.classes[arrays.class[j * header.class_places]]] : []),
  });
  if (header.kind === "tokens") columns.push({ name: "strongest on", width: "minmax(110px, 2fr)", left: true, cell: (j) => [labelled(model, j), model.words(j, 8).map((word) => el("span", { class: "word" }, oneLine(word)))] });
  if (header.kind === "texts") columns.push({ name: "strongest on", width: "minmax(110px, 2fr)", left: true, cell: (j) => [labelled(model, j), model.sets.top.rows(j, 1).map((row) => oneLine(model.text(row) ?? "").slice(0, 80))] });
  if (header.kind === "images") columns.push({ name: "strongest on", width: "156px", left: true, cell: (j) => model.sets.top.rows(j, 5).map((row) => picture(model, row)) });
  if (header.kind === "images" || header.kind === "rows") columns.push({ name: "label", width: "minmax(60px, 1fr)", left: true, cell: (j) => [labelled(model, j)] });
  return columns;
}

const labelled = (model, j) => (model.explained(j) ? el("b", { class: "label" }, model.explained(j).label, " ") : null);

function picture(model, row) {
  const source = model.image(row);
  const told = `row ${model.arrays.number[row]}${model.label(row) ? ", " + model.label(row) : ""}`;
  if (!source) return el("span", { title: told }, "·");
  const image = el("img", { src: source, alt: told, title: told });
  image.addEventListener("load", () => image.classList.toggle("tiny", image.naturalWidth < 60));
  return image;
}

// What a search looks through, made when it is first asked for.
function searcher(model) {
  const { header } = model;
  const made = {};
  const lists = {
    word: (j) => (header.kind === "tokens" ? [...model.words(j, 99), ...model.sets.sample.rows(j, 99).map(model.token)]
      : header.kind === "texts" ? [...model.sets.top.rows(j, 99), ...model.sets.sample.rows(j, 99)].map((row) => model.text(row) ?? "") : []),
    promoted: (j) => (header.effect ? model.promoted(j).map((entry) => entry.text) : []),
    class: (j) => [...(header.class_places && model.arrays.fired[j] ? [header.classes[model.arrays.class[j * header.class_places]]] : []), ...(model.anchor(j) ? [model.anchor(j).name] : [])],
  };
  const said = (j) => model.explained(j)?.label.toLowerCase() ?? "";
  const strings = (field) => (made[field] ??= Array.from({ length: header.n_q }, (_, j) => lists[field](j).join("\u0001").toLowerCase()));
  return (field, query) => {
    const wanted = query.trim().toLowerCase();
    if (!wanted) return () => true;
    const number = /^#?\d+$/.test(wanted) ? Number(wanted.replace("#", "")) : -1;
    if (field === "number" || wanted[0] === "#") return (j) => j === number;
    if (field === "label") return (j) => said(j).includes(wanted);
    const fields = (field === "any" ? Object.keys(lists) : [field]).map(strings);
    return (j) => (field === "any" && (j === number || said(j).includes(wanted))) || fields.some((text) => text[j].includes(wanted));
  };
}

function makeList(model, open) {
  const { header, arrays } = model;
  const byId = (id) => document.getElementById(id);
  const [view, spacer, head, search, field, least, anchored] = ["view", "spacer", "head", "search", "field", "least", "anchored"].map(byId);
  const columns = columnsOf(model), matching = searcher(model);
  const state = { order: [], sort: 1, down: true, chosen: -1 };
  document.documentElement.style.setProperty("--columns", columns.map((column) => column.width).join(" "));
  byId("only-anchored").hidden = !header.anchored;

  const fields = [["any", "anything"], ["number", "number"]];
  if (header.kind === "tokens") fields.push(["word", "token"]);
  if (header.kind === "texts") fields.push(["word", "text"]);
  if (header.effect) fields.push(["promoted", "promotes"]);
  if (header.class_places || header.anchored) fields.push(["class", "class"]);
  fields.push(["label", "label"]);
  field.append(...fields.map(([value, text]) => el("option", { value }, text)));

  head.append(...columns.map((column, i) => el("span", { role: "columnheader", class: column.left ? "left" : null },
    column.key ? el("button", { type: "button", title: column.title, onclick: () => sortBy(i) }, column.name) : el("span", { class: "plain" }, column.name))));

  const rowOf = (j) => el("div", { class: arrays.fired[j] ? "row" : "row dead", role: "row", id: `row-${j}`, onclick: () => choose(j) },
    columns.map((column) => el("span", {
      role: "gridcell", class: [column.left ? "left" : "", column.gauge ? "gauge" : ""].join(" ").trim() || null,
      style: column.gauge ? `--share: ${(100 * Math.min(1, column.gauge(j))).toFixed(1)}%` : null,
    }, column.cell(j))));
  // Rows that stay in view are kept, so that their images do not load again.
  let live = new Map();
  const draw = () => {
    const first = Math.max(0, Math.floor(view.scrollTop / HEIGHT) - OVERSCAN);
    const last = Math.min(state.order.length, Math.ceil((view.scrollTop + view.clientHeight) / HEIGHT) + OVERSCAN);
    const next = new Map();
    for (let place = first; place < last; place++) {
      const j = state.order[place], row = live.get(j) ?? rowOf(j);
      row.style.top = `${place * HEIGHT}px`;
      row.setAttribute("aria-rowindex", place + 1);
      row.setAttribute("aria-selected", String(j === state.chosen));
      next.set(j, row);
    }
    for (const [j, row] of live) if (!next.has(j)) row.remove();
    for (const row of next.values()) if (!row.isConnected) spacer.append(row);
    live = next;
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  };

  const sorted = (latents) => {
    const key = columns[state.sort].key, sign = state.down ? -1 : 1;
    const keys = Float64Array.from({ length: header.n_q }, (_, j) => key(j));
    return latents.sort((a, b) => sign * (keys[a] - keys[b]) || arrays.fired[b] - arrays.fired[a] || a - b);
  };
  const refresh = () => {
    const fits = matching(field.value, search.value), enough = Number(least.value) || 0;
    const all = Array.from({ length: header.n_q }, (_, j) => j);
    state.order = sorted(all.filter((j) => arrays.fired[j] >= enough && (!anchored.checked || model.anchor(j)) && fits(j)));
    spacer.style.height = `${state.order.length * HEIGHT}px`;
    view.setAttribute("aria-rowcount", state.order.length);
    [...head.children].forEach((cell, i) => (i === state.sort
      ? cell.setAttribute("aria-sort", (state.sort === 0) !== state.down ? "descending" : "ascending") : cell.removeAttribute("aria-sort")));
    const hidden = header.n_q - state.order.length;
    byId("count").textContent = hidden ? `${whole(state.order.length)} of ${whole(header.n_q)} latents` : `all ${whole(header.n_q)} latents`;
    view.scrollTop = 0;
    draw();
    document.dispatchEvent(new Event("looks"));
  };
  const sortBy = (i) => {
    state.down = state.sort === i ? !state.down : true;
    state.sort = i;
    refresh();
  };
  const reveal = (place) => {
    const top = place * HEIGHT;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + HEIGHT > view.scrollTop + view.clientHeight) view.scrollTop = top + HEIGHT - view.clientHeight;
  };
  const choose = (j) => {
    state.chosen = j;
    const place = state.order.indexOf(j);
    if (place >= 0) reveal(place);
    draw();
    if (place >= 0) view.setAttribute("aria-activedescendant", `row-${j}`);
    else view.removeAttribute("aria-activedescendant");
    open(j);
  };
  const step = (by) => {
    if (!state.order.length) return;
    const place = state.order.indexOf(state.chosen);
    const next = place < 0 ? 0 : Math.max(0, Math.min(state.order.length - 1, place + by));
    choose(state.order[next]);
  };

  view.addEventListener("scroll", soon, { passive: true });
  new ResizeObserver(soon).observe(view);
  for (const input of [search, field, least, anchored]) input.addEventListener("input", refresh);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.getElementById("detail").contains(event.target) && /^(Arrow|Page|Home|End)/.test(event.key)) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    const page = Math.max(1, Math.floor(view.clientHeight / HEIGHT) - 1), inList = event.target === view;
    const moves = { ArrowDown: 1, ArrowUp: -1, ...(inList ? { PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity } : {}) };
    if (event.key === "l" && !typing && document.getElementById("label")) document.getElementById("label").select();
    else if (event.key === "/" && !typing) { search.focus(); search.select(); }
    else if (event.key === "Escape" && event.target === search) { search.value = ""; refresh(); view.focus(); }
    else if (event.key === "Enter" && event.target === search) { step(-Infinity); view.focus(); }
    else if (event.key in moves && (!typing || (event.target === search && event.key === "ArrowDown"))) { step(moves[event.key]); if (!inList) view.focus(); }
    else return;
    event.preventDefault();
  });
  // Make rows anew whose content changed.
  const renew = (latents) => {
    for (const j of latents) { live.get(j)?.remove(); live.delete(j); }
    draw();
  };
  refresh();
  return { choose, renew, state };
}
