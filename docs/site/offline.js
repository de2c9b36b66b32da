// Keeps the live page, what the book's blocks run with, and Python, so that they load once and work without a network. The build fills in the list.
const version = "VERSION", files = [/* FILES */];
const cacheName = `tinygpt-${version}`;

self.addEventListener("install", (event) => event.waitUntil(caches.open(cacheName).then((cache) => cache.addAll(files)).then(() => self.skipWaiting())));

self.addEventListener("activate", (event) => event.waitUntil(caches.keys()
  .then((names) => Promise.all(names.filter((name) => name.startsWith("tinygpt-") && name !== cacheName).map((name) => caches.delete(name))))
  .then(() => self.clients.claim())));

// What is listed comes from the cache; the book's pages come from the network, and from the cache where there is none.
self.addEventListener("fetch", (event) => {
  const { request } = event, address = new URL(request.url);
  if (request.method !== "GET" || address.origin !== self.location.origin) return;
  const path = address.href.slice(self.registration.scope.length).split(/[?#]/)[0];
  const name = path.endsWith("/") ? `${path}index.html` : path;
  if (files.includes(name)) event.respondWith(caches.match(new URL(name, self.registration.scope).href).then((kept) => kept || fetch(request)));
  else event.respondWith(fetch(request).then((response) => {
    if (response.ok) { const copy = response.clone(); caches.open(cacheName).then((cache) => cache.put(request, copy)); }
    return response;
  }).catch(() => caches.match(request).then((kept) => kept || Response.error())));
});
