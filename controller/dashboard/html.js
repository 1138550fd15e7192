// Preact with its hooks, and the `html` template tag that creates elements.

import htm from "./vendor/preact/htm.js";
import { h } from "./vendor/preact/preact.js";

export { render, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from "./vendor/preact/preact.js";

// By default htm caches elements that never change. A cached element keeps a reference to its first
// parent, so that table rows which have left the page would stay in memory. This value in `this[0]`
// turns the cache off.
const NO_CACHE = 3;

export const html = htm.bind(function element(type, props, ...children) {
  this[0] = NO_CACHE;
  return h(type, props, ...children);
});
