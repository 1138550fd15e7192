// A chat request to the fleet, its streamed answer, and how it was routed.

import { html, useEffect, useReducer } from "../html.js";
import { chat } from "../chat.js";
import { outputSpeed } from "../facts.js";
import { useSavedState, useStore } from "../hooks.js";
import { cost, count, grams, joules, ms, NONE, tokens, tokensPerSecond } from "../format.js";
import { Icon } from "../icons.js";
import { href } from "../routes.js";
import { Empty, Facts, Measured, ModelLink, NodeLink, Panel, State } from "../parts.js";

function useAnswer() {
  const [, rerender] = useReducer((count) => count + 1, 0);
  useEffect(() => chat.listen(rerender), []);
  return chat.answer;
}

const numberOrNull = (text) => (text.trim() === "" ? null : Number(text));

function Form({ models, tasks, running }) {
  const [saved, setForm] = useSavedState("playground", { model: "auto", prompt: "", temperature: "0", maxTokens: "128" });
  const choices = [...(tasks.length > 0 ? ["auto", ...tasks.map((task) => `task:${task}`)] : []), ...models];
  const form = choices.includes(saved.model) ? saved : { ...saved, model: choices[0] };
  const set = (field) => (event) => setForm({ ...form, [field]: event.target.value });
  const send = (event) => {
    event.preventDefault();
    if (running || form.prompt.trim() === "") return;
    chat.send({ model: form.model, prompt: form.prompt, temperature: numberOrNull(form.temperature), maxTokens: numberOrNull(form.maxTokens) });
  };
  const option = (value, text = value) => html`<option key=${value} value=${value} selected=${value === form.model}>${text}</option>`;
  return html`
    <form class="panel chat-form" onSubmit=${send}>
      <label class="field">
        <span>Model or task</span>
        <select name="model" value=${form.model} onChange=${set("model")}>
          ${tasks.length > 0 &&
          html`<optgroup label="By task">${option("auto", "auto – the classifier selects the task")}${tasks.map((task) => option(`task:${task}`))}</optgroup>`}
          <optgroup label="Models">${models.map((model) => option(model))}</optgroup>
        </select>
      </label>
      <label class="field grow">
        <span>Prompt</span>
        <textarea
          name="prompt"
          rows="5"
          placeholder="where is my new card?"
          value=${form.prompt}
          onInput=${set("prompt")}
          onKeyDown=${(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && send(event)}
        ></textarea>
      </label>
      <div class="fields">
        <label class="field"><span>Temperature</span><input name="temperature" type="number" min="0" max="2" step="0.1" inputmode="decimal" value=${form.temperature} onInput=${set("temperature")} /></label>
        <label class="field"><span>Max output tokens</span><input name="max_tokens" type="number" min="1" max="100000" step="1" inputmode="numeric" value=${form.maxTokens} onInput=${set("maxTokens")} /></label>
      </div>
      <div class="actions">
        <button type="submit" class="button primary" disabled=${running || form.prompt.trim() === ""}>Send</button>
        <button type="button" class="button" disabled=${!running} onClick=${() => chat.stop()}><${Icon} name="stop" />Stop</button>
        <span class="muted hint">Ctrl + Enter sends</span>
      </div>
    </form>
  `;
}

function Failure({ error }) {
  const { status, message, code, param, retryAfter } = error;
  const details = [status && `HTTP ${status}`, code, param && `field ${param}`, retryAfter && `retry after ${retryAfter} s`].filter(Boolean);
  return html`
    <div class="callout bad" role="alert">
      <${Icon} name="warning" />
      <span><b>${message}</b>${details.length > 0 && html`<br /><span class="muted">${details.join(" · ")}</span>`}</span>
    </div>
  `;
}

const FINISH_REASONS = { length: "The answer was cut off at the maximum number of output tokens." };

function Answer({ answer }) {
  const running = answer.state === "running";
  return html`
    <${Panel} title="Answer" aside=${answer.state !== "idle" && html`<${State} name=${answer.state} />`} tone="answer-panel">
      <div class="answer" aria-live="polite" aria-busy=${running}>
        ${answer.state === "idle" && html`<p class="muted">The answer appears here as it is generated.</p>`}
        ${answer.reasoning && html`<details class="reasoning"><summary>Reasoning</summary><p>${answer.reasoning}</p></details>`}
        <p class="answer-text">${answer.text}${running && html`<span class="caret" aria-hidden="true"></span>`}</p>
      </div>
      ${answer.error && html`<${Failure} error=${answer.error} />`}
      ${answer.state === "stopped" && html`<p class="muted">Stopped: the node ends the generation within one token.</p>`}
      ${answer.finish && FINISH_REASONS[answer.finish] && html`<p class="muted">${FINISH_REASONS[answer.finish]}</p>`}
    <//>
  `;
}

function Route({ answer }) {
  const { route, usage, firstTokenMs, totalMs, state } = answer;
  if (!route?.decision && !route?.model) return null;
  const energy = usage?.energy;
  const marked = (text) => html`<${Measured} text=${text} estimated=${!energy.measured} />`;
  return html`
    <${Panel} title="Route" aside=${route.decision && html`<a class="why" href=${href("decisions", route.decision)}>Why this route</a>`}>
      <ul class="tiles small">
        <li class="tile"><span class="tile-label">First token</span><span class="tile-value">${ms(firstTokenMs)}</span></li>
        <li class="tile"><span class="tile-label">Total</span><span class="tile-value">${ms(totalMs)}</span></li>
        <li class="tile"><span class="tile-label">Output speed</span><span class="tile-value">${tokensPerSecond(outputSpeed(usage?.completion_tokens, firstTokenMs, totalMs))}</span></li>
        <li class="tile"><span class="tile-label">Energy</span><span class="tile-value">${energy ? marked(joules(energy.joules)) : NONE}</span></li>
      </ul>
      <${Facts}
        entries=${[
          ["Task", route.task],
          ["Model", route.model && html`<${ModelLink} name=${route.model} />`],
          ["Node", route.node && html`<${NodeLink} name=${route.node} />`],
          ["Attempts", route.attempts > 1 && count(route.attempts)],
          ["Tokens", usage && `${tokens(usage.prompt_tokens)} in, ${tokens(usage.completion_tokens)} out`],
          ["Energy source", energy ? `${energy.source} – ${energy.measured ? "measured" : "estimated"}` : state === "answered" && "the node did not report it"],
          ["Carbon", energy?.co2_grams !== undefined && marked(grams(energy.co2_grams))],
          ["Cost", energy?.cost !== undefined && marked(cost(energy.cost, energy.currency))],
          ["Decision", route.decision && html`<a class="mono" href=${href("decisions", route.decision)}>${route.decision}</a>`],
        ]}
      />
    <//>
  `;
}

export function Playground() {
  const { models, tasks, loaded } = useStore("models", "tasks", "loaded");
  const answer = useAnswer();
  const names = [...models.values()].filter((model) => model.status.ready > 0 || model.status.phase === "Asleep").map((model) => model.metadata.name).sort();
  if (!loaded) return html`<h1>Playground</h1><p class="muted">Loading the models…</p>`;
  if (names.length === 0) {
    return html`<h1>Playground</h1><${Empty} title="No model is ready to answer"><p>The <a href=${href("models")}>models</a> page shows why.</p><//>`;
  }
  return html`
    <h1>Playground</h1>
    <div class="playground">
      <${Form} models=${names} tasks=${tasks} running=${answer.state === "running"} />
      <div class="column">
        <${Answer} answer=${answer} />
        <${Route} answer=${answer} />
      </div>
    </div>
  `;
}
