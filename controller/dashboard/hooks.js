// Hooks that re-render components when something outside them changes.

import { useEffect, useLayoutEffect, useReducer, useRef, useState } from "./html.js";
import { currentRoute } from "./routes.js";
import { store } from "./store.js";

const useRerender = () => useReducer((count) => count + 1, 0)[1];

/** The store's state; the component is rendered again when one of `parts` changes. */
export function useStore(...parts) {
  const rerender = useRerender();
  useEffect(() => store.listen(parts, rerender), parts);
  return store.state;
}

/** The current time in milliseconds, updated every `intervalMs`. */
export function useNow(intervalMs = 1000) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), intervalMs);
    return () => clearInterval(timer);
  }, [intervalMs]);
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

/** Whether a media query matches. */
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

const savedState = new Map();

/** State that outlives its component, so that a filter is still set when its view is opened again. */
export function useSavedState(key, initial) {
  const [value, setValue] = useState(savedState.has(key) ? savedState.get(key) : initial);
  const set = (next) => {
    savedState.set(key, next);
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
