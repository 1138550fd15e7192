// Preact and its hooks, and `html` to write elements in.

import htm from "./vendor/preact/htm.js";
import { h } from "./vendor/preact/preact.js";

export { render, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from "./vendor/preact/preact.js";

// Left to itself htm gives the same object again for elements that never change. Each would keep its
// first parent, and that one its own: rows that left the page long ago would stay in memory.
const NOT_KEPT = 3;

export const html = htm.bind(function element(type, props, ...children) {
  this[0] = NOT_KEPT;
  return h(type, props, ...children);
});
