"use strict";
// The page of a gallery. Names come from anywhere: they are set as text, never as markup.
const GALLERY = (() => {
  const by = (id) => document.getElementById(id);
  const waiting = {};  // what a data file gives, by its name: a promise and its ends

  function data(name, content) { waiting[name].done(content); }

  // A page that was opened from a file may load scripts, and nothing else.
  function load(name) {
    if (waiting[name]) return waiting[name].promise;
    const entry = waiting[name] = {};
    entry.promise = new Promise((done, failed) => { entry.done = done; entry.failed = failed; });
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    script.onerror = () => { delete waiting[name]; entry.failed(new Error(`data/${name}.js cannot be read`)); };
    document.head.append(script);
    return entry.promise;
  }

  let all = null;          // data/collection.js
  let count = 0;
  let chosen = null;       // the concept of the tree whose pictures are shown; null for all, -1 for those without answer
  let search = null;       // {text, probability: Float32Array}, or {like, similarity: Map}
  let found = [];          // numbers of the pictures that are shown, in order
  let here = -1;           // place in `found` of the chosen picture
  const opened = new Set();
  let corrections = {};

  function element(tag, name, text) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function button(text, name, act) {
    const made = element("button", name, text);
    made.type = "button";
    made.addEventListener("click", act);
    return made;
  }

  const nodesOf = (number) => all.answers[number].filter((_, place) => place % 2 === 0);
  const sureOf = (number) => { const answer = all.answers[number]; return answer.length ? answer[answer.length - 1] : 0; };
  const nameOf = (number) => all.paths[number].slice(all.paths[number].lastIndexOf("/") + 1);
  const pathOf = (number) => all.prefix + all.paths[number];
  const answerOf = (number) => { const answer = all.answers[number]; return answer.length ? answer[answer.length - 2] : -1; };
  // A byte of a name that is no UTF-8 stands as a lone surrogate.
  const readable = (text) => text.replace(/[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]/g, (one) =>
    one.length === 2 ? one : `\\u${one.charCodeAt(0).toString(16)}`);

  function thumb(number) {
    const key = all.thumbs[number];
    return `thumbs/${all.edge}/${key.slice(0, 2)}/${key}.jpg`;
  }

  // -- questions ----------------------------------------------------------------------------------------------------

  let below = null;  // the concepts below each one
  function classesOf(concept) {
    if (!below) {
      below = all.wnids.map(() => []);
      all.parents.forEach((parents, child) => parents.forEach((parent) => below[parent].push(child)));
    }
    const inside = new Uint8Array(all.classes);
    const seen = new Set([concept]);
    const todo = [concept];
    while (todo.length) {
      const one = todo.pop();
      if (one < all.classes) inside[one] = 1;
      for (const child of below[one]) if (!seen.has(child)) { seen.add(child); todo.push(child); }
    }
    return inside;
  }

  const fold = (text) => text.replaceAll("_", " ").toLowerCase().split(/\s+/).filter(Boolean).join(" ");

  function meaning(words, text) {
    const wnid = all.wnids.indexOf(text.trim());
    if (wnid >= 0) return {concept: wnid, note: ""};
    const word = fold(text);
    const forms = [word];
    for (const [old, fresh] of words.endings) {
      if (word.endsWith(old) && word.length > old.length) forms.push(word.slice(0, -old.length) + fresh);
    }
    const form = forms.find((one) => Object.hasOwn(words.words, one));
    if (form === undefined) throw new Error(`“${text}” is no noun that has pictures of its own here.${near(words, word)}`);
    const [concept, ...others] = words.words[form];
    const said = (one) => `${all.names[one]}${words.glosses[one] ? `: ${words.glosses[one]}` : ""}`;
    if (concept < 0) {
      const choices = others.map((one) => [said(one), all.wnids[one]]);
      throw Object.assign(new Error(`“${text}” has several meanings, each with a wnid:`), {choices});
    }
    return {concept, note: others.length ? `“${text}” is read as ${said(concept)}.` : ""};
  }

  function near(words, word) {
    const start = Object.keys(words.words).filter((one) => one.startsWith(word.slice(0, 3))).slice(0, 4);
    return start.length && word.length > 2 ? ` Near: ${start.join(", ")}.` : "";
  }

  // or binds less than and, and less than not; no brackets.
  function understood(words, text) {
    const notes = [];
    const total = new Uint8Array(all.classes);
    const hidden = new Set(all.hidden);
    for (const part of text.split(/\s+or\s+|\s*\|\s*/i)) {
      const inside = new Uint8Array(all.classes).fill(1);
      for (const item of part.split(/\s+and\s+|\s*&\s*|\s+(?=not\s)/i)) {
        const [, not, noun] = item.trim().match(/^((?:not\s+|!\s*)?)(.*)$/is);
        if (!noun) throw new Error(`The question “${text}” lacks a noun.`);
        const read = meaning(words, noun.replace(/^"(.*)"$/, "$1"));
        if (read.note) notes.push(read.note);
        const own = classesOf(read.concept);
        for (let at = 0; at < inside.length; at++) inside[at] &= not ? !own[at] && !hidden.has(at) : own[at];
      }
      for (let at = 0; at < total.length; at++) total[at] |= inside[at];
    }
    return {classes: total, notes};
  }

  function bytes(text, Kind) {
    const raw = atob(text);
    const found = new Uint8Array(raw.length);
    for (let at = 0; at < raw.length; at++) found[at] = raw.charCodeAt(at);
    return new Kind(found.buffer);
  }

  let halves = null;  // half floats as numbers
  function halfOf(bits) {
    if (!halves) {
      halves = new Float32Array(0x7c01);
      for (let at = 0; at <= 0x7c00; at++) {
        const exponent = at >> 10, fraction = at & 0x3ff;
        halves[at] = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * fraction / 1024;
      }
    }
    return halves[bits];
  }

  const unpacked = {};
  async function masses(chunk) {
    if (unpacked[chunk]) return unpacked[chunk];
    const packed = await load(`masses-${chunk}`);
    const Kind = packed.wide === "<u2" ? Uint16Array : Uint32Array;
    return unpacked[chunk] = {
      counts: bytes(packed.counts, Kind), classes: bytes(packed.classes, Kind),
      values: Float32Array.from(bytes(packed.probabilities, Uint16Array), halfOf), rest: bytes(packed.rest, Float32Array),
    };
  }

  async function probability(classes) {
    const result = new Float32Array(count);
    const counted = new Uint8Array(all.classes).fill(1);
    for (const one of all.uncounted) counted[one] = 0;
    let asked = 0;
    for (let at = 0; at < counted.length; at++) asked += classes[at] && counted[at];
    for (let chunk = 0; chunk * all.chunk < count; chunk++) {
      const part = await masses(chunk);
      let at = 0;
      part.counts.forEach((kept, row) => {
        let sum = 0, largest = 0, others = asked;
        for (const end = at + kept; at < end; at++) {
          const one = part.classes[at];
          if (!classes[one]) continue;
          largest = Math.max(largest, part.values[at]);
          if (counted[one]) { sum += part.values[at]; others--; }
        }
        const value = all.head === "sigmoid" ? largest : sum + others * part.rest[row];
        result[chunk * all.chunk + row] = Math.min(1, Math.max(0, value));
      });
    }
    return result;
  }

  let asking = 0;
  async function ask(text) {
    const number = ++asking;
    by("query").value = text;
    if (!text.trim()) { search = null; note(""); return refresh(); }
    note("…");
    try {
      const words = await load("words");
      const {classes, notes} = understood(words, text);
      const values = await probability(classes);
      if (number !== asking) return;
      chosen = null;
      search = {text, probability: values};
      note(notes.join(" "));
      refresh();
    } catch (error) {
      if (number === asking) note(error.message, true);
      for (const [said, wnid] of (number === asking && error.choices) || []) by("said").append(button(said, "", () => ask(wnid)));
    }
  }

  async function similar(number) {
    const mine = ++asking;
    const chunk = Math.floor(number / all.chunk);
    try {
      const pairs = (await load(`near-${chunk}`))[number - chunk * all.chunk];
      if (mine !== asking) return;
      const similarity = new Map([[number, 1]]);
      for (let at = 0; at < pairs.length; at += 2) similarity.set(pairs[at], pairs[at + 1]);
      by("query").value = "";
      chosen = null;
      search = {like: number, similarity};
      note(`Similar to ${readable(nameOf(number))}`);
      refresh();
    } catch (error) { note(error.message, true); }
  }

  function note(text, failed) {
    by("said").className = failed ? "error" : "";
    by("said").textContent = text;
  }

  function everything() {
    asking++;
    search = null;
    chosen = null;
    by("query").value = "";
    note("");
    refresh();
  }

  // -- what is shown ------------------------------------------------------------------------------------------------

  const valueOf = (number) => search && search.probability ? search.probability[number]
    : search && search.like !== undefined ? search.similarity.get(number) : sureOf(number);

  function candidates() {
    const least = +by("sure").value;
    const numbers = [];
    for (let number = 0; number < count; number++) {
      if (search && search.like !== undefined) { if (search.similarity.has(number)) numbers.push(number); continue; }
      const unsure = !search && !all.answers[number].length;  // stands under "not sure enough" whatever the slider says
      if (unsure || valueOf(number) >= least - 1e-6) numbers.push(number);
    }
    return numbers;
  }

  const orders = {
    sure: (a, b) => valueOf(b) - valueOf(a) || a - b,
    unsure: (a, b) => valueOf(a) - valueOf(b) || a - b,
    name: (a, b) => (all.paths[a] < all.paths[b] ? -1 : all.paths[a] > all.paths[b] ? 1 : 0),
  };

  function refresh() {
    const before = here >= 0 ? found[here] : -1;
    const numbers = candidates();
    drawTree(numbers);
    const within = chosen === null ? numbers
      : numbers.filter((number) => chosen < 0 ? !all.answers[number].length : nodesOf(number).includes(chosen));
    found = within.sort(search && search.like !== undefined ? orders.sure : orders[by("order").value]);
    here = before >= 0 ? found.indexOf(before) : -1;
    by("empty").hidden = found.length > 0;
    by("empty").textContent = count ? "No picture is as sure as that. The slider asks for less." : "The index is empty.";
    by("scroll").scrollTop = 0;
    layout();
    if (here < 0) hideDetail(); else drawDetail();
    say();
  }

  function say() {
    const within = chosen === null ? "" : chosen < 0 ? ", not sure enough" : `, ${all.names[chosen]}`;
    by("counted").textContent = `${found.length.toLocaleString("en")} of ${count.toLocaleString("en")} pictures${within}`;
    by("all").hidden = !search && chosen === null;
  }

  function drawTree(numbers) {
    const counts = new Map();
    const children = new Map();
    let unsure = 0;
    for (const number of numbers) {
      const nodes = nodesOf(number);
      if (!nodes.length) unsure++;
      nodes.forEach((node, place) => {
        counts.set(node, (counts.get(node) || 0) + 1);
        const above = place ? nodes[place - 1] : -1;
        if (!children.has(above)) children.set(above, new Set());
        children.get(above).add(node);
      });
    }
    const lines = [];
    const line = (node, text, amount, depth, inner) => {
      const row = element("div", `node${chosen === node ? " chosen" : ""}`);
      row.style.paddingLeft = `${depth * 14}px`;
      const fold_ = button(inner ? (opened.has(node) ? "▾" : "▸") : "", "open", () => {
        if (opened.has(node)) opened.delete(node); else opened.add(node);
        drawTree(numbers);
      });
      fold_.disabled = !inner;
      fold_.setAttribute("aria-label", opened.has(node) ? `Close ${text}` : `Open ${text}`);
      if (inner) fold_.setAttribute("aria-expanded", opened.has(node)); else fold_.setAttribute("aria-hidden", "true");
      const name = button("", "name", () => {
        chosen = node;
        if (node !== null && node >= 0) opened.add(node);
        by("tree").classList.remove("open");
        by("menu").setAttribute("aria-expanded", "false");
        if (!search) note("");
        refresh();
      });
      name.append(element("span", "", text), element("span", "", amount.toLocaleString("en")));
      name.title = text;
      row.append(fold_, name);
      lines.push(row);
    };
    line(null, "everything", numbers.length, 0, false);
    const walk = (above, depth) => {
      const inside = [...(children.get(above) || [])];
      inside.sort((a, b) => counts.get(b) - counts.get(a) || (all.names[a] < all.names[b] ? -1 : 1));
      for (const node of inside) {
        line(node, all.names[node], counts.get(node), depth, children.has(node));
        if (opened.has(node)) walk(node, depth + 1);
      }
    };
    walk(-1, 0);
    if (unsure) line(-1, "not sure enough", unsure, 0, false);
    by("tree").replaceChildren(...lines);
  }

  // -- the grid: only what is near the window exists ----------------------------------------------------------------

  const cells = new Map();
  let columns = 1, size = 180, tall = 180;
  const WORDS = 42;

  function layout() {
    const width = by("grid").clientWidth;
    columns = Math.max(2, Math.floor(width / 175));
    size = width / columns;
    tall = Math.round(size * 0.85) + WORDS;
    by("grid").style.height = `${Math.ceil(found.length / columns) * tall}px`;
    for (const cell of cells.values()) cell.remove();
    cells.clear();
    draw();
  }

  function draw() {
    const top = by("scroll").scrollTop, height = by("scroll").clientHeight;
    const first = Math.max(0, Math.floor(top / tall) - 2) * columns;
    const end = Math.min(found.length, (Math.ceil((top + height) / tall) + 2) * columns);
    for (const [place, cell] of cells) if (place < first || place >= end) { cell.remove(); cells.delete(place); }
    const fresh = [];
    for (let place = first; place < end; place++) {
      if (cells.has(place)) continue;
      const cell = made(place);
      cells.set(place, cell);
      fresh.push(cell);
    }
    by("grid").append(...fresh);
  }

  function made(place) {
    const number = found[place];
    const cell = element("div", `cell${place === here ? " here" : ""}`);
    cell.style.width = `${size}px`;
    cell.style.height = `${tall}px`;
    cell.style.transform = `translate(${(place % columns) * size}px, ${Math.floor(place / columns) * tall}px)`;
    cell.setAttribute("role", "option");
    cell.setAttribute("aria-selected", place === here);
    cell.addEventListener("click", () => { go(place); drawDetail(); });
    const card = element("div");
    const frame = element("div", "frame");
    if (all.errors[number] !== undefined) {
      frame.append(element("div", "broken", all.errors[number]));
    } else {
      const image = element("img");
      image.alt = readable(nameOf(number));
      image.decoding = "async";
      image.src = thumb(number);
      image.addEventListener("error", () => image.replaceWith(element("div", "broken", "no thumbnail")));
      frame.append(image);
    }
    const correction = corrections[pathOf(number)];
    if (correction) frame.append(mark(correction));
    const words = element("div", "words");
    const line = element("div");
    const answer = answerOf(number);
    const said = answer < 0 ? "not sure enough" : all.names[answer];
    const asked = search && (search.text || "alike");  // then the number is of the question, not of the answer
    line.append(element("span", "", asked || said));
    line.append(element("span", "number", answer < 0 && !asked ? "" : valueOf(number).toFixed(2)));
    words.append(line, element("div", "file", `${asked ? `${said} · ` : ""}${readable(nameOf(number))}`));
    words.title = readable(pathOf(number));
    card.append(frame, words);
    cell.append(card);
    return cell;
  }

  function mark(correction) {
    const text = correction.verdict === "is" ? `is ${correction.name}` : correction.verdict;
    return element("span", `mark ${correction.verdict}`, text);
  }

  function redraw(number) {
    for (const [place, cell] of cells) {
      if (found[place] !== number) continue;
      const fresh = made(place);
      cell.replaceWith(fresh);
      cells.set(place, fresh);
    }
  }

  function go(place) {
    if (!found.length) return;
    const before = here;
    here = Math.min(found.length - 1, Math.max(0, place));
    const top = Math.floor(here / columns) * tall;
    const view = by("scroll");
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + tall > view.scrollTop + view.clientHeight) view.scrollTop = top + tall - view.clientHeight;
    draw();
    for (const one of [before, here]) {
      const cell = cells.get(one);
      if (cell) { cell.classList.toggle("here", one === here); cell.setAttribute("aria-selected", one === here); }
    }
    if (!by("detail").hidden) drawDetail();
  }

  // -- one picture --------------------------------------------------------------------------------------------------

  function hideDetail() {
    if (by("detail").hidden) return;
    by("detail").hidden = true;
    layoutAt();
  }

  function layoutAt() {  // keeps the chosen picture in sight when the width changes
    layout();
    if (here >= 0) go(here);
  }

  function entries(pairs) {
    const list = element("ol");
    for (let at = 0; at < pairs.length; at += 2) {
      const item = element("li"), line = element("div"), bar = element("div", "bar"), fill = element("i");
      line.append(element("span", "", all.names[pairs[at]]), element("span", "number", pairs[at + 1].toFixed(3)));
      fill.style.width = `${100 * pairs[at + 1]}%`;
      bar.append(fill);
      item.append(line, bar);
      list.append(item);
    }
    return list;
  }

  function drawDetail() {
    const number = found[here];
    const panel = by("detail");
    const parts = [button("✕", "close", hideDetail)];
    parts[0].setAttribute("aria-label", "Close");
    if (all.errors[number] === undefined) {
      const image = element("img", "shown");
      image.src = thumb(number);
      image.alt = readable(nameOf(number));
      parts.push(image);
    }
    const path = element("p", "path");
    if (all.links[number] === null) path.append(readable(pathOf(number)));
    else {
      const link = element("a", "", readable(pathOf(number)));
      link.href = all.links[number];
      link.target = "_blank";
      link.rel = "noopener";
      path.append(link);
    }
    const [width, height] = all.sizes[number];
    const facts = [width && `${width} × ${height}`, all.captured[number]].filter(Boolean).join(", ");
    if (facts) path.append(element("div", "soft", facts));
    parts.push(path);
    const correction = corrections[pathOf(number)];
    const verdicts = element("div", "verdicts");
    const choices = answerOf(number) < 0 ? [] : [["Right", "right"], ["Wrong", "wrong"]];
    for (const [text, verdict] of choices) {
      const one = button(text, verdict, () => correct(verdict));
      one.setAttribute("aria-pressed", Boolean(correction && correction.verdict === verdict));
      verdicts.append(one);
    }
    verdicts.append(button("Similar", "", () => similar(number)));
    if (correction) verdicts.append(button("Undo", "", takeBack));
    const form = element("form");
    form.id = "this";
    const noun = element("input");
    noun.type = "text";
    noun.placeholder = "it is … (a noun)";
    noun.setAttribute("aria-label", "It is this");
    noun.setAttribute("list", "nouns");
    noun.autocomplete = "off";
    if (correction && correction.verdict === "is") noun.value = correction.name;
    noun.addEventListener("input", () => suggest(noun.value));
    const save = element("button", "", "Save");
    form.append(noun, save);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (!noun.value.trim()) return;
      try {
        const read = meaning(await load("words"), noun.value);
        by("scroll").focus();
        correct("is", read.concept);
        note(read.note);
      } catch (error) {
        note(error.message, true);
        for (const [said, wnid] of error.choices || []) {
          by("said").append(button(said, "", () => { noun.value = wnid; form.requestSubmit(); }));
        }
      }
    });
    parts.push(verdicts, form);
    parts.push(element("h2", "", "Answer"));
    parts.push(all.answers[number].length ? entries(all.answers[number])
      : element("p", "soft", all.errors[number] || "Nothing is sure enough."));
    if (all.top[number].length) parts.push(element("h2", "", "Most probable classes"), entries(all.top[number]));
    const alike = element("div", "near");
    parts.push(element("h2", "", "Similar pictures"), alike);
    panel.replaceChildren(...parts);
    const opening = panel.hidden;
    panel.hidden = false;
    if (opening) layoutAt();
    const chunk = Math.floor(number / all.chunk);
    load(`near-${chunk}`).then((near) => {
      const pairs = near[number - chunk * all.chunk];
      for (let at = 0; at < pairs.length && at < 16; at += 2) {
        const other = pairs[at];
        const one = button("", "", () => {
          if (!found.includes(other)) everything();
          const place = found.indexOf(other);
          if (place >= 0) { go(place); drawDetail(); } else similar(number);
        });
        const image = element("img");
        image.src = thumb(other);
        image.alt = readable(nameOf(other));
        one.title = `${pairs[at + 1].toFixed(2)}  ${readable(nameOf(other))}`;
        one.append(image);
        alike.append(one);
      }
      if (!pairs.length) alike.replaceWith(element("p", "soft", "None."));
    }, (error) => note(error.message, true));
  }

  // -- corrections --------------------------------------------------------------------------------------------------

  const key = () => `miil21k-gallery-${all.id}`;

  let sending = Promise.resolve();  // one after the other: the last word about a picture is the one that counts

  async function post(correction) {
    const headers = {"Content-Type": "application/json"};
    try {
      const answer = await fetch("corrections", {method: "POST", headers, body: JSON.stringify(correction)});
      if (!answer.ok) throw new Error((await answer.json()).error);
    } catch (error) { note(`The correction was not saved: ${error.message}`, true); }
  }

  function remember(path) {
    by("corrected").textContent = Object.keys(corrections).length.toLocaleString("en");
    if (all.live) {
      const sent = corrections[path] || {path, verdict: "undo"};
      sending = sending.then(() => post(sent));
      return;
    }
    try { localStorage.setItem(key(), JSON.stringify(corrections)); } catch (error) {
      note("This browser saves nothing for pages that lie in files: download the corrections before you close it.", true);
    }
  }

  function correct(verdict, concept) {
    if (here < 0) return;
    const number = found[here], answer = answerOf(number);
    if (verdict !== "is" && answer < 0) return note("Nothing was answered here: say what it is (t).", true);
    const label = verdict === "is" ? concept : verdict === "right" ? answer : -1;
    corrections[pathOf(number)] = {
      path: pathOf(number), label: label < 0 ? "" : all.wnids[label], verdict, name: label < 0 ? "" : all.names[label],
      answer: answer < 0 ? "" : all.wnids[answer], time: new Date().toISOString(),
    };
    remember(pathOf(number));
    redraw(number);
    if (!by("detail").hidden) drawDetail();
  }

  function takeBack() {
    if (here < 0) return;
    const number = found[here];
    delete corrections[pathOf(number)];
    remember(pathOf(number));
    redraw(number);
    if (!by("detail").hidden) drawDetail();
  }

  function csv(rows) {
    const titles = ["path", "label", "verdict", "name", "answer", "time"];
    const cell = (text) => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    return [titles, ...rows.map((row) => titles.map((title) => readable(row[title] || "")))]
      .map((row) => row.map(cell).join(",") + "\n").join("");
  }

  const exports_ = {
    csv: (rows) => [csv(rows), "text/csv"],
    json: (rows) => [JSON.stringify(rows, null, 1) + "\n", "application/json"],
  };

  function download(kind) {
    const rows = Object.keys(corrections).sort().map((path) => corrections[path]);
    const [text, type] = exports_[kind](rows);
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([text], {type}));
    link.download = `corrections.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  async function suggest(text) {
    const like = fold(text.replace(/^.*\b(and|or|not)\s+/i, ""));
    const before = text.slice(0, text.length - text.replace(/^.*\b(and|or|not)\s+/i, "").length);
    if (like.length < 2) return by("nouns").replaceChildren();
    const words = Object.keys((await load("words")).words).filter((word) => word.startsWith(like));
    words.sort((a, b) => a.length - b.length || (a < b ? -1 : 1));
    by("nouns").replaceChildren(...words.slice(0, 12).map((word) => {
      const option = element("option");
      option.value = before + word;
      return option;
    }));
  }

  // -- keys and knobs -----------------------------------------------------------------------------------------------

  function escape_() {
    if (!by("keys").hidden) by("keys").hidden = true;
    else if (!by("exports").hidden) toggle("exports", "corrections");
    else if (by("tree").classList.contains("open")) by("menu").click();
    else if (!by("detail").hidden) hideDetail();
    else everything();
  }

  function toggle(id, opener) {
    by(id).hidden = !by(id).hidden;
    by(opener).setAttribute("aria-expanded", !by(id).hidden);
  }

  const page = () => Math.max(1, Math.floor(by("scroll").clientHeight / tall)) * columns;
  const keys = {
    ArrowLeft: () => go(here - 1), ArrowRight: () => go(here + 1),
    ArrowUp: () => go(here - columns), ArrowDown: () => go(here < 0 ? 0 : here + columns),
    PageUp: () => go(here - page()), PageDown: () => go(here + page()), Home: () => go(0), End: () => go(found.length - 1),
    Enter: () => { if (here < 0) return; if (by("detail").hidden) drawDetail(); else hideDetail(); },
    r: () => correct("right"), w: () => correct("wrong"), u: takeBack,
    t: () => { if (here < 0) return; drawDetail(); by("this").querySelector("input").focus(); },
    s: () => { if (here >= 0) similar(found[here]); },
    "/": () => by("query").focus(), "?": () => { by("keys").hidden = !by("keys").hidden; },
  };

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input, select");
    if (event.key === "Escape") { if (typing) typing.blur(); else escape_(); return; }
    if (typing || (event.key === "Enter" && event.target.closest("button, a"))) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  async function start() {
    try { all = await load("collection"); } catch (error) { return note(error.message, true); }
    count = all.paths.length;
    document.title = by("title").textContent = readable(all.title);
    if (all.live) {
      try { corrections = await (await fetch("corrections")).json(); } catch (error) { note("The saved corrections cannot be read.", true); }
    } else {
      try { corrections = JSON.parse(localStorage.getItem(key()) || "{}"); } catch (error) { corrections = {}; }
    }
    by("corrected").textContent = Object.keys(corrections).length.toLocaleString("en");
    by("storage").textContent = all.live ? "They are saved beside the index." : "They are saved in this browser. Download them for miil21k labels --corrections.";
    by("search").addEventListener("submit", (event) => { event.preventDefault(); ask(by("query").value); by("query").blur(); });
    by("query").addEventListener("input", () => { if (by("query").value) suggest(by("query").value); else everything(); });
    by("sure").addEventListener("input", () => { by("surevalue").textContent = (+by("sure").value).toFixed(2); refresh(); });
    by("order").addEventListener("change", refresh);
    by("menu").addEventListener("click", () => {
      by("menu").setAttribute("aria-expanded", by("tree").classList.toggle("open"));
    });
    by("corrections").addEventListener("click", () => toggle("exports", "corrections"));
    by("all").addEventListener("click", everything);
    by("help").addEventListener("click", () => { by("keys").hidden = !by("keys").hidden; });
    for (const one of document.querySelectorAll("[data-export]")) one.addEventListener("click", () => download(one.dataset.export));
    let drawn = false;
    by("scroll").addEventListener("scroll", () => {
      if (drawn) return;
      drawn = true;
      requestAnimationFrame(() => { drawn = false; draw(); });
    }, {passive: true});
    let width = 0;
    new ResizeObserver(() => { if (by("scroll").clientWidth !== width) { width = by("scroll").clientWidth; layoutAt(); } else draw(); }).observe(by("scroll"));
    document.addEventListener("keydown", pressed);
    refresh();
    document.body.dataset.ready = "yes";
    const {hash} = location;
    if (hash.startsWith("#q=")) ask(decodeURIComponent(hash.slice(3)));
  }

  // `data` is called before the promise of `start` has gone on, never before `load`.
  queueMicrotask(start);
  return {data};
})();
