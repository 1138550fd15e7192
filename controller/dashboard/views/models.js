// The placement matrix: models by nodes, or by groups of nodes in a large fleet.

import { html, useMemo } from "../html.js";
import { useSavedState, usePhone, useStore } from "../hooks.js";
import { MODEL_ORDER, modelLoad, tally, zoneText } from "../facts.js";
import { count, counted } from "../format.js";
import { Mark } from "../icons.js";
import { href } from "../routes.js";
import { Empty, loadText, ModelLink, Panel, Search, Select, State, stateKind } from "../parts.js";
import { useViewport } from "../windowed.js";

const ROW = 44;
/** Number of nodes above which the default columns are zones. */
const MAX_NODE_COLUMNS = 30;
/** Extra rows and columns around the visible ones. */
const OVERSCAN = 3;

/** Phases from worst to best: a cell with several replicas shows the first one that occurs. */
const PHASES_BY_SEVERITY = ["Failed", "Unreachable", "Loading", "Fetching", "Draining", "Absent", "Ready"];

function groupKeys(nodes) {
  const keys = new Set();
  for (const node of nodes) for (const key of Object.keys(node.metadata.labels ?? {})) keys.add(key);
  return [...keys].sort();
}

function groupOf(by) {
  if (by === "node") return (node) => node.metadata.name;
  if (by === "zone") return (node) => zoneText(node) || "no zone";
  const key = by.slice("label ".length);
  return (node) => node.metadata.labels?.[key] ?? `no ${key}`;
}

/** The columns with their sizes, and the column of each node. */
function groupNodes(nodes, by) {
  const group = groupOf(by);
  const columnOf = new Map();
  const sizes = new Map();
  for (const node of nodes) {
    const name = group(node);
    columnOf.set(node.metadata.name, name);
    sizes.set(name, (sizes.get(name) ?? 0) + 1);
  }
  const collator = new Intl.Collator("en", { numeric: true });
  return { columnOf, columns: [...sizes].sort(([a], [b]) => collator.compare(a, b)) };
}

/** The model's replicas by column. */
function replicasByColumn(model, columnOf) {
  const cells = new Map();
  for (const replica of model.status.replicas) {
    const column = columnOf.get(replica.node);
    if (column === undefined) continue;
    if (!cells.has(column)) cells.set(column, []);
    cells.get(column).push(replica);
  }
  return cells;
}

function worstPhase(replicas) {
  const phases = replicas.map(({ phase }) => phase);
  return PHASES_BY_SEVERITY.find((phase) => phases.includes(phase)) ?? phases[0];
}

const tooltip = (model, column, replicas) =>
  [`${model.metadata.name} on ${column}`, ...replicas.slice(0, 8).map((replica) => [replica.node, replica.phase, replica.progress, replica.error].filter(Boolean).join(", "))].join("\n");

function Cell({ model, column, replicas, single }) {
  const reason = single && model.status.unschedulableNodes?.[column];
  if (!replicas) {
    return reason
      ? html`<td class="cell unschedulable" title=${`${model.metadata.name} cannot run on ${column}: the node ${reason}`}><span class="sr">${`cannot run here: ${reason}`}</span></td>`
      : html`<td class="cell"></td>`;
  }
  const phase = worstPhase(replicas);
  const ready = replicas.filter((replica) => replica.phase === "Ready").length;
  const progress = /(\d+) %/.exec(replicas.find((replica) => replica.phase === phase)?.progress ?? "")?.[1];
  const text = single ? (progress ? `${progress}%` : "") : ready === replicas.length ? count(ready) : `${ready}/${replicas.length}`;
  return html`
    <td class=${`cell ${stateKind(phase)}`} title=${tooltip(model, column, replicas)}>
      <span class="cell-box"><${Mark} kind=${stateKind(phase)} />${text && html`<span>${text}</span>`}<span class="sr">${phase}</span></span>
      ${single && progress && html`<span class="cell-progress" style=${{ width: `${progress}%` }}></span>`}
    </td>
  `;
}

function Head({ name, size, by, onNarrow }) {
  const label = html`<span class="head-text">${name}</span>`;
  if (by === "node") return html`<th scope="col" title=${name}><a href=${href("fleet", name)}>${label}</a></th>`;
  return html`<th scope="col" title=${`show the nodes of ${name}`}><button type="button" onClick=${() => onNarrow(name)}>${label}<span class="head-size">${counted(size, "node")}</span></button></th>`;
}

const replicasText = ({ status }) => (status.assigned === 0 ? "no replica" : `${status.ready}/${status.assigned} ready`);

