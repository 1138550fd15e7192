// How components hear of what changes outside them.

import { useEffect, useLayoutEffect, useReducer, useRef, useState } from "./html.js";
import { currentRoute } from "./routes.js";
import { store } from "./store.js";

const useWake = () => useReducer((count) => count + 1, 0)[1];

/** The state, read anew whenever one of `parts` changes. */
export function useStore(...parts) {
  const wake = useWake();
  useEffect(() => store.listen(parts, wake), parts);
  return store.state;
}

/** The time, told every `everyMs`. */
export function useNow(everyMs = 1000) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}

function useWindowEvent(name, read) {
  const [value, setValue] = useState(read());
  useEffect(() => {
    const update = () => setValue(read());
    addEventListener(name, update);
    return () => removeEventListener(name, update);
  }, []);
  return value;
}

export const useTheme = () => useWindowEvent("themechange", () => window.flotillaTheme.current);

export const useRoute = () => useWindowEvent("hashchange", currentRoute);

/** Whether a media query holds. */
export function useMedia(query) {
  const [matches, setMatches] = useState(() => matchMedia(query).matches);
  useEffect(() => {
    const list = matchMedia(query);
    const update = () => setMatches(list.matches);
    list.addEventListener("change", update);
    return () => list.removeEventListener("change", update);
  }, [query]);
  return matches;
}

export const usePhone = () => useMedia("(max-width: 760px)");

const kept = new Map();

/** State that outlives its component: what was filtered is still filtered on the way back. */
export function useKept(key, initial) {
  const [value, setValue] = useState(kept.has(key) ? kept.get(key) : initial);
  const set = (next) => {
    kept.set(key, next);
    setValue(next);
  };
  return [value, set];
}

/** The width of an element, in whole pixels; 0 before it is laid out. */
export function useWidth() {
  const ref = useRef(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}
