// The page: takes pictures and questions, hands pictures to worker.mjs, and shows what it answers.
const by = (id) => document.getElementById(id);
const worker = new Worker("worker.mjs", { type: "module" });
let site = null; // what the model is, when it has been read
let labels = null; // wnids, names, words and the hypernym of each concept
let named = null; // a noun -> the concepts that it names
let questions = []; // concepts that are asked for, the newest first
let picture = null;
let shown = null; // the object URL of the preview
let last = 0; // the number of the last question to the worker; older answers are not shown
let found = null; // the last answer

// Names come from anywhere: text only, never markup.
function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

const percent = (p) => (p > 0.999 ? "> 99.9 %" : p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`);

function entry(name, p, more) {
  const item = element("li");
  const row = element("div", "row");
  const label = element("span", "label", name);
  if (more) label.append(" ", element("span", "soft", more));
  row.append(label, element("span", "number", p === null ? "" : percent(p)));
  const bar = element("div", "bar");
  const fill = element("i");
  fill.style.width = p === null ? "0" : `${Math.max(0.5, 100 * p)}%`;
  bar.append(fill);
  item.append(row, bar);
  return item;
}

const fold = (text) => text.toLowerCase().replaceAll("_", " ").trim().replace(/\s+/g, " ");

// What tells a concept from others of its name: the concept above it.
function meaning(concept) {
  const above = labels.above[concept];
  const alone = (named.get(fold(labels.names[concept])) || []).length < 2;
  return alone || above < 0 ? "" : `a kind of ${labels.names[above] || labels.wnids[above]}`;
}

function showPath() {
  const nodes = [...found.path].filter((node) => node >= 0);
  const answer = found.hedge_node[0];
  const end = nodes.indexOf(answer);
  by("said").textContent = answer < 0 ? "I am not sure enough to say." : labels.names[answer];
  by("path").replaceChildren(...nodes.map((node, at) => {
    const item = entry(labels.names[node], found.path_prob[at], "");
    item.className = at === end ? "end" : at > end ? "unsure" : "";
    item.title = labels.wnids[node];
    return item;
  }));
}

function showQuestions() {
  by("asked").replaceChildren(...questions.map((concept) => {
    const p = found ? found.concepts[concept] : null;
    const item = entry(labels.names[concept], p, meaning(concept));
    item.title = labels.wnids[concept];
    if (p !== null) {
      const sure = p >= found.hedge ? "yes" : p <= 1 - found.hedge ? "no" : "not sure";
      item.querySelector(".number").prepend(element("span", sure === "yes" ? "yes" : "", sure), " · ");
    }
    return item;
  }));
}

function show(answer) {
  found = answer;
  by("start").hidden = by("failure").hidden = true;
  by("answer").hidden = by("classes").hidden = false;
  showPath();
  showQuestions();
  by("labels").hidden = !site.bins.length;
  by("bins").replaceChildren(...site.bins.map((name, at) => entry(name, found.bins[at], "")));
  const classes = [...found.topk_index].map((node, at) => [node, found.topk_prob[at]]).filter(([node]) => node >= 0);
  by("top").replaceChildren(...classes.map(([node, p]) => entry(labels.names[node], p, meaning(node))));
  by("about").textContent = `${about()} · answered in ${found.ms.toFixed(0)} ms.`;
}

function about() {
  const sure = site.calibrated ? "calibrated" : "uncalibrated";
  const classes = `${site.num_classes.toLocaleString("en")} classes of ${site.label_space}`;
  return `${site.model}, ${site.precision}, ${classes}, ${sure}, weights: ${site.licence}`;
}

function fail(text) {
  found = null;
  by("start").hidden = by("answer").hidden = by("classes").hidden = by("labels").hidden = true;
  by("failure").hidden = false;
  by("failure").textContent = text;
  if (labels) showQuestions();
}

// Without `anew` the last picture is answered again, at another level.
function ask(anew) {
  if (!picture || !site) return; // asked when the model is there
  by("busy").className = "on";
  worker.postMessage({ id: ++last, hedge: +by("hedge").value, ...(anew ? { picture } : {}) });
}

function choose(file) {
  if (!file) return;
  picture = file;
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  by("picture").src = shown;
  by("picture").hidden = false;
  by("icon").style.display = "none";
  by("hint").textContent = "Drop, paste or choose another one";
  by("name").textContent = file.name || "";
  ask(true);
}

worker.addEventListener("message", ({ data }) => {
  if (data.progress) {
    const share = data.progress.got / data.progress.all;
    by("progress").style.width = `${100 * share}%`;
    by("loaded").textContent = share < 1 ? `Loading the model: ${(100 * share).toFixed(0)} %` : "Starting the model …";
  } else if (data.ready) {
    ready(data.ready);
  } else if (data.failed) {
    by("loaded").textContent = "The model could not be loaded.";
    fail(data.failed);
  } else if (data.id === last) {
    by("busy").className = "";
    // Scripts that look at the page, tests among them, may listen: what the graph answered, or { error }.
    document.dispatchEvent(new CustomEvent("answer", { detail: data.error ? { error: data.error } : data.answer }));
    if (data.error) fail(data.error);
    else show(data.answer);
  }
});
worker.addEventListener("error", (event) => {
  by("loaded").textContent = "The model could not be loaded.";
  fail(`${event.message || "The model could not be loaded."} A browser of 2023 or later is needed, and a web server.`);
});

function ready(now) {
  ({ site, labels } = now);
  named = new Map();
  labels.words.forEach((words, concept) => {
    for (const word of words ? words.split("|") : []) {
      const meanings = named.get(fold(word)) || [];
      if (!meanings.length) named.set(fold(word), meanings);
      meanings.push(concept);
    }
  });
  questions = site.questions;
  by("loading").hidden = true;
  by("hedge").min = Math.min(0.5, site.hedge);
  by("hedge").value = site.hedge;
  by("hedge").dispatchEvent(new Event("input"));
  by("about").textContent = `${about()}.`;
  showQuestions();
  ask(true);
}

by("file").addEventListener("change", (event) => choose(event.target.files[0]));
by("photograph").addEventListener("change", (event) => choose(event.target.files[0]));
by("camera").hidden = !matchMedia("(pointer: coarse)").matches; // phones and tablets
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    by("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") choose(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
// A picture that cannot be shown has no preview; the worker says what is wrong with it.
by("picture").addEventListener("error", () => { by("picture").hidden = true; by("icon").style.display = ""; });

by("hedge").addEventListener("input", () => { by("hedgevalue").textContent = percent(+by("hedge").value); });
by("hedge").addEventListener("change", () => ask(false));

by("ask").addEventListener("input", () => {
  const like = fold(by("ask").value);
  if (!like || !named) return by("nouns").replaceChildren();
  const words = [...named.keys()].filter((word) => word.includes(like));
  const rank = (word) => (word === like ? 0 : word.startsWith(like) ? 1 : 2);
  words.sort((a, b) => rank(a) - rank(b) || a.length - b.length || (a < b ? -1 : 1));
  by("nouns").replaceChildren(...words.slice(0, 12).map((word) => {
    const option = element("option");
    option.value = word;
    return option;
  }));
});
by("ask").addEventListener("change", () => {
  const word = fold(by("ask").value).replace(/^(is there )?(an?|the) /, "").replace(/\?$/, "").trim();
  if (!word || !named) return;
  // A plural is looked up as it stands first: glasses are not a glass.
  const meanings = named.get(word) || named.get(word.replace(/s$/, "")) || [];
  by("unknown").hidden = meanings.length > 0;
  by("unknown").textContent = `The model knows no "${word}": try a more general noun.`;
  if (!meanings.length) return;
  questions = [...meanings, ...questions.filter((concept) => !meanings.includes(concept))].slice(0, 12);
  by("ask").value = "";
  showQuestions();
});

if ("serviceWorker" in navigator) navigator.serviceWorker.register("service-worker.js").catch(() => {});
