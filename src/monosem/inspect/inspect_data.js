"use strict";
// The data of the page: base64, deflate, then a header in JSON and arrays whose bytes lie by plane.

const fault = (text) => {
  const box = document.getElementById("script-errors");
  box.textContent += text + "\n";
  box.hidden = false;
};
window.addEventListener("error", (event) => fault(event.message));
window.addEventListener("unhandledrejection", (event) => fault(String(event.reason)));

const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i1: Int8Array, i2: Int16Array, i4: Int32Array, f4: Float32Array };

async function unpack(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const whole = await new Response(stream).arrayBuffer();
  const first = 4 + new DataView(whole).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(whole, 4, first - 4)));
  const arrays = {};
  for (const [name, [kind, size, at]] of Object.entries(header.arrays)) {
    const width = TYPES[kind].BYTES_PER_ELEMENT;
    const planes = new Uint8Array(whole, first + at, size * width);
    const plain = width === 1 ? planes : new Uint8Array(size * width);
    for (let k = 0; width > 1 && k < width; k++)
      for (let i = 0, from = k * size, to = k; i < size; i++, from++, to += width) plain[to] = planes[from];
    arrays[name] = new TYPES[kind](width === 1 ? planes : plain.buffer);
  }
  return { header, arrays };
}

// Running sums, so that the contexts of a latent, and the active tokens of a context, are slices.
function starts(counts) {
  const sums = new Uint32Array(counts.length + 1);
  for (let i = 0; i < counts.length; i++) sums[i + 1] = sums[i] + counts[i];
  return sums;
}

function contextsOf({ header, arrays }) {
  const sets = {};
  for (const name of ["top", "sample", "band"]) {
    const part = (field) => arrays[`${name}.${field}`];
    const first = starts(part("count")), cells = starts(part("active"));
    const one = (latent, c) => {
      const values = new Map();
      for (let i = cells[c]; i < cells[c + 1]; i++)
        values.set(part("at")[i], (part("value")[i] / 32767) * arrays.largest[latent]);
      const [start, peak, length, more] = ["start", "peak", "length", "more"].map((field) => part(field)[c]);
      return { start, peak, length, values, row: start + peak, before: more & 1, after: more & 2, value: values.get(peak) ?? 0, band: part("of")?.[c] };
    };
    sets[name] = {
      of: (latent) => Array.from({ length: first[latent + 1] - first[latent] }, (_, i) => one(latent, first[latent] + i)),
      rows: (latent, most) => {
        const rows = [];
        for (let c = first[latent]; c < Math.min(first[latent + 1], first[latent] + most); c++)
          rows.push(part("start")[c] + part("peak")[c]);
        return rows;
      },
    };
  }
  return sets;
}

// Everything the other scripts ask.
function modelOf(data) {
  const { header, arrays } = data;
  const sets = contextsOf(data);
  const images = new Map();
  const places = header.class_places ?? 0, effects = header.effect?.tokens ?? 0;
  const token = (row) => header.vocabulary[arrays.token[row]];
  const image = (row) => {
    const place = arrays.shown[row];
    if (!place) return null;
    if (!images.has(place)) {
      const [from, to] = [place > 1 ? arrays["image.end"][place - 2] : 0, arrays["image.end"][place - 1]];
      images.set(place, URL.createObjectURL(new Blob([arrays.image.subarray(from, to)], { type: "image/webp" })));
    }
    return images.get(place);
  };
  const classes = (latent) => Array.from({ length: places }, (_, i) => {
    const at = latent * places + i;
    return { code: arrays.class[at], fired: arrays.class_fired[at], rows: arrays.class_rows[arrays.class[at]] };
  }).filter((entry) => entry.fired > 0);
  const side = (name, latent) => Array.from({ length: effects }, (_, i) => ({
    text: header.vocabulary[arrays[name][latent * effects + i]],
    value: (arrays[`${name}.value`][latent * effects + i] / 32767) * header.effect.scale,
  }));
  const text = (row) => (arrays.shown[row] ? header.texts[arrays.shown[row] - 1] : null);
  const pairs = (which, value) => (latent) => Array.from({ length: header.nearest }, (_, i) => ({
    latent: arrays[which][latent * header.nearest + i],
    value: arrays[value][latent * header.nearest + i] / 32767,
  }));
  const labels = labelsOf(data);
  // The different words on which a latent fires most, strongest first.
  const words = (latent, most) => [...new Set(sets.top.rows(latent, most).map((row) => token(row).trim() || token(row)))];
  return {
    header, arrays, sets, token, image, classes, text, labels, words, explained: labels.of,
    label: (row) => (arrays.label && arrays.label[row] ? header.classes[arrays.label[row] - 1] : ""),
    purity: (latent) => (places && arrays.fired[latent] ? arrays.class_fired[latent * places] / arrays.fired[latent] : 0),
    promoted: (latent) => side("up", latent),
    suppressed: (latent) => side("down", latent),
    near: pairs("nearest", "cosine"),
    company: (latent) => pairs("company", "phi")(latent).filter((entry) => entry.value > 0),
    modal: (latent) => (places ? header.classes : header.vocabulary)[arrays.word[latent]],
    // A latent in a few words, for tables and tips.
    summary: (latent) => (!arrays.fired[latent] ? ["never fires"]
      : header.kind === "tokens" ? words(latent, 4).map((word) => el("span", { class: "word" }, oneLine(word)))
      : places ? [header.classes[arrays.class[latent * places]]]
      : header.kind === "texts" ? sets.top.rows(latent, 1).map((row) => oneLine(text(row) ?? "").slice(0, 60)) : []),
    // Activations of a band, and which share of the firings is stronger than its strongest and its weakest.
    band: (latent, band) => {
      const bins = arrays.histogram.subarray(latent * 32, latent * 32 + 32), width = 4 * 2 ** arrays.exponent[latent];
      const from = (bin) => bins.subarray(bin).reduce((sum, count) => sum + count, 0) / arrays.fired[latent];
      return { low: band * width, high: Math.min((band + 1) * width, arrays.largest[latent]), first: from(4 * band + 4), last: from(4 * band) };
    },
    anchor: (latent) => (latent < (header.anchored?.names.length ?? 0)
      ? { name: header.anchored.names[latent], cosine: header.anchored.cosine[latent] } : null),
  };
}

const el = (name, given = {}, ...children) => {
  const node = name === "svg" || given.svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key === "svg" || value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
};
const shown = (text) => text.replace(/\n/g, "⏎\n").replace(/\t/g, "⇥");
const oneLine = (text) => text.replace(/\s*\n\s*/g, " ⏎ ");
const whole = (number) => number.toLocaleString("en-US");
const short = (value) => (value === 0 ? "0" : Math.abs(value) >= 1000 || Math.abs(value) < 0.001 ? value.toExponential(1) : value.toPrecision(3));
const percent = (share) => {
  const p = 100 * share;
  return (p === 0 ? "0" : p === 100 ? "100" : p >= 10 ? p.toFixed(1) : p >= 0.01 ? p.toPrecision(2) : "<0.01") + " %";
};
