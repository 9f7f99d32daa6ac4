// One latent, opened.

const sentence = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

// A context: tokens that are active carry a colour, and their value as a title (or beside them, on request).
function tokenText(model, context, largest) {
  const parts = [];
  let plain = context.before ? "… " : "";
  for (let i = 0; i < context.length; i++) {
    const text = shown(model.token(context.start + i)), value = context.values.get(i);
    if (value === undefined) { plain += text; continue; }
    const [, space, word] = /^( *)([^]*)$/.exec(text);
    parts.push(plain + (word ? space : ""), el("mark", {
      class: [value < 0 ? "minus" : "", i === context.peak ? "peak" : ""].join(" ").trim() || null,
      style: `--heat: ${(0.12 + 0.78 * Math.min(1, Math.abs(value) / largest)).toFixed(2)}`,
      title: `${word || "white space"}: ${short(value)}`, "data-value": short(value),
    }, word || text));
    plain = "";
  }
  parts.push(plain + (context.after ? " …" : ""));
  return parts;
}

function placeOf(model, row) {
  const { arrays } = model;
  const parts = [];
  if (arrays.document) parts.push(`document ${arrays.document[row]}${arrays.position ? `, token ${arrays.position[row]}` : ""}`);
  else parts.push(`row ${arrays.number[row]}`);
  if (model.label(row)) parts.push(model.label(row));
  return parts.join(" · ");
}

function contextList(model, contexts, largest) {
  if (model.header.kind === "images") return el("div", { class: "images" }, contexts.map((context) => el("figure", {},
    picture(model, context.row),
    el("figcaption", {}, short(context.value), el("span", { title: placeOf(model, context.row) }, model.label(context.row) || `row ${model.arrays.number[context.row]}`)))));
  return el("div", { role: "list" }, contexts.map((context) => {
    const body = model.header.kind === "tokens" ? tokenText(model, context, largest)
      : model.header.kind === "texts" ? [model.text(context.row) ?? "(text left out: the page holds only so many)"] : [];
    const place = placeOf(model, context.row);
    return el("div", { class: "context", role: "listitem" }, el("div", { class: "value", title: "activation" }, short(context.value)),
      el("div", {}, body.length ? el("div", { class: "text" }, body) : null, el("div", { class: "place" }, place)));
  }));
}

// Firings by size; heights are logarithmic, as the counts of small activations are a thousand times those of large ones.
function histogram(model, latent) {
  const { arrays } = model;
  const width = 2 ** arrays.exponent[latent], bins = arrays.histogram.subarray(latent * 32, latent * 32 + 32);
  const used = Math.max(1, Math.ceil((arrays.largest[latent] / width) * (1 - 1e-9)));
  const most = Math.max(...bins), top = Math.log10(most) + 0.35;
  const [w, h, left, bottom] = [320, 128, 40, 18];
  const x = (bin) => left + ((w - left - 4) * bin) / used;
  const y = (count) => (h - bottom) * (1 - (count ? Math.log10(count) + 0.3 : 0) / top);
  const svg = el("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": `Histogram of ${sentence(arrays.fired[latent], "activation")} up to ${short(arrays.largest[latent])}` });
  const put = (name, given, ...children) => svg.append(el(name, { svg: true, ...given }, ...children));
  for (let tick = 1; tick <= most; tick *= 10) {
    put("line", { x1: left, x2: w - 4, y1: y(tick), y2: y(tick) });
    put("text", { x: left - 5, y: y(tick) + 3.5, "text-anchor": "end" }, whole(tick));
  }
  for (let bin = 0; bin < used; bin++) if (bins[bin])
    put("rect", { x: x(bin) + 0.5, y: y(bins[bin]), width: Math.max(1, x(bin + 1) - x(bin) - 1), height: h - bottom - y(bins[bin]) },
      el("title", { svg: true }, `${short(bin * width)} to ${short((bin + 1) * width)}: ${sentence(bins[bin], "row")}`));
  put("text", { x: left, y: h - 5 }, "0");
  put("text", { x: (left + w) / 2, y: h - 5, "text-anchor": "middle" }, model.header.signed ? "|activation|" : "activation");
  put("text", { x: w - 4, y: h - 5, "text-anchor": "end" }, short(arrays.largest[latent]));
  return svg;
}

