// Keeps the page for use without a network. The large files come to the same store when worker.mjs has read them.
"use strict";
const STORE = "miil21k-@VERSION@";
const PAGE = ["./", "index.html", "page.css", "page.mjs", "worker.mjs", "site.json", "ort.wasm.bundle.min.mjs", "manifest.webmanifest", "icon.svg"];

self.addEventListener("install", (event) => {
  const fresh = PAGE.map((name) => new Request(name, { cache: "no-cache" }));
  event.waitUntil(caches.open(STORE).then((store) => store.addAll(fresh)).then(() => self.skipWaiting()));
});

// Stores of other sites of this host bear other names, or lie below another scope: only our own old ones go.
self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name === STORE || !name.startsWith("miil21k-")) continue;
      const held = await (await caches.open(name)).keys();
      if (held.every((request) => request.url.startsWith(self.registration.scope))) await caches.delete(name);
    }
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || !event.request.url.startsWith(self.registration.scope)) return;
  event.respondWith((async () => {
    const store = await caches.open(STORE);
    return (await store.match(event.request, { ignoreSearch: true })) || fetch(event.request);
  })());
});
