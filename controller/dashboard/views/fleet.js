// All nodes, and a summary of the fleet.

import { html, useMemo } from "../html.js";
import { useSavedState, usePhone, useStore } from "../hooks.js";
import { accelerators, deviceMemory, disk, load, memoryUsed, nodeState, STATE_ORDER, tally, zonesOf, zoneText } from "../facts.js";
import { bytesOf, count, counted, NONE, number, percent, watts } from "../format.js";
import { Icon, Mark } from "../icons.js";
import { href } from "../routes.js";
import { SortedTable } from "../sorted_table.js";
import { Bar, Empty, ESTIMATED, Measured, provenance, Search, Select, State, stateKind, Tile } from "../parts.js";
import { NodeMap } from "./node_map.js";

const ROW_HEIGHT = 53;
const ROW_HEIGHT_PHONE = 112;
/** Number of nodes from which the map is shown above the table. */
const MIN_MAP_NODES = 24;

/** The name of a CPU without trademark signs and filler words. */
const shortCpu = (cpu) => cpu.replace(/\((R|TM)\)|\bCPU\b|\d+th Gen|Processor/gi, " ").replace(/\s+/g, " ").trim();

function Hardware({ node }) {
  const { cpu, cores } = node.spec;
  return html`
    <span class="clip" title=${cpu}>${shortCpu(cpu)}</span>
    <span class="row-note">${counted(cores, "core")}${accelerators(node).map((name) => html` <b class="chip">${name}</b>`)}</span>
  `;
}

function Name({ node }) {
  const { battery, throttleReason } = node.status.energy ?? {};
  const labels = Object.entries(node.metadata.labels ?? {})
    // Labels that every agent sets by itself are the same on most nodes.
    .filter(([key]) => !key.startsWith("flotilla.dev/"))
    .map(([key, value]) => (value ? `${key}=${value}` : key));
  return html`
    <a class="row-name row-link mono" href=${href("fleet", node.metadata.name)}>${node.metadata.name}</a>
    <span class="row-note">
      ${battery && html`<span class="flag"><${Icon} name="battery" />${percent(battery.charge)}</span>`}
      ${throttleReason && html`<span class="flag warn" title=${throttleReason}><${Icon} name="heat" />throttled</span>`}
      ${labels.join(", ")}
    </span>
  `;
}

function Memory({ node }) {
  const used = memoryUsed(node);
  const text = bytesOf(used, node.spec.memory);
  const share = node.spec.memory > 0 ? used / node.spec.memory : 0;
  const device = deviceMemory(node);
  return html`<span class="cell-text">${text}</span><${Bar} share=${share} tone=${share > 0.9 ? "tight" : ""} label=${`memory used: ${text}`} />${device && html`<span class="row-note">device: ${bytesOf(device.used, device.budget)}</span>`}`;
}

function Disk({ node }) {
  const space = disk(node);
  if (!space) return html`<span class="muted" title="the node has not reported it">–</span>`;
  const text = bytesOf(space.used, space.budget);
  const share = space.budget > 0 ? space.used / space.budget : 1;
  return html`<span class="cell-text">${text}</span><${Bar} share=${share} tone=${share > 0.9 ? "tight" : ""} label=${`disk space used by files of models: ${text}`} />`;
}

function Load({ node }) {
  const { active, queued } = load(node);
  if (active + queued === 0) return html`<span class="muted">idle</span>`;
  return html`<span class="cell-text">${active} active</span>${queued > 0 && html`<span class="row-note queued">+ ${queued} queued</span>`}`;
}

function Watts({ node }) {
  const { energy } = node.status;
  if (!energy) return html`<span class="muted" title="the node has not reported its power">–</span>`;
  return html`<${Measured} text=${watts(energy.watts)} estimated=${!energy.measured} why=${ESTIMATED.node} />`;
}

const COLUMNS = [
  { key: "name", title: "Node", value: (node) => node.metadata.name, cell: (node) => html`<${Name} node=${node} />` },
  {
    key: "state",
    title: "State",
    value: (node) => STATE_ORDER.indexOf(nodeState(node)),
    cell: (node) => html`<${State} name=${nodeState(node)} note=${node.status.flapping && "flapping"} />`,
  },
  { key: "zones", title: "Zones", value: (node) => zoneText(node) || null, cell: (node) => zoneText(node) || html`<span class="muted">none</span>` },
  { key: "hardware", title: "Hardware", value: (node) => shortCpu(node.spec.cpu), cell: (node) => html`<${Hardware} node=${node} />` },
  { key: "models", title: "Models", numeric: true, value: (node) => node.status.models.length, cell: (node) => count(node.status.models.length) },
  { key: "memory", title: "Memory", numeric: true, value: (node) => memoryUsed(node) / node.spec.memory, cell: (node) => html`<${Memory} node=${node} />` },
  { key: "disk", title: "Disk", numeric: true, value: (node) => disk(node)?.used ?? null, cell: (node) => html`<${Disk} node=${node} />` },
  { key: "load", title: "Load", numeric: true, value: (node) => load(node).active + load(node).queued, cell: (node) => html`<${Load} node=${node} />` },
  { key: "watts", title: "Power", numeric: true, value: (node) => node.status.energy?.watts ?? null, cell: (node) => html`<${Watts} node=${node} />` },
];