function classTable(model, latent) {
  const { header, arrays } = model;
  return el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "class"), el("th", {}, "share of its firings"), el("th", { class: "n" }, ""),
    el("th", { class: "n", title: "Share of the class's rows on which the latent fires" }, "fires on"))),
  el("tbody", {}, model.classes(latent).map(({ code, fired, rows }) => {
    const share = fired / arrays.fired[latent], base = rows / header.rows;
    return el("tr", {}, el("td", {}, header.classes[code]),
      el("td", { class: "meter" }, el("div", { class: "track", title: `the line marks the class's share of all rows, ${percent(base)}` },
        el("i", { style: `width: ${100 * share}%` }), el("u", { style: `left: ${100 * base}%` }))),
      el("td", { class: "n" }, percent(share)), el("td", { class: "n" }, percent(fired / rows)));
  })));
}

function restOfClasses(model, latent) {
  const found = model.classes(latent), rest = model.header.classes.length - found.length;
  const counted = found.reduce((sum, entry) => sum + entry.fired, 0);
  if (!rest) return "";
  return counted === model.arrays.fired[latent] ? (rest === 1 ? "never on the one other class" : `never on the other ${rest} classes`)
    : `the ${found.length} with most firings, of ${model.header.classes.length} classes`;
}

function tokenTable(entries, kind) {
  return el("table", {}, el("tbody", {}, entries.map(({ text, value }) => el("tr", {},
    el("td", {}, el("span", { class: "word" }, oneLine(text))), el("td", { class: `n ${kind}` }, (value > 0 ? "+" : "") + short(value))))));
}

function nearTable(model, latent, choose) {
  const summary = (j) => (model.header.kind === "tokens" ? model.words(j, 4).map((word) => el("span", { class: "word" }, oneLine(word)))
    : model.header.class_places && model.arrays.fired[j] ? [model.header.classes[model.arrays.class[j * model.header.class_places]]] : []);
  return el("table", { class: "near" }, el("tbody", {}, model.near(latent).map(({ latent: j, cosine }) => el("tr", {},
    el("td", { class: "n" }, el("button", { type: "button", class: "link", onclick: () => choose(j) }, String(j))),
    el("td", { class: "n" }, cosine.toFixed(2)), el("td", {}, model.arrays.fired[j] ? summary(j) : "never fires")))));
}

function explanationOf({ judge, detection, fuzzing }) {
  const score = (name, value) => (value === null ? [] : [`${name} ${value.toFixed(2)}`]);
  return [`Words of ${judge}`, ...score("detection", detection), ...score("fuzzing", fuzzing)].join(", ") + " (chance .50)";
}

function makeDetail(model, choose) {
  const { header, arrays, sets } = model;
  const detail = document.getElementById("detail");
  const rowNoun = header.kind === "tokens" ? "token" : header.kind === "images" ? "image" : header.kind === "texts" ? "text" : "row";
  const numbers = el("input", { type: "checkbox", onchange: () => detail.classList.toggle("numbers", numbers.checked) });
  return (latent) => {
    const fired = arrays.fired[latent], anchor = model.anchor(latent), largest = arrays.largest[latent];
    const top = sets.top.of(latent), sample = sets.sample.of(latent);
    const fact = (name, value) => el("span", {}, name + " ", el("b", {}, value));
    const main = [], aside = [];
    if (!fired) main.push(el("p", { class: "note" }, `It fires on none of the ${sentence(header.rows, rowNoun)}: a dead latent, or one whose feature is absent here.`));
    else {
      main.push(el("h3", {}, "Strongest", header.kind === "tokens" ? el("label", { class: "note" }, "  ", numbers, " numbers") : null),
        el("p", { class: "note" }, `${top.length} of ${sentence(fired, "firing")}, the strongest first${header.kind === "tokens" ? "; each of another passage" : ""}`),
        contextList(model, top, largest));
      if (sample.length) main.push(el("h3", {}, "Drawn at random"),
        el("p", { class: "note" }, `${sample.length} of ${sentence(fired, "firing")}: what it fires on usually, not at its best`), contextList(model, sample, largest));
      aside.push(el("h3", {}, "Activations"), el("p", { class: "note" }, "rows by activation, heights logarithmic"), histogram(model, latent));
    }
    if (header.effect) aside.push(el("h3", {}, "Next tokens"),
      el("p", { class: "note" }, "logits per unit of activation, by the direct path"),
      el("div", { class: "pair" }, el("div", {}, "promotes", tokenTable(model.promoted(latent), "up")), el("div", {}, "suppresses", tokenTable(model.suppressed(latent), "down"))));
    if (header.class_places && fired) aside.push(el("h3", {}, "Classes"), classTable(model, latent),
      el("p", { class: "note" }, restOfClasses(model, latent)));
    if (header.nearest) aside.push(el("h3", {}, "Nearest latents"), el("p", { class: "note" }, "by the cosine of decoder columns"), nearTable(model, latent, choose));
    detail.replaceChildren(
      el("h2", {}, `Latent ${latent}`, anchor ? el("span", { class: "badge", title: "This latent was anchored" }, `⚓ ${anchor.name}`) : null,
        model.explained(latent) ? el("span", { class: "badge", title: explanationOf(model.explained(latent)) }, model.explained(latent).label) : null),
      el("div", { class: "facts" }, fact("fires on", `${whole(fired)} of ${sentence(header.rows, rowNoun)} (${percent(fired / header.rows)})`),
        fired ? [fact("max", short(largest)), fact("mean where it fires", short(arrays.mean[latent]))] : [],
        anchor ? fact("cosine with its anchor", anchor.cosine.toFixed(3)) : null),
      el("div", { class: "halves" }, el("div", {}, main), el("div", {}, aside)));
    detail.scrollTop = 0;
  };
}

