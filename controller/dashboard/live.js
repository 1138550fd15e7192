// Keeps the store fed from the controller's live stream, and comes back by itself when it is lost.

import { events } from "./sse.js";

const ENDPOINT = "../api/v1/live";
const SILENCE_MS = 20_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

export class Live {
  #store;
  #failures = 0;
  #endWait = null;

  constructor(store) {
    this.#store = store;
  }

  async run() {
    for (;;) {
      const problem = await this.#stream();
      const wait = this.#nextWait();
      this.#connection({ phase: "lost", retryAt: Date.now() + wait, problem });
      await this.#wait(wait);
      this.#connection({ phase: "lost", retryAt: null });
    }
  }

  /** Tries at once instead of when the wait is over. */
  retry() {
    this.#endWait?.();
  }

  /** Reads the stream to its end and says why it ended. */
  async #stream() {
    const abort = new AbortController();
    let watchdog;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    };
    alive();
    try {
      const response = await fetch(ENDPOINT, { signal: abort.signal, cache: "no-store" });
      if (!response.ok) return `it answers with HTTP ${response.status}`;
      for await (const { event, data } of events(response.body)) {
        alive();
        if (event) this.#store.apply(event, JSON.parse(data));
        this.#failures = 0;
        this.#connection({ phase: "live", heardAt: Date.now(), retryAt: null, problem: null });
      }
      return "it closed the connection";
    } catch (error) {
      if (abort.signal.aborted) return `nothing was heard of it for ${SILENCE_MS / 1000} s`;
      if (error instanceof TypeError) return "it does not answer";
      return `what it said cannot be read (${error.message})`;
    } finally {
      clearTimeout(watchdog);
      abort.abort();
    }
  }

  #connection(parts) {
    this.#store.set({ connection: { ...this.#store.state.connection, ...parts } });
  }

  /** Doubles, with a random part, so that a restarted controller is not met by every page at once. */
  #nextWait() {
    const most = Math.min(FIRST_WAIT_MS * 2 ** this.#failures, LONGEST_WAIT_MS);
    this.#failures += 1;
    return most * (0.5 + Math.random() / 2);
  }

  #wait(ms) {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        removeEventListener("online", end);
        this.#endWait = null;
        resolve();
      };
      const timer = setTimeout(end, ms);
      addEventListener("online", end);
      this.#endWait = end;
    });
  }
}