function Summary({ nodes }) {
  const { models, traffic } = useStore("models", "traffic");
  const now = traffic.at(-1);
  const ready = nodes.filter((node) => node.status.phase === "Ready").length;
  const notReady = tally(nodes, nodeState).filter(([state]) => state !== "Ready");
  const answering = [...models.values()].filter((model) => model.status.ready > 0).length;
  const failed = [...models.values()].filter((model) => model.status.phase === "Failed").length;
  const used = nodes.reduce((total, node) => total + memoryUsed(node), 0);
  const memory = nodes.reduce((total, node) => total + node.spec.memory, 0);
  const estimated = now?.watts ? now.estimatedWatts > 0 : false;
  return html`
    <ul class="tiles" aria-label="The fleet now">
      <${Tile} label="Nodes ready" tone=${notReady.length > 2 ? "wide" : ""} value=${html`${count(ready)}<small> of ${count(nodes.length)}</small>`}>
        ${notReady.length === 0 ? "all of them" : notReady.map(([state, amount]) => html`<span class=${`tally ${stateKind(state)}`}><${Mark} kind=${stateKind(state)} />${count(amount)} ${state}</span>`)}
      <//>
      <${Tile} label="Models answering" value=${html`${count(answering)}<small> of ${count(models.size)}</small>`} link=${href("models")}>
        ${failed > 0 ? html`<span class="tally bad"><${Mark} kind="bad" />${counted(failed, "model")} failed</span>` : "none failed"}
      <//>
      <${Tile} label="Requests" value=${now ? html`${number(now.requests)}<small>/s</small>` : NONE} link=${href("traffic")}>
        ${now ? `${count(now.inFlight)} in flight, ${count(now.queued)} queued` : ""}
      <//>
      <${Tile} label="Power" value=${html`<${Measured} text=${watts(now?.watts)} estimated=${estimated} why=${ESTIMATED.node} />`} link=${href("energy")}>
        ${provenance(now?.watts, now?.estimatedWatts) ?? "no node has reported it"}
      <//>
      <${Tile} label="Memory for models" value=${html`${memory > 0 ? percent(used / memory) : "–"}`}>
        ${memory > 0 ? bytesOf(used, memory) : ""}
      <//>
    </ul>
  `;
}

function matching(nodes, { text, state, zone }) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return nodes.filter((node) => {
    if (state !== "all" && nodeState(node) !== state) return false;
    if (zone !== "all" && !zonesOf(node).includes(zone)) return false;
    if (words.length === 0) return true;
    const labels = Object.entries(node.metadata.labels ?? {}).map(([key, value]) => `${key}=${value}`);
    const searchable = [node.metadata.name, node.spec.cpu, ...(node.spec.zones ?? []), ...node.spec.accelerators, ...labels, ...node.status.models.map((model) => model.name)];
    const all = searchable.join(" ").toLowerCase();
    return words.every((word) => all.includes(word));
  });
}

function NoNodes() {
  const { controllers } = useStore("controllers");
  const link = controllers.find((controller) => controller.local)?.link;
  // A loopback address cannot be used from another machine.
  const address = link && !/^(127\.|0\.|localhost|\[)/.test(link) ? link : `${location.hostname}:${link?.split(":").pop() ?? "7070"}`;
  return html`
    <${Empty} title="No node has joined yet">
      <p>A node is a machine that runs an agent. Run this on the machine:</p>
      <pre><code>flotilla agent --join ${address}</code></pre>
      <p>with an address at which the machine reaches this controller. The node then appears here.</p>
    <//>
  `;
}

export function Fleet() {
  const { nodes: all } = useStore("nodes");
  const phone = usePhone();
  const [filter, setFilter] = useSavedState("fleet filter", { text: "", state: "all", zone: "all" });
  const nodes = useMemo(() => [...all.values()], [all]);
  const shown = useMemo(() => matching(nodes, filter), [nodes, filter]);
  const set = (part) => (value) => setFilter({ ...filter, [part]: value });
  if (nodes.length === 0) return html`<h1>Fleet</h1><${NoNodes} />`;

  const states = tally(nodes, nodeState).map(([state, amount]) => [state, `${state} (${count(amount)})`]);
  const zones = tally(nodes.flatMap(zonesOf), (zone) => zone).map(([zone, amount]) => [zone, `${zone || "no zone"} (${count(amount)})`]);
  return html`
    <h1>Fleet</h1>
    <${Summary} nodes=${nodes} />
    ${nodes.length >= MIN_MAP_NODES && html`<${NodeMap} nodes=${shown} />`}
    <section class="panel flush" aria-label="Nodes">
      <div class="toolbar">
        <${Search} label="Filter by name, label, hardware or model" value=${filter.text} onValue=${set("text")} />
        <${Select} label="State" value=${filter.state} onValue=${set("state")} options=${[["all", "all"], ...states]} />
        <${Select} label="Zone" value=${filter.zone} onValue=${set("zone")} options=${[["all", "all"], ...zones]} />
        <p class="toolbar-count" role="status">${shown.length === nodes.length ? counted(nodes.length, "node") : `${count(shown.length)} of ${counted(nodes.length, "node")}`}</p>
      </div>
      ${shown.length === 0
        ? html`<p class="no-items">No node matches. <button type="button" class="link" onClick=${() => setFilter({ text: "", state: "all", zone: "all" })}>Show all</button></p>`
        : html`<${SortedTable}
            name="nodes"
            caption="The nodes of the fleet"
            columns=${COLUMNS}
            items=${shown}
            itemKey=${(node) => node.metadata.name}
            rowHeight=${phone ? ROW_HEIGHT_PHONE : ROW_HEIGHT}
            defaultSort=${{ key: "name", down: false }}
          />`}
    </section>
  `;
}
