/** IndexedDB: the nodes of the history with their pictures, and single values such as the running job. */

const NAME = "fireedit-studio";

export class Store {
  /** @param {IDBDatabase | null} database null where the browser gives none: nothing is kept then */
  constructor(database) {
    this.database = database;
  }

  static async open() {
    try {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => ["nodes", "values"].forEach((kind) => request.result.createObjectStore(kind));
      return new Store(await settled(request));
    } catch {
      return new Store(null);
    }
  }

  all = (kind) => this.#run(kind, "readonly", (store) => store.getAll());
  get = (kind, key) => this.#run(kind, "readonly", (store) => store.get(key));
  put = (kind, key, value) => this.#run(kind, "readwrite", (store) => store.put(value, key));
  remove = (kind, key) => this.#run(kind, "readwrite", (store) => store.delete(key));

  async #run(kind, mode, work) {
    return this.database && settled(work(this.database.transaction(kind, mode).objectStore(kind)));
  }
}

const settled = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
