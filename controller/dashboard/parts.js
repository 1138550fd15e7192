// Small components that the views share.

import { html } from "./html.js";
import { NONE, number, percent, words } from "./format.js";
import { Icon, Mark } from "./icons.js";
import { href } from "./routes.js";

const KINDS = {
  Ready: "good",
  answered: "good",
  accepted: "good",
  Joining: "busy",
  Fetching: "busy",
  Loading: "busy",
  Updating: "busy",
  Draining: "busy",
  running: "busy",
  "in progress": "busy",
  Suspect: "warn",
  Partial: "warn",
  Pending: "warn",
  Cordoned: "warn",
  low_confidence: "warn",
  stopped_early: "warn",
  accepted_as_fallback: "warn",
  Lost: "bad",
  Unreachable: "bad",
  Failed: "bad",
  failed: "bad",
  schema_mismatch: "bad",
};

export const stateKind = (state) => KINDS[state] ?? "idle";

export function State({ name, note }) {
  const kind = stateKind(name);
  return html`<span class=${`state ${kind}`}><${Mark} kind=${kind} />${words(name)}${note && html`<span class="state-note">${note}</span>`}</span>`;
}

export const ESTIMATED = {
  node: "estimated from the CPU load and the node's idle and maximum power",
  request: "estimated from CPU time and the node's power",
};

/** A quantity. An estimated one is marked with "≈" and, for screen readers, in words; `why` says how it was estimated. */
export function Measured({ text, estimated, why = ESTIMATED.request }) {
  if (!estimated || text === NONE) return html`<span class="quantity">${text}</span>`;
  return html`<span class="quantity estimated" title=${why}><span aria-hidden="true">≈ </span>${text}<span class="sr"> (estimated)</span></span>`;
}

/** Whether an energy total is measured, estimated, or to which part estimated. */
export function provenance(total, estimated) {
  if (!total) return null;
  const share = estimated / total;
  if (share < 0.005) return "measured";
  if (share > 0.995) return "estimated";
  return `${percent(share)} estimated`;
}

/** A bar that is filled to `share` (0 to 1), of which the `estimated` share is hatched. */
export function Bar({ share, estimated = 0, label, tone = "" }) {
  const width = (part) => ({ width: `${Math.max(0, Math.min(1, part)) * 100}%` });
  return html`
    <span class=${`bar ${tone}`} role="img" aria-label=${label}>
      <span class="bar-fill" style=${width(share - estimated)}></span>
      ${estimated > 0 && html`<span class="bar-fill hatched" style=${width(estimated)}></span>`}
    </span>
  `;
}

export function Tile({ label, value, children, link, tone = "" }) {
  const content = html`
    <span class="tile-label">${label}</span>
    <span class="tile-value">${value}</span>
    <span class="tile-note">${children}</span>
  `;
  return link
    ? html`<li class=${`tile ${tone}`}><a href=${link}>${content}</a></li>`
    : html`<li class=${`tile ${tone}`}>${content}</li>`;
}

export function Panel({ title, aside, children, tone = "" }) {
  return html`
    <section class=${`panel ${tone}`} aria-label=${title}>
      <header class="panel-head"><h2>${title}</h2>${aside && html`<div class="panel-aside">${aside}</div>`}</header>
      ${children}
    </section>
  `;
}

export function Empty({ title, children }) {
  return html`<div class="empty"><${Icon} name="flotilla" /><h2>${title}</h2>${children}</div>`;
}

export function Back({ view, children }) {
  return html`<a class="back" href=${href(view)}><${Icon} name="back" />${children}</a>`;
}

export const NodeLink = ({ name }) => (name ? html`<a class="mono" href=${href("fleet", name)}>${name}</a>` : NONE);
export const ModelLink = ({ name }) => (name ? html`<a class="mono" href=${href("models", name)}>${name}</a>` : NONE);

/** A list of `[name, value]` entries. Entries without a value are left out. */
export function Facts({ entries }) {
  const shown = entries.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return html`<dl class="facts">${shown.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export function Labels({ labels }) {
  return html`<ul class="labels">${Object.entries(labels).map(([key, value]) => html`<li><span>${key}</span>${value && html`<b>${value}</b>`}</li>`)}</ul>`;
}

export function Search({ label, value, onValue }) {
  return html`<input class="search" type="search" aria-label=${label} placeholder=${label} value=${value} onInput=${(event) => onValue(event.target.value)} spellcheck=${false} autocomplete="off" />`;
}

/** A drop-down list; `options` are `[value, text]`. */
export function Select({ label, value, options, onValue }) {
  return html`
    <label class="select">
      <span>${label}</span>
      <select value=${value} onChange=${(event) => onValue(event.target.value)}>
        ${options.map(([option, text]) => html`<option key=${option} value=${option} selected=${option === value}>${text}</option>`)}
      </select>
    </label>
  `;
}

/** A row of buttons, of which one is pressed; `options` are `[value, text]`. */
export function Segments({ label, value, options, onValue }) {
  return html`
    <div class="segments" role="group" aria-label=${label}>
      ${options.map(
        ([option, text]) => html`<button type="button" key=${option} aria-pressed=${option === value} onClick=${() => onValue(option)}>${text}</button>`,
      )}
    </div>
  `;
}

export const loadText = ({ active, queued }) =>
  active + queued === 0 ? "idle" : `${number(active)} active${queued ? `, ${number(queued)} queued` : ""}`;