function Matrix({ models, columns, columnOf, by, onNarrow }) {
  const phone = usePhone();
  const wide = by !== "node" || columns.length <= 12;
  const step = wide ? (phone ? 84 : 104) : 46;
  const headWidth = phone ? 156 : 330;
  const [ref, view] = useViewport(ROW);
  const from = Math.max(0, Math.floor(view.left / step) - OVERSCAN);
  const to = Math.min(columns.length, Math.ceil((view.left + view.width - headWidth) / step) + OVERSCAN + 1);
  const top = Math.max(0, Math.floor(view.top / ROW) - OVERSCAN);
  const bottom = Math.min(models.length, Math.ceil((view.top + view.height) / ROW) + OVERSCAN);
  const shown = columns.slice(from, to);
  const before = from * step;
  const after = (columns.length - to) * step;
  const pad = (width) => width > 0 && html`<td aria-hidden="true"></td>`;
  // Fills the remaining width, so that the lines between rows reach the edge.
  const filler = () => html`<td aria-hidden="true"></td>`;
  const spacer = (rows) => rows > 0 && html`<tr aria-hidden="true"><td style=${{ height: `${rows * ROW}px` }}></td></tr>`;
  return html`
    <div ref=${ref} class=${`matrix ${wide ? "wide-columns" : "narrow-columns"}`} tabindex="0" role="region" aria-label="Placement: models by nodes">
      <table aria-rowcount=${models.length + 1} aria-colcount=${columns.length + 1} style=${{ minWidth: `${headWidth + columns.length * step}px` }}>
        <caption class="sr">Where each model is placed</caption>
        <colgroup>
          <col style=${{ width: `${headWidth}px` }} />
          ${before > 0 && html`<col style=${{ width: `${before}px` }} />`}
          ${shown.map(([name]) => html`<col key=${name} style=${{ width: `${step}px` }} />`)}
          ${after > 0 && html`<col style=${{ width: `${after}px` }} />`}
          <col />
        </colgroup>
        <thead>
          <tr>
            <th scope="col" class="corner">Model</th>
            ${pad(before)} ${shown.map(([name, size]) => html`<${Head} key=${name} name=${name} size=${size} by=${by} onNarrow=${onNarrow} />`)} ${pad(after)}${filler()}
          </tr>
        </thead>
        <tbody>
          ${spacer(top)}
          ${models.slice(top, bottom).map((model, index) => {
            const cells = replicasByColumn(model, columnOf);
            return html`
              <tr key=${model.metadata.name} aria-rowindex=${top + index + 2}>
                <th scope="row">
                  <span class="matrix-name"><${ModelLink} name=${model.metadata.name} /><span class="row-note">${loadText(modelLoad(model))}</span></span>
                  <span class="matrix-state"><${State} name=${model.status.phase} /><span class="row-note" title="replicas ready of those assigned">${replicasText(model)}</span></span>
                </th>
                ${pad(before)}
                ${shown.map(([name]) => html`<${Cell} key=${name} model=${model} column=${name} replicas=${cells.get(name)} single=${by === "node"} />`)}
                ${pad(after)}${filler()}
              </tr>
            `;
          })}
          ${spacer(models.length - bottom)}
        </tbody>
      </table>
    </div>
  `;
}

function problems({ status }) {
  const failed = status.replicas.filter((replica) => replica.error);
  const unanswered = status.replicas.find((replica) => replica.failingRequests);
  return [
    unanswered && `${unanswered.node}: ${unanswered.failingRequests}`,
    status.lastError,
    status.unplacedReason,
    ...(status.notes ?? []),
    status.rollbackReason && `rolled back: ${status.rollbackReason}`,
    status.phase === "Failed" && status.fetch,
    failed.length > 0 && `${counted(failed.length, "node")}: ${failed[0].error}${failed[0].remedy ? ` – ${failed[0].remedy}` : ""}`,
    status.phase !== "Failed" && status.fetch && `fetching: ${status.fetch}`,
  ].filter(Boolean);
}

const SHOWN_PROBLEMS = 6;

function Attention({ models }) {
  const [all, setAll] = useSavedState("models attention", false);
  const affected = models.map((model) => [model, problems(model)]).filter(([, list]) => list.length > 0);
  if (affected.length === 0) return null;
  const shown = all ? affected : affected.slice(0, SHOWN_PROBLEMS);
  return html`
    <${Panel} title="Differences from the spec" aside=${counted(affected.length, "model")} tone="flush">
      <ul class="problems">
        ${shown.map(
          ([model, list]) => html`
            <li key=${model.metadata.name}>
              <div class="problem-name"><${ModelLink} name=${model.metadata.name} /><${State} name=${model.status.phase} /></div>
              <div>${list.map((text) => html`<p>${text}</p>`)}</div>
            </li>
          `,
        )}
      </ul>
      ${affected.length > SHOWN_PROBLEMS &&
      html`<button type="button" class="more" aria-expanded=${all} onClick=${() => setAll(!all)}>${all ? "Show fewer" : `Show all ${affected.length}`}</button>`}
    <//>
  `;
}

