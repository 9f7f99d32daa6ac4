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

// Texts of one's own: a latent's activations on them, or, without a latent, tokens that tell which latents fire.
function ownTexts(model, { latent = null, tell = null }) {
  const one = ({ words, latents, values }) => el("p", { class: "text own" }, words.map((word, i) => {
    const at = latent === null ? -1 : latents[i].indexOf(latent), text = shown(word);
    if (latent === null) return el("button", { type: "button", class: "token", onclick: () => tell(word, latents[i].map((j, k) => ({ latent: j, value: values[i][k] }))) }, text);
    return at < 0 ? text : el("mark", { style: `--heat: ${(0.12 + 0.78 * Math.min(1, values[i][at] / (model.arrays.largest[latent] || 1))).toFixed(2)}`, title: short(values[i][at]), "data-value": short(values[i][at]) }, text);
  }));
  return (model.header.own ?? []).filter(({ latents }) => latent === null || latents.some((some) => some.includes(latent))).map(one);
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

function nearTable(model, entries, choose) {
  return el("table", { class: "near" }, el("tbody", {}, entries.map(({ latent: j, value }) => el("tr", {},
    el("td", { class: "n" }, el("button", { type: "button", class: "link", onclick: () => choose(j) }, String(j))),
    el("td", { class: "n" }, value.toFixed(2)), el("td", {}, labelled(model, j), model.summary(j))))));
}

// The sampled contexts of every band of activation, the strongest band first.
function bandList(model, latent, contexts) {
  const { header, arrays } = model;
  return [...new Set(contexts.map(({ band }) => band))].sort((a, b) => b - a).map((band) => {
    const { low, high, first, last } = model.band(latent, band);
    return [el("p", { class: "note band" }, `${header.signed ? "|activation|" : "activation"} ${short(low)} to ${short(high)}: `,
      first ? `from the strongest ${percent(first)} to the strongest ${percent(last)} of its firings` : `the strongest ${percent(last)} of its firings`),
    contextList(model, contexts.filter((context) => context.band === band), arrays.largest[latent])];
  });
}

function explanationOf({ judge, detection, fuzzing }) {
  if (judge === "by hand") return "Written by hand";
  const score = (name, value) => (value === null || value === undefined ? [] : [`${name} ${value.toFixed(2)}`]);
  return [`Words of ${judge}`, ...score("detection", detection), ...score("fuzzing", fuzzing)].join(", ") + " (chance .50)";
}

function makeDetail(model, choose) {
  const { header, arrays, sets } = model;
  const detail = document.getElementById("detail");
  const rowNoun = header.kind === "tokens" ? "token" : header.kind === "images" ? "image" : header.kind === "texts" ? "text" : "row";
  const numbers = el("input", { type: "checkbox", onchange: () => detail.classList.toggle("numbers", numbers.checked) });
  return (latent) => {
    const fired = arrays.fired[latent], anchor = model.anchor(latent), largest = arrays.largest[latent];
    const top = sets.top.of(latent), sample = sets.sample.of(latent), bands = sets.band.of(latent);
    const fact = (name, value) => el("span", {}, name + " ", el("b", {}, value));
    const main = [], aside = [];
    const own = ownTexts(model, { latent });
    if (own.length) main.push(el("h3", {}, "Your text"), own);
    if (!fired) main.push(el("p", { class: "note" }, `It fires on none of the ${sentence(header.rows, rowNoun)}: a dead latent, or one whose feature is absent here.`));
    else {
      main.push(el("h3", {}, "Strongest", header.kind === "tokens" ? el("label", { class: "note" }, "  ", numbers, " numbers") : null),
        el("p", { class: "note" }, `${top.length} of ${sentence(fired, "firing")}, the strongest first${header.kind === "tokens" ? "; each of another passage" : ""}`),
        contextList(model, top, largest));
      if (bands.length && top.length < fired) main.push(el("h3", {}, "From strong to weak"),
        el("p", { class: "note" }, `drawn at random in each band of activation`), bandList(model, latent, bands));
      if (sample.length) main.push(el("h3", {}, "Drawn at random"),
        el("p", { class: "note" }, `${sample.length} of ${sentence(fired, "firing")}: what it fires on usually, not at its best`), contextList(model, sample, largest));
      aside.push(el("h3", {}, "Activations"), el("p", { class: "note" }, "rows by activation, heights logarithmic"), histogram(model, latent));
    }
    if (header.effect) aside.push(el("h3", {}, "Next tokens"),
      el("p", { class: "note" }, "logits per unit of activation, by the direct path"),
      el("div", { class: "pair" }, el("div", {}, "promotes", tokenTable(model.promoted(latent), "up")), el("div", {}, "suppresses", tokenTable(model.suppressed(latent), "down"))));
    if (header.class_places && fired) aside.push(el("h3", {}, "Classes"), classTable(model, latent),
      el("p", { class: "note" }, restOfClasses(model, latent)));
    if (header.nearest) aside.push(el("h3", {}, "Nearest latents"), el("p", { class: "note" }, "by the cosine of decoder columns"), nearTable(model, model.near(latent), choose));
    const company = fired ? model.company(latent) : [];
    if (company.length) aside.push(el("h3", {}, "Fires together with"), el("p", { class: "note" }, `correlation of firing on the same ${rowNoun} (phi)`), nearTable(model, company, choose));
    detail.replaceChildren(...[
      el("h2", {}, `Latent ${latent}`, anchor ? el("span", { class: "badge", title: "This latent was anchored" }, `⚓ ${anchor.name}`) : null,
        labelField(model, latent)),
      model.explained(latent) ? el("p", { class: "note" }, explanationOf(model.explained(latent))) : null,
      el("div", { class: "facts" }, fact("fires on", `${whole(fired)} of ${sentence(header.rows, rowNoun)} (${percent(fired / header.rows)})`),
        fired ? [fact("max", short(largest)), fact("mean where it fires", short(arrays.mean[latent]))] : [],
        anchor ? fact("cosine with its anchor", anchor.cosine.toFixed(3)) : null),
      el("div", { class: "halves" }, el("div", {}, main), el("div", {}, aside)), labelBar(model)].filter(Boolean));
    detail.scrollTop = 0;
  };
}

function welcome(model) {
  const { header, arrays } = model;
  const [shownRows, wanted] = header.shown ?? [0, 0];
  const terms = [
    ["latent", "One learned feature. On each row it has an activation; most are 0. Where it is not 0 the latent fires."],
    ["fires on", "The share of rows on which it fires. A latent that never fires on these rows may be dead."],
    ["bits", `What a firing tells of its ${header.class_places ? "class" : "token"}: the divergence of that ${header.class_places ? "class's" : "token's"} share among ${header.class_places ? "the firings" : "the contexts shown"} from its share of all rows.`],
    ["label", "What you or a judge say that the latent stands for. Press l and type; the browser keeps it, and Export writes a file that `monosem inspect --exported` takes into the dictionary's folder."],
    ["strongest", `Up to ${header.options.top} firings with the largest activation${arrays.document ? ", each of another passage of 128 tokens" : ""}. They show a latent at its best, so read the ones drawn at random too.`],
    ["from strong to weak", "Firings drawn at random in each band of activation, and which part of all firings the band is."],
    ["drawn at random", `Up to ${header.options.sample} of all its firings, each as likely as any other${arrays.document ? " up to one per passage" : ""}.`],
    header.kind === "tokens" ? ["colour", "A token's activation as a share of the latent's maximum. Point at a token for its number. A rim marks the strongest."] : null,
    header.class_places ? ["class", "The class with most of the latent's firings, and which share of them it has. On few firings a high share says little: set “fires ≥”."] : null,
    header.effect ? ["next tokens", "The unembedding times the latent's decoder column: which next tokens it makes more or less likely by the direct path."] : null,
    ["nearest", "The latents whose decoder columns point in the most similar directions."],
    ["fires together", "The latents whose firings on the same rows correlate most with its own (phi; 1: always together)."],
    ["map", "Places in the plane by the nearest latents alone (a layout as UMAP's): neighbours mean something, distances across the map do not."],
    header.anchored ? ["⚓ anchored", "Held at a given direction during training; its name is that of the direction, not a finding."] : null,
  ].filter((term) => term && (term[0] !== "bits" || arrays.bits));
  return [el("h2", {}, "How to read this page"),
    el("p", {}, "Choose a latent from the list. It is sorted by how often latents fire; click a heading to sort by something else."),
    el("dl", {}, terms.map(([term, text]) => [el("dt", {}, term), el("dd", {}, text)])),
    shownRows < wanted ? el("p", { class: "note" }, `The page holds ${whole(shownRows)} of the ${whole(wanted)} ${header.kind} of all contexts, the strongest of every latent first.`) : null,
    el("p", { class: "note" }, `Rows: ${header.title_rows}. Model: ${header.model}. Written by monosem ${header.monosem}.`)];
}
