// The icons of the page. Each one is next to its text, or in a button with a label.

import { html } from "./html.js";

const stroked = (paths) => html`<g fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round" stroke-linejoin="round">${paths}</g>`;
const path = (d) => html`<path d=${d} />`;

const ICONS = {
  flotilla: () => html`<path d="M9.6 2.5v9.6H4z" /><path d="M11.4 5.6v6.5h4.2z" /><path d="M2.4 14h15.2l-2.2 3.2H4.6z" />`,
  fleet: () => stroked([path("M3 4h14v5H3z"), path("M3 11.5h14v5H3z"), path("M6 6.5h.01M6 14h.01M10 6.5h4M10 14h4")]),
  models: () => stroked([path("M3 3h5.5v5.5H3zM11.5 3H17v5.5h-5.5zM3 11.5h5.5V17H3zM11.5 11.5H17V17h-5.5z")]),
  tasks: () => stroked([path("M3 5h3v3H3zM3 12h3v3H3zM9 6.5h8M9 13.5h8")]),
  traffic: () => stroked([path("M2.5 11h3.2l2.4-6.5 3.8 11 2.3-4.5h3.3")]),
  energy: () => stroked([path("M11 2.5 4.5 11.5h4.7L8.5 17.5l7-9.3h-4.8z")]),
  decisions: () => stroked([path("M4 3v5c0 2.5 2 4 4.5 4H16M13 9l3 3-3 3M4 8v9")]),
  playground: () => stroked([path("M3 4h14v9.5H9.5L6 16.8v-3.3H3z"), path("M6.5 7.5h7M6.5 10h4")]),
  sun: () => stroked([html`<circle cx="10" cy="10" r="3.4" />`, path("M10 2v2M10 16v2M2 10h2M16 10h2M4.4 4.4l1.4 1.4M14.2 14.2l1.4 1.4M4.4 15.6l1.4-1.4M14.2 5.8l1.4-1.4")]),
  moon: () => stroked([path("M16.5 11.8A7 7 0 0 1 8.2 3.5a7 7 0 1 0 8.3 8.3z")]),
  warning: () => stroked([path("M10 3 2.5 16.5h15z"), path("M10 8v4M10 14.3h.01")]),
  lost: () => stroked([path("M3 10a10 10 0 0 1 3-2.3M17 10a10 10 0 0 0-6-3M6 13a6 6 0 0 1 2.6-1.6M10 16h.01M3 3l14 14")]),
  back: () => stroked([path("M12 4.5 6.5 10l5.5 5.5")]),
  pause: () => stroked([path("M7 4.5v11M13 4.5v11")]),
  play: () => stroked([path("M6 4v12l9.5-6z")]),
  stop: () => stroked([path("M5 5h10v10H5z")]),
  chosen: () => stroked([path("M4 10.5 8.2 15 16 5.5")]),
  battery: () => stroked([path("M2.5 6.5h12v7h-12zM17 9v2")]),
  heat: () => stroked([path("M8 11.6V4.5a2 2 0 1 1 4 0v7.1a3.6 3.6 0 1 1-4 0z")]),
};

export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 20 20" width="20" height="20" fill="currentColor" aria-hidden="true">${ICONS[name]()}</svg>`;
}

/** Each kind of state has its own shape, so that it is recognized without its colour. */
const MARKS = {
  good: () => html`<circle cx="6" cy="6" r="4.5" />`,
  busy: () => html`<path d="M6 1.5a4.5 4.5 0 0 0 0 9z" /><circle cx="6" cy="6" r="3.8" fill="none" stroke="currentColor" stroke-width="1.4" />`,
  warn: () => html`<path d="M6 1 11.2 10.5H.8z" />`,
  bad: () => html`<path d="m2 2 8 8M10 2l-8 8" stroke="currentColor" stroke-width="2.6" stroke-linecap="round" />`,
  idle: () => html`<circle cx="6" cy="6" r="3.8" fill="none" stroke="currentColor" stroke-width="1.6" stroke-dasharray="2.2 1.8" />`,
};

export function Mark({ kind }) {
  return html`<svg class=${`mark ${kind}`} viewBox="0 0 12 12" width="12" height="12" fill="currentColor" aria-hidden="true">${MARKS[kind]()}</svg>`;
}