function welcome(model) {
  const { header, arrays } = model;
  const [shownRows, wanted] = header.shown ?? [0, 0];
  const terms = [
    ["latent", "One learned feature. On each row it has an activation; most are 0. Where it is not 0 the latent fires."],
    ["fires on", "The share of rows on which it fires. A latent that never fires on these rows may be dead."],
    ["strongest", `Up to ${header.options.top} firings with the largest activation${arrays.document ? ", each of another passage of 128 tokens" : ""}. They show a latent at its best, so read the ones drawn at random too.`],
    ["drawn at random", `Up to ${header.options.sample} of all its firings, each as likely as any other${arrays.document ? " up to one per passage" : ""}.`],
    header.kind === "tokens" ? ["colour", "A token's activation as a share of the latent's maximum. Point at a token for its number. A rim marks the strongest."] : null,
    header.class_places ? ["class", "The class with most of the latent's firings, and which share of them it has. On few firings a high share says little: set “fires ≥”."] : null,
    header.effect ? ["next tokens", "The unembedding times the latent's decoder column: which next tokens it makes more or less likely by the direct path."] : null,
    ["nearest", "The latents whose decoder columns point in the most similar directions."],
    header.anchored ? ["⚓ anchored", "Held at a given direction during training; its name is that of the direction, not a finding."] : null,
  ].filter(Boolean);
  return [el("h2", {}, "How to read this page"),
    el("p", {}, "Choose a latent from the list. It is sorted by how often latents fire; click a heading to sort by something else."),
    el("dl", {}, terms.map(([term, text]) => [el("dt", {}, term), el("dd", {}, text)])),
    shownRows < wanted ? el("p", { class: "note" }, `The page holds ${whole(shownRows)} of the ${whole(wanted)} ${header.kind} of all contexts, the strongest of every latent first.`) : null,
    el("p", { class: "note" }, `Rows: ${header.title_rows}. Model: ${header.model}. Written by monosem ${header.monosem}.`)];
}

async function begin() {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "dark" : "light";
  document.getElementById("theme").addEventListener("click", () => { root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark"; });
  const model = modelOf(await unpack(document.getElementById("data").textContent));
  const { header, arrays } = model;
  const noun = { tokens: "tokens", images: "images", texts: "texts", rows: "rows" }[header.kind];
  const never = arrays.fired.reduce((sum, fired) => sum + (fired === 0), 0);
  document.getElementById("lead").textContent = [header.method, `${whole(header.n_q)} latents on ${whole(header.rows)} ${noun}`,
    header.fvu === null ? "" : `FVU ${short(header.fvu)}`, `L0 ${short(header.l0)}`, never ? `${whole(never)} never fire here` : "all fire"].filter(Boolean).join(" · ");
  const help = () => document.getElementById("detail").replaceChildren(...welcome(model).filter(Boolean));
  document.getElementById("help").addEventListener("click", help);
  help();
  const detail = makeDetail(model, (j) => list.choose(j));
  const list = makeList(model, (j) => {
    detail(j);
    history.replaceState(null, "", `#latent-${j}`);
  });
  const follow = () => {
    const found = /^#latent-(\d+)$/.exec(location.hash);
    if (found && Number(found[1]) < header.n_q) list.choose(Number(found[1]));
  };
  window.addEventListener("hashchange", follow);
  follow();
  root.dataset.ready = "yes";
  document.dispatchEvent(new Event("ready"));
}
begin().catch((error) => fault(typeof DecompressionStream === "undefined" ? "This browser is too old for the page (it lacks DecompressionStream); use one from 2023 or later." : String(error)));
