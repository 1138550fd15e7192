// What the page knows of the fleet. Events change it part by part; views hear of it at most once
// per animation frame.

const KEPT_DECISIONS = 500;
const KEPT_SECONDS = 900;

const byName = (resource) => resource.metadata.name;
const mapOf = (resources) => new Map(resources.map((resource) => [byName(resource), resource]));

/** A copy of `map` with `changed` resources put in and the `gone` names taken out. */
function merged(map, changed, gone) {
  const next = new Map(map);
  for (const name of gone ?? []) next.delete(name);
  for (const resource of changed ?? []) next.set(byName(resource), resource);
  return next;
}

/** Points by time: where both know a second the new one holds, and only the newest seconds stay. */
function continued(points, more) {
  if (more.length === 0) return points;
  const from = more[0].at;
  const oldest = more[more.length - 1].at - KEPT_SECONDS * 1000;
  const before = points.filter((point) => point.at < from && point.at > oldest);
  return [...before, ...more.filter((point) => point.at > oldest)];
}

/** Newest first, each decision once. */
function withDecisions(known, arrived) {
  const ids = new Set(known.map((decision) => decision.id));
  const fresh = arrived.filter((decision) => !ids.has(decision.id)).reverse();
  return [...fresh, ...known].slice(0, KEPT_DECISIONS);
}

/** A controller that was started anew knows nothing of the decisions before. */
const FORGOTTEN = { decisions: [], omitted: 0 };

const handlers = {
  snapshot: (state, data) => ({
    ...(state.controller?.startedAt !== data.controller.startedAt && FORGOTTEN),
    loaded: true,
    controller: data.controller,
    controllers: data.controllers ?? [],
    currency: data.grid?.currency ?? null,
    notes: data.notes ?? [],
    tasks: data.tasks ?? [],
    nodes: mapOf(data.nodes),
    models: mapOf(data.models),
  }),
  delta: (state, data) => {
    const parts = {};
    if (data.nodes || data.removedNodes) parts.nodes = merged(state.nodes, data.nodes, data.removedNodes);
    if (data.models || data.removedModels) parts.models = merged(state.models, data.models, data.removedModels);
    for (const part of ["notes", "controllers", "tasks"]) {
      if (data[part]) parts[part] = data[part];
    }
    return parts;
  },
  traffic: (state, data) => ({ traffic: continued(state.traffic, data) }),
  usage: (_, data) => ({ usage: data }),
  decisions: (state, data) => ({
    decisions: withDecisions(state.decisions, data),
    omitted: state.omitted + (data[0]?.omitted ?? 0),
  }),
};

export class Store {
  state = {
    loaded: false,
    connection: { phase: "connecting", heardAt: null, retryAt: null, problem: null },
    controller: null,
    controllers: [],
    currency: null,
    notes: [],
    tasks: [],
    nodes: new Map(),
    models: new Map(),
    traffic: [],
    usage: null,
    decisions: [],
    omitted: 0,
  };
  #listeners = new Set();
  #changed = new Set();
  #frame = null;

  /** Takes in an event of the live stream. Names that it does not know are left alone. */
  apply(name, data) {
    const handler = handlers[name];
    if (handler) this.set(handler(this.state, data));
  }

  set(parts) {
    this.state = { ...this.state, ...parts };
    for (const part of Object.keys(parts)) this.#changed.add(part);
    this.#frame ??= requestAnimationFrame(() => this.#tell());
  }

  /** Calls `wake` after one of `parts` has changed. Returns how to stop that. */
  listen(parts, wake) {
    const listener = { parts, wake };
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #tell() {
    this.#frame = null;
    const changed = this.#changed;
    this.#changed = new Set();
    for (const { parts, wake } of this.#listeners) {
      if (parts.some((part) => changed.has(part))) wake();
    }
  }
}

export const store = new Store();
