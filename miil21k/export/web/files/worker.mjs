// Reads the model once and answers for pictures, beside the page, which stays quick meanwhile.
//   from the page: { picture: Blob, hedge, id }, or { hedge, id } for the last picture again
//   to the page:   { progress: { got, all } }, { ready: { site, labels } }, { id, answer }, { id, error }
import * as ort from "./ort.wasm.bundle.min.mjs";

const site = await (await fetch("site.json")).json();
// Only https and localhost have a store; elsewhere the browser's own cache has to do.
const store = self.caches ? await caches.open(`miil21k-${site.version}`) : null;
const all = Object.values(site.bytes).reduce((a, b) => a + b, 0);
let got = 0;

// The bytes of NAME.gz. A server may send it as gzip content, which fetch has taken apart then.
async function unpacked(name) {
  const address = new URL(`${name}.gz`, self.location.href).href;
  let response = store && (await store.match(address));
  if (!response) {
    response = await fetch(address);
    if (!response.ok) throw new Error(`${name}.gz did not come: the server says ${response.status}.`);
    if (store) await store.put(address, response.clone()).catch(() => {}); // a full disk costs only the next visit
  }
  const [start, body] = response.body.tee();
  const reader = start.getReader();
  const first = (await reader.read()).value || [];
  reader.cancel();
  const packed = first[0] === 0x1f && first[1] === 0x8b;
  const stream = packed ? body.pipeThrough(new DecompressionStream("gzip")) : body;
  const raw = new Uint8Array(site.bytes[name]);
  const rest = stream.getReader();
  let at = 0;
  for (let read = await rest.read(); !read.done; read = await rest.read()) {
    if (at + read.value.length <= raw.length) raw.set(read.value, at);
    at += read.value.length;
    got += read.value.length;
    self.postMessage({ progress: { got, all } });
  }
  if (at !== raw.length) {
    if (store) await store.delete(address);
    throw new Error(`${name}.gz is not the one of this page: load the page again.`);
  }
  return raw;
}

// RGB pixels as the graph takes them: upright, on white, without colour profiles, as miil21k-predict reads pictures.
// Large ones are halved as long as no side falls below twice the edge of the resize, as JPEGs are there.
async function pixelsOf(blob) {
  const how = { imageOrientation: "from-image", colorSpaceConversion: "none" };
  let source = await createImageBitmap(blob, how).catch(() => {
    throw new Error("This file is no picture that the browser can open.");
  });
  let [left, top, width, height] = [0, 0, source.width, source.height];
  if (site.crop === "center") {
    // Only the middle is seen: of a strip, twice its width is enough.
    const most = 2 * Math.min(width, height);
    if (width > most) { const cut = (width - most) >> 1; left = cut; width -= 2 * cut; }
    if (height > most) { const cut = (height - most) >> 1; top = cut; height -= 2 * cut; }
  }
  for (;;) {
    const half = Math.min(width, height) >= 2 * site.decode_edge;
    const [across, down] = half ? [Math.ceil(width / 2), Math.ceil(height / 2)] : [width, height];
    const canvas = new OffscreenCanvas(across, down);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "low"; // bilinear: at a half, the mean of four pixels
    context.fillStyle = "#fff";
    context.fillRect(0, 0, across, down);
    context.drawImage(source, left, top, width, height, 0, 0, across, down);
    if (!half) {
      const rgba = context.getImageData(0, 0, across, down).data;
      const rgb = new Uint8Array(3 * across * down);
      for (let from = 0, to = 0; from < rgba.length; from += 4) {
        rgb[to++] = rgba[from];
        rgb[to++] = rgba[from + 1];
        rgb[to++] = rgba[from + 2];
      }
      return new ort.Tensor("uint8", rgb, [1, down, across, 3]);
    }
    [source, left, top, width, height] = [canvas, 0, 0, across, down];
  }
}

let session = null;
let images = null; // of the last picture

async function answer({ picture, hedge }) {
  if (picture) images = await pixelsOf(picture);
  const begun = performance.now();
  const found = await session.run({ images, hedge: new ort.Tensor("float32", [hedge], []) });
  const values = {};
  for (const [name, tensor] of Object.entries(found)) values[name] = tensor.data;
  return { ...values, hedge, ms: performance.now() - begun };
}

// Answers come one after the other, in the order of the questions.
let last = start();
self.addEventListener("message", ({ data }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id: data.id, answer: await answer(data) });
    } catch (error) {
      self.postMessage({ id: data.id, error: error.message });
    }
  });
});
last.catch((error) => self.postMessage({ failed: error.message }));

async function start() {
  const [labels, wasm, model] = await Promise.all(
    [site.files.labels, site.files.wasm, site.files.model].map(unpacked),
  );
  ort.env.wasm.numThreads = 1; // more need headers that plain servers do not send
  ort.env.wasm.wasmBinary = wasm;
  session = await ort.InferenceSession.create(model, { logSeverityLevel: 3 });
  self.postMessage({ ready: { site, labels: JSON.parse(new TextDecoder().decode(labels)) } });
}
