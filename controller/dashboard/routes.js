// Which view a link leads to: `#/fleet`, `#/fleet/node-1`.

export const VIEWS = ["fleet", "models", "traffic", "energy", "decisions", "playground"];

export function href(view, id) {
  return id === undefined ? `#/${view}` : `#/${view}/${encodeURIComponent(id)}`;
}

/** `{ view, id }` of the address; the fleet where it names no view. */
export function currentRoute() {
  const [view, id] = location.hash.replace(/^#\/?/, "").split("/");
  if (!VIEWS.includes(view)) return { view: VIEWS[0], id: null };
  return { view, id: id ? decoded(id) : null };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
