// The page's copy of the fleet's state. Events change it part by part; views are notified at most once
// per animation frame.

const MAX_DECISIONS = 500;
const HISTORY_SECONDS = 900;

const byName = (resource) => resource.metadata.name;
const mapOf = (resources) => new Map(resources.map((resource) => [byName(resource), resource]));

/** A copy of `map` with the `changed` resources and without the `removed` names. */
function merge(map, changed, removed) {
  const next = new Map(map);
  for (const name of removed ?? []) next.delete(name);
  for (const resource of changed ?? []) next.set(byName(resource), resource);
  return next;
}

/** Appends points. New points replace those of the same time, and points beyond the history are dropped. */
function appendPoints(points, more) {
  if (more.length === 0) return points;
  const start = more[0].at;
  const oldest = more[more.length - 1].at - HISTORY_SECONDS * 1000;
  const earlier = points.filter((point) => point.at < start && point.at > oldest);
  return [...earlier, ...more.filter((point) => point.at > oldest)];
}

/** Prepends decisions, the newest first and each one once. */
function prependDecisions(current, received) {
  const ids = new Set(current.map((decision) => decision.id));
  const added = received.filter((decision) => !ids.has(decision.id)).reverse();
  return [...added, ...current].slice(0, MAX_DECISIONS);
}

/** After a restart the controller no longer has its earlier decisions. */
const NO_DECISIONS = { decisions: [], omitted: 0 };

const handlers = {
  snapshot: (state, data) => ({
    ...(state.controller?.startedAt !== data.controller.startedAt && NO_DECISIONS),
    loaded: true,
    controller: data.controller,
    controllers: data.controllers ?? [],
    currency: data.grid?.currency ?? null,
    notes: data.notes ?? [],
    refusals: data.refusals ?? [],
    tasks: data.tasks ?? [],
    nodes: mapOf(data.nodes),
    models: mapOf(data.models),
  }),
  delta: (state, data) => {
    const parts = {};
    if (data.nodes || data.removedNodes) parts.nodes = merge(state.nodes, data.nodes, data.removedNodes);
    if (data.models || data.removedModels) parts.models = merge(state.models, data.models, data.removedModels);
    for (const part of ["notes", "refusals", "controllers", "tasks"]) {
      if (data[part]) parts[part] = data[part];
    }
    return parts;
  },
  traffic: (state, data) => ({ traffic: appendPoints(state.traffic, data) }),
  usage: (_, data) => ({ usage: data }),
  decisions: (state, data) => ({
    decisions: prependDecisions(state.decisions, data),
    omitted: state.omitted + (data[0]?.omitted ?? 0),
  }),
};

export class Store {
  state = {
    loaded: false,
    // Who uses the page; `null` if nobody has logged in where the fleet requires keys, `undefined` before that is known.
    identity: undefined,
    connection: { phase: "connecting", receivedAt: null, retryAt: null, problem: null },
    controller: null,
    controllers: [],
    currency: null,
    notes: [],
    refusals: [],
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

  /** Applies an event of the live feed. Unknown events are ignored. */
  apply(name, data) {
    const handler = handlers[name];
    if (handler) this.set(handler(this.state, data));
  }

  set(parts) {
    this.state = { ...this.state, ...parts };
    for (const part of Object.keys(parts)) this.#changed.add(part);
    this.#frame ??= requestAnimationFrame(() => this.#notify());
  }

  /** Calls `onChange` after one of `parts` has changed. Returns a function that ends this. */
  listen(parts, onChange) {
    const listener = { parts, onChange };
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #notify() {
    this.#frame = null;
    const changed = this.#changed;
    this.#changed = new Set();
    for (const { parts, onChange } of this.#listeners) {
      if (parts.some((part) => changed.has(part))) onChange();
    }
  }
}

export const store = new Store();
