// One question to the fleet, with all that is told of its answer. It goes on when its view is left.

import { events } from "./sse.js";

const NOTHING = { state: "idle", text: "", reasoning: "", error: null, route: null, usage: null, finish: null, firstTokenMs: null, totalMs: null };

const header = (response, name) => response.headers.get(`x-flotilla-${name}`);

async function errorOf(response) {
  const told = await response.json().then((body) => body.error, () => null);
  return { status: response.status, message: told?.message ?? response.statusText, code: told?.code, param: told?.param, retryAfter: response.headers.get("retry-after") };
}

class Chat {
  answer = NOTHING;
  #abort = null;
  #listeners = new Set();
  #frame = null;

  listen(wake) {
    this.#listeners.add(wake);
    return () => this.#listeners.delete(wake);
  }

  stop() {
    this.#abort?.abort();
  }

  async ask({ model, prompt, temperature, maxTokens }) {
    this.stop();
    const abort = (this.#abort = new AbortController());
    const set = (parts) => abort === this.#abort && this.#set(parts);
    const begun = performance.now();
    const passed = () => performance.now() - begun;
    const body = {
      model,
      messages: [{ role: "user", content: prompt }],
      stream: true,
      stream_options: { include_usage: true },
      ...(temperature === null ? {} : { temperature }),
      ...(maxTokens === null ? {} : { max_tokens: maxTokens }),
    };
    set({ ...NOTHING, state: "asking" });
    try {
      const response = await fetch("../v1/chat/completions", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
        signal: abort.signal,
      });
      set({ route: route(response) });
      if (!response.ok) {
        set({ state: "failed", error: await errorOf(response), totalMs: passed() });
        return;
      }
      for await (const { data } of events(response.body)) {
        if (data && data !== "[DONE]") this.#chunk(JSON.parse(data), passed(), set);
      }
      set({ state: this.answer.error ? "failed" : "answered", totalMs: passed() });
    } catch (error) {
      const stopped = abort.signal.aborted;
      set({ state: stopped ? "stopped" : "failed", error: stopped ? null : { message: `the controller cannot be reached (${error.message})` }, totalMs: passed() });
    }
  }

  #chunk(chunk, passed, set) {
    if (chunk.error) set({ error: chunk.error });
    if (chunk.usage) set({ usage: chunk.usage });
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const { content = "", reasoning_content: reasoning = "", tool_calls: calls = [] } = choice.delta;
    const called = calls.map((call) => `${call.function.name ? `\n${call.function.name} ` : ""}${call.function.arguments}`).join("");
    const said = (content ?? "") + called;
    const { answer } = this;
    set({
      text: answer.text + said,
      reasoning: answer.reasoning + reasoning,
      finish: choice.finish_reason ?? answer.finish,
      firstTokenMs: answer.firstTokenMs ?? (said || reasoning ? passed : null),
    });
  }

  #set(parts) {
    this.answer = { ...this.answer, ...parts };
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      for (const wake of this.#listeners) wake();
    });
  }
}

function route(response) {
  return {
    model: header(response, "model"),
    node: header(response, "node"),
    task: header(response, "task"),
    attempts: Number(header(response, "attempts") ?? 1),
    decision: header(response, "decision"),
  };
}

export const chat = new Chat();
