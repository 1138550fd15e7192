// What follows from a resource: memory used, load, whether joules are estimated.

const sum = (list, value) => list.reduce((total, item) => total + value(item), 0);

/** Bytes that the models on a node take, with those that are to replace them. */
export const memoryUsed = (node) =>
  sum(node.status.models, (model) => model.memory + (model.next?.memory ?? 0));

export const load = (node) => ({
  active: sum(node.status.models, (model) => model.counters.active),
  queued: sum(node.status.models, (model) => model.counters.queued),
});

export const modelLoad = (model) => ({
  active: sum(model.status.replicas, (replica) => replica.counters.active),
  queued: sum(model.status.replicas, (replica) => replica.counters.queued),
});

/** A node's state with what people want of it: a drained node is not simply Ready. */
export function nodeState(node) {
  const { phase, operation } = node.status;
  if (phase !== "Ready") return phase;
  if (operation?.draining) return "Draining";
  return operation?.cordoned ? "Cordoned" : "Ready";
}

/** Parts of a fleet in trouble come first when sorted by state. */
export const STATE_ORDER = ["Lost", "Suspect", "Joining", "Draining", "Cordoned", "Ready"];

export const MODEL_ORDER = ["Failed", "Pending", "Partial", "Fetching", "Updating", "Ready", "Asleep"];

/** `cpu` says nothing where it is all there is. */
export const accelerators = (node) => node.spec.accelerators.filter((name) => name !== "cpu");

export const isEstimate = (source) => typeof source === "string" && source.startsWith("estimat");

export const joulesPerToken = (usage) => (usage.outputTokens > 0 ? usage.joules / usage.outputTokens : null);

/** From fewer tokens than this no pace can be told: they come in one piece. */
const FEWEST_PACED = 5;

/** Tokens per second after the first one; null where that cannot be told. */
export function pace(tokens, firstMs, totalMs) {
  const seconds = (totalMs - firstMs) / 1000;
  return tokens >= FEWEST_PACED && Number.isFinite(firstMs) && seconds > 0 ? (tokens - 1) / seconds : null;
}

/** `max` replicas that a spec asks for at most, and `min`. */
export function replicaBounds(model) {
  const { replicas } = model.spec;
  return typeof replicas === "object" ? replicas : { min: replicas ?? 1, max: replicas ?? 1 };
}

export function sourceText(source) {
  if (!source) return null;
  if (source.artifact) return `artifact ${source.artifact}`;
  if (source.huggingFace) return `Hugging Face ${source.huggingFace.repo}`;
  if (source.controllerPath) return `${source.controllerPath} on the controllers`;
  return source.url ?? source.path ?? null;
}

/** How many of each, most first: `[["Ready", 5], ["Lost", 1]]`. */
export function tally(items, key) {
  const counts = new Map();
  for (const item of items) {
    const name = key(item);
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1]);
}

/** The totals of a usage table's rows. */
export function totalled(rows) {
  const total = { requests: 0, errors: 0, promptTokens: 0, outputTokens: 0, joules: 0, estimatedJoules: 0, co2Grams: null, cost: null };
  for (const row of rows) {
    for (const key of Object.keys(total)) {
      if (typeof row[key] === "number") total[key] = (total[key] ?? 0) + row[key];
    }
  }
  return total;
}
