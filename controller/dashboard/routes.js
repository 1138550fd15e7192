// Routes in the URL's hash: `#/fleet`, `#/fleet/node-1`.

export const VIEWS = ["fleet", "models", "tasks", "traffic", "energy", "decisions", "playground"];

export function href(view, id) {
  return id === undefined ? `#/${view}` : `#/${view}/${encodeURIComponent(id)}`;
}

/** `{ view, id }` of the current URL. An unknown view is the fleet. */
export function currentRoute() {
  const [view, id] = location.hash.replace(/^#\/?/, "").split("/");
  if (!VIEWS.includes(view)) return { view: VIEWS[0], id: null };
  return { view, id: id ? decode(id) : null };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
