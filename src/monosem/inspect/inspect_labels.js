// Labels: those that came with the page and those that are written here, which the browser keeps and a file takes out.

function labelsOf({ header }) {
  const name = `monosem/labels/${header.identity}`, given = header.labels ?? {}, listeners = [];
  let own = {}, kept = true;
  try { own = JSON.parse(localStorage.getItem(name) ?? "{}"); } catch { kept = false; } // a frame without storage
  const of = (j) => (j in own ? own[j] : given[j]) ?? null;
  const every = () => [...new Set([...Object.keys(given), ...Object.keys(own)])].map(Number).sort((a, b) => a - b).filter(of);
  const put = (j, value) => {
    own[j] = value;
    try { localStorage.setItem(name, JSON.stringify(own)); } catch { kept = false; }
  };
  const changed = (latents) => listeners.forEach((listener) => listener(latents));
  return {
    of, every, where: () => (kept ? "kept by this browser" : "not kept when this page is closed: export them"),
    listen: (listener) => listeners.push(listener),
    set: (j, text) => {
      const label = text.trim();
      if (label === (of(j)?.label ?? "")) return;
      put(j, label ? { latent: j, label, judge: "by hand", detection: null, fuzzing: null, passages: 0 } : null);
      changed([j]);
    },
    exported: () => JSON.stringify(Object.fromEntries(every().map((j) => [j, of(j)])), null, 1) + "\n",
    imported: (text) => {
      const entries = Object.entries(JSON.parse(text));
      const right = ([j, value]) => /^\d+$/.test(j) && Number(j) < header.n_q && typeof value?.label === "string";
      if (!entries.every(right)) throw new Error(`this is no file of labels of latents 0 to ${header.n_q - 1}`);
      for (const [j, value] of entries) put(j, { judge: "by hand", detection: null, fuzzing: null, passages: 0, ...value, latent: Number(j) });
      changed(entries.map(([j]) => Number(j)));
      return entries.length;
    },
  };
}

// How many labels there are, where they are kept, and their way out and in.
function labelBar(model) {
  const { labels } = model;
  const said = el("span", {}), choice = el("input", { type: "file", accept: ".json", hidden: true });
  const say = (more = "") => { said.textContent = `${sentence(labels.every().length, "latent")} labelled, ${labels.where()}${more} `; };
  choice.addEventListener("change", async () => {
    try { say(`; ${labels.imported(await choice.files[0].text())} read from ${choice.files[0].name}`); }
    catch (error) { say(`; ${choice.files[0].name} was not read: ${error.message}`); }
    choice.value = "";
  });
  const save = () => {
    const link = el("a", { href: URL.createObjectURL(new Blob([labels.exported()], { type: "application/json" })), download: "labels.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  say();
  const bar = el("p", { class: "note labels" }, said, el("button", { type: "button", onclick: save }, "Export"), " ",
    el("button", { type: "button", onclick: () => choice.click() }, "Import"), choice);
  labels.listen(() => bar.isConnected && say());
  return bar;
}

function labelField(model, latent) {
  const field = el("input", { id: "label", type: "text", maxlength: 300, placeholder: "label: what does it stand for?", "aria-label": `Label of latent ${latent}`, autocomplete: "off", value: model.explained(latent)?.label ?? "" });
  field.addEventListener("change", () => model.labels.set(latent, field.value));
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    model.labels.set(latent, field.value);
    document.getElementById("view").focus();
    event.preventDefault();
    event.stopPropagation();
  });
  return field;
}
