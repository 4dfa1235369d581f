/** What outlives a visit: nodes, pictures and open variations in IndexedDB, single values in localStorage. */

let values = {};
try { values = localStorage; } catch {} // storage is switched off

/** Return a single value of an earlier visit, or null. */
export const recall = (name) => JSON.parse(values[`fireedit-studio.${name}`] ?? null);
/** Keep a single value at once, where IndexedDB loses what it has not committed when the page is left. */
export function remember(name, value) {
  try { values[`fireedit-studio.${name}`] = JSON.stringify(value); } catch {} // other pages of this host fill it
}

export class Store {
  /** @type {IDBDatabase | null} null where the browser gives none: nothing is kept then */
  database = null;

  /** Open the database, if there is one; returns the store. */
  async open() {
    try {
      const request = indexedDB.open("fireedit-studio", 2);
      request.onupgradeneeded = ({ target: { result: database } }) => {
        const [kinds, kept] = [["nodes", "blobs", "picks"], [...database.objectStoreNames]];
        for (const kind of kept) if (!kinds.includes(kind)) database.deleteObjectStore(kind);
        for (const kind of kinds) if (!kept.includes(kind)) database.createObjectStore(kind);
      };
      this.database = await settled(request);
    } catch {} // a private window, or storage is switched off
    return this;
  }

  all = (kind) => this.#run(kind, "readonly", (store) => store.getAll());
  get = (kind, key) => this.#run(kind, "readonly", (store) => store.get(key));
  put = (kind, key, value) => this.#run(kind, "readwrite", (store) => store.put(value, key));
  remove = (kind, key) => this.#run(kind, "readwrite", (store) => store.delete(key));

  async #run(kind, mode, work) {
    if (!this.database) return null;
    const transaction = this.database.transaction(kind, mode);
    const request = work(transaction.objectStore(kind));
    await settled(transaction); // what was put is there after a reload
    return request.result;
  }
}

/** Wait for a request, or for all of a transaction. */
const settled = (it) =>
  new Promise((resolve, reject) => {
    it.onsuccess = it.oncomplete = () => resolve(it.result);
    it.onerror = it.onabort = ({ target }) => reject(target.error);
  });
