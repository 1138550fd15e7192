// Reads the controller's live feed into the store, and reconnects when the connection is lost.

import { events } from "./sse.js";

const ENDPOINT = "../api/v1/live";
const SILENCE_TIMEOUT_MS = 20_000;
const MIN_RETRY_MS = 500;
const MAX_RETRY_MS = 10_000;

export class Live {
  #store;
  #failures = 0;
  #endWait = null;

  constructor(store) {
    this.#store = store;
  }

  async run() {
    for (;;) {
      await this.#login();
      const problem = await this.#stream();
      const wait = this.#nextWait();
      this.#connection({ phase: "lost", retryAt: Date.now() + wait, problem });
      await this.#wait(wait);
      this.#connection({ phase: "lost", retryAt: null });
    }
  }

  /** Ends the wait and reconnects at once. */
  retry() {
    this.#endWait?.();
  }

  /** Reads the feed to its end and returns the reason why it ended. */
  async #stream() {
    const abort = new AbortController();
    let watchdog;
    const resetWatchdog = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), SILENCE_TIMEOUT_MS);
    };
    resetWatchdog();
    try {
      const response = await fetch(ENDPOINT, { signal: abort.signal, cache: "no-store" });
      if (response.status === 401) {
        this.#store.set({ identity: null });
        return "the session has ended";
      }
      if (!response.ok) return `it replied with HTTP ${response.status}`;
      for await (const { event, data } of events(response.body)) {
        resetWatchdog();
        if (event) this.#store.apply(event, JSON.parse(data));
        this.#failures = 0;
        this.#connection({ phase: "live", receivedAt: Date.now(), retryAt: null, problem: null });
      }
      return "it closed the connection";
    } catch (error) {
      if (abort.signal.aborted) return `it sent nothing for ${SILENCE_TIMEOUT_MS / 1000} s`;
      if (error instanceof TypeError) return "it cannot be reached";
      return `its data cannot be read (${error.message})`;
    } finally {
      clearTimeout(watchdog);
      abort.abort();
    }
  }

  /** Waits while nobody has logged in. */
  async #login() {
    if (this.#store.state.identity !== null) return;
    await new Promise((resolve) => {
      const end = this.#store.listen(["identity"], () => {
        if (this.#store.state.identity === null) return;
        end();
        resolve();
      });
    });
    this.#failures = 0;
  }

  #connection(parts) {
    this.#store.set({ connection: { ...this.#store.state.connection, ...parts } });
  }

  /** Exponential backoff with jitter, so that not all pages reconnect to a restarted controller at once. */
  #nextWait() {
    const max = Math.min(MIN_RETRY_MS * 2 ** this.#failures, MAX_RETRY_MS);
    this.#failures += 1;
    return max * (0.5 + Math.random() / 2);
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
