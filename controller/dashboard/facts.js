// Values derived from resources: memory in use, load, whether joules are estimated.

const sum = (list, value) => list.reduce((total, item) => total + value(item), 0);

const memoryOf = (node, counts) => {
  const models = node.status.models.flatMap((model) => [model, model.replacement ?? []].flat());
  return sum(models, (model) => (counts(model) ? model.memory : 0));
};

/** Memory of the models on a node in bytes, with that of revisions that are being loaded, without that of its GPUs. */
export const memoryUsed = (node) => memoryOf(node, (model) => !model.onDevice);

/** The node's GPUs with memory of their own: `name`, and in bytes what models take (`used`) and what there is (`budget`). */
export function gpus(node) {
  const used = (index) => memoryOf(node, (model) => model.onDevice && (model.gpu ?? 0) === index);
  return (node.spec.gpus ?? []).map(({ name, memory }, index) => ({ name, used: used(index), budget: memory }));
}

/** Memory of all of a node's GPUs in bytes: what models take, and what there is for them. `null` if it has none. */
export function deviceMemory(node) {
  const all = gpus(node);
  return all.length > 0 ? { used: sum(all, (gpu) => gpu.used), budget: sum(all, (gpu) => gpu.budget) } : null;
}

export const load = (node) => ({
  active: sum(node.status.models, (model) => model.counters.active),
  queued: sum(node.status.models, (model) => model.counters.queued),
});

export const modelLoad = (model) => ({
  active: sum(model.status.replicas, (replica) => replica.counters.active),
  queued: sum(model.status.replicas, (replica) => replica.counters.queued),
});

/** Disk space for files of models in bytes: what they take, and what there is. `null` if it is not known. */
export function disk(node) {
  const { disk } = node.status;
  const budget = disk?.budget ?? node.spec.disk;
  return disk && budget !== undefined ? { used: disk.used, budget } : null;
}

/** The node's phase, or `Cordoned` or `Draining` when it is ready and has such an operation or stops. */
export function nodeState(node) {
  const { phase, operation, stopping } = node.status;
  if (phase !== "Ready") return phase;
  if (operation?.draining || stopping) return "Draining";
  return operation?.cordoned ? "Cordoned" : "Ready";
}

/** States in sorting order: those that need attention first. */
export const STATE_ORDER = ["Lost", "Suspect", "Joining", "Draining", "Cordoned", "Ready"];

export const MODEL_ORDER = ["Failed", "Pending", "Partial", "Fetching", "Updating", "Ready", "Asleep"];

/** The accelerators other than the CPU, which every node has. */
export const accelerators = (node) => node.spec.accelerators.filter((name) => name !== "cpu");

/** Whether at least a part of the joules from `source` (such as `rapl+estimate`) is estimated. */
export const isEstimate = (source) => typeof source === "string" && source.includes("estimate");

export const joulesPerToken = (usage) => (usage.outputTokens > 0 ? usage.joules / usage.outputTokens : null);

/** Fewest tokens that a speed is computed from: fewer arrive in one piece. */
const MIN_TOKENS = 5;

/** Tokens per second after the first one; null when it cannot be computed. */
export function outputSpeed(tokens, firstMs, totalMs) {
  const seconds = (totalMs - firstMs) / 1000;
  return tokens >= MIN_TOKENS && Number.isFinite(firstMs) && seconds > 0 ? (tokens - 1) / seconds : null;
}

/** `min` and `max` replicas of a spec. */
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

/** The zones that a node is in; [""] for one that is in none. */
export function zonesOf(node) {
  return node.spec.zones?.length > 0 ? node.spec.zones : [""];
}

/** The zones that a node is in, as text; empty for one that is in none. */
export function zoneText(node) {
  return zonesOf(node).join(", ");
}

/** Counts of items by `key`, the largest first: `[["Ready", 5], ["Lost", 1]]`. */
export function tally(items, key) {
  const counts = new Map();
  for (const item of items) {
    const name = key(item);
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1]);
}

/** The sum of the rows of a usage table. */
export function usageSum(rows) {
  const total = { requests: 0, errors: 0, promptTokens: 0, outputTokens: 0, joules: 0, estimatedJoules: 0, co2Grams: null, cost: null };
  for (const row of rows) {
    for (const key of Object.keys(total)) {
      if (typeof row[key] === "number") total[key] = (total[key] ?? 0) + row[key];
    }
  }
  return total;
}
