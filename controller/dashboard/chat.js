// One chat request to the fleet and its answer. It continues while another view is open.

import { events } from "./sse.js";

const EMPTY = { state: "idle", text: "", reasoning: "", error: null, route: null, usage: null, finish: null, firstTokenMs: null, totalMs: null };

const header = (response, name) => response.headers.get(`x-flotilla-${name}`);

async function errorOf(response) {
  const error = await response.json().then((body) => body.error, () => null);
  return { status: response.status, message: error?.message ?? response.statusText, code: error?.code, param: error?.param, retryAfter: response.headers.get("retry-after") };
}

class Chat {
  answer = EMPTY;
  #abort = null;
  #listeners = new Set();
  #frame = null;

  listen(onChange) {
    this.#listeners.add(onChange);
    return () => this.#listeners.delete(onChange);
  }

  stop() {
    this.#abort?.abort();
  }

  async send({ model, prompt, temperature, maxTokens }) {
    this.stop();
    const abort = (this.#abort = new AbortController());
    const set = (parts) => abort === this.#abort && this.#set(parts);
    const startedAt = performance.now();
    const elapsed = () => performance.now() - startedAt;
    const body = {
      model,
      messages: [{ role: "user", content: prompt }],
      stream: true,
      stream_options: { include_usage: true },
      ...(temperature === null ? {} : { temperature }),
      ...(maxTokens === null ? {} : { max_tokens: maxTokens }),
    };
    set({ ...EMPTY, state: "running" });
    try {
      const response = await fetch("../v1/chat/completions", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
        signal: abort.signal,
      });
      set({ route: route(response) });
      if (!response.ok) {
        set({ state: "failed", error: await errorOf(response), totalMs: elapsed() });
        return;
      }
      for await (const { data } of events(response.body)) {
        if (data && data !== "[DONE]") this.#chunk(JSON.parse(data), elapsed(), set);
      }
      set({ state: this.answer.error ? "failed" : "answered", totalMs: elapsed() });
    } catch (error) {
      const stopped = abort.signal.aborted;
      set({ state: stopped ? "stopped" : "failed", error: stopped ? null : { message: `the controller cannot be reached (${error.message})` }, totalMs: elapsed() });
    }
  }

  #chunk(chunk, elapsedMs, set) {
    if (chunk.error) set({ error: chunk.error });
    if (chunk.usage) set({ usage: chunk.usage });
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const { content: text, reasoning_content: reasoning = "", tool_calls: calls = [] } = choice.delta;
    const toolCalls = calls.map((call) => `${call.function.name ? `\n${call.function.name} ` : ""}${call.function.arguments}`).join("");
    const content = (text ?? "") + toolCalls;
    const { answer } = this;
    set({
      text: answer.text + content,
      reasoning: answer.reasoning + reasoning,
      finish: choice.finish_reason ?? answer.finish,
      firstTokenMs: answer.firstTokenMs ?? (content || reasoning ? elapsedMs : null),
    });
  }

  #set(parts) {
    this.answer = { ...this.answer, ...parts };
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      for (const onChange of this.#listeners) onChange();
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