function NoModels() {
  return html`
    <${Empty} title="No model is applied yet">
      <p>Upload a folder from Hugging Face or a GGUF file, and apply a spec for it:</p>
      <pre><code>flotilla model push ./triage${"\n"}flotilla apply -f model.yaml</code></pre>
      <p>The fleet then places it on nodes with enough memory. <code>flotilla apply --help</code> shows a <code>model.yaml</code>.</p>
    <//>
  `;
}

export function Models() {
  const { models: allModels, nodes: allNodes } = useStore("models", "nodes");
  const [filter, setFilter] = useSavedState("models filter", { text: "", phase: "all", by: null, within: null });
  const models = useMemo(() => [...allModels.values()], [allModels]);
  const nodes = useMemo(() => [...allNodes.values()], [allNodes]);

  const by = filter.by ?? (nodes.length > MAX_NODE_COLUMNS ? "zone" : "node");
  const shown = useMemo(() => {
    const text = filter.text.toLowerCase();
    const matches = (model) =>
      (filter.phase === "all" || model.status.phase === filter.phase) &&
      `${model.metadata.name} ${model.spec.description ?? ""}`.toLowerCase().includes(text);
    const collator = new Intl.Collator("en", { numeric: true });
    return models.filter(matches).sort((a, b) => collator.compare(a.metadata.name, b.metadata.name));
  }, [models, filter]);

  const single = filter.within !== null || by === "node";
  const members = useMemo(() => {
    const within = filter.within && groupOf(filter.within.by);
    const candidates = within ? nodes.filter((node) => within(node) === filter.within.name) : nodes;
    if (!single || candidates.length <= MAX_NODE_COLUMNS) return candidates;
    // Of many nodes, only those with a replica of a shown model are useful.
    const used = new Set(shown.flatMap((model) => model.status.replicas.map(({ node }) => node)));
    return candidates.filter((node) => used.has(node.metadata.name));
  }, [nodes, shown, single, filter.within]);
  const placement = useMemo(() => groupNodes(members, single ? "node" : by), [members, single, by]);

  if (models.length === 0) return html`<h1>Models</h1><${NoModels} />`;
  const phases = tally(models, (model) => model.status.phase).sort(([a], [b]) => MODEL_ORDER.indexOf(a) - MODEL_ORDER.indexOf(b));
  const groups = [["node", "each node"], ["zone", "zone"], ...groupKeys(nodes).map((key) => [`label ${key}`, key])];
  return html`
    <h1>Models</h1>
    <section class="panel flush" aria-label="Placement">
      <div class="toolbar">
        <${Search} label="Filter models" value=${filter.text} onValue=${(text) => setFilter({ ...filter, text })} />
        <${Select} label="State" value=${filter.phase} onValue=${(phase) => setFilter({ ...filter, phase })} options=${[["all", "all"], ...phases.map(([phase, amount]) => [phase, `${phase} (${amount})`])]} />
        <${Select} label="Columns" value=${by} onValue=${(value) => setFilter({ ...filter, by: value, within: null })} options=${groups} />
        ${filter.within && html`<button type="button" class="button" aria-label=${`Only ${filter.within.name}: show all`} onClick=${() => setFilter({ ...filter, within: null })}>${filter.within.name} ×</button>`}
        <p class="toolbar-count" role="status">${shown.length === models.length ? counted(models.length, "model") : `${shown.length} of ${counted(models.length, "model")}`} on ${members.length === nodes.length ? counted(nodes.length, "node") : `${count(members.length)} of ${counted(nodes.length, "node")}`}</p>
      </div>
      ${shown.length === 0
        ? html`<p class="no-items">No model matches.</p>`
        : html`<${Matrix} key=${`${by} ${filter.within?.name}`} models=${shown} ...${placement} by=${single ? "node" : by} onNarrow=${(name) => setFilter({ ...filter, within: { by, name } })} />`}
      <ul class="key" aria-label="Key">
        ${[["good", "ready"], ["busy", "loading or draining"], ["bad", "failed"], ["idle", "assigned, not started"]].map(([kind, text]) => html`<li><${Mark} kind=${kind} />${text}</li>`)}
        <li><span class="unschedulable-key"></span>cannot run there (hover for the reason)</li>
      </ul>
    </section>
    <${Attention} models=${shown} />
  `;
}
