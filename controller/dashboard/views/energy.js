// Power of the fleet, and energy per answer.

import { html, useMemo } from "../html.js";
import { Chart } from "../chart.js";
import { useSavedState, useStore } from "../hooks.js";
import { joulesPerToken, usageSum } from "../facts.js";
import { cost, count, counted, dateAndTime, grams, joules, joulesPerToken as perToken, NONE, si, watts } from "../format.js";
import { Bar, ESTIMATED, Measured, ModelLink, NodeLink, Panel, provenance, Segments, Tile } from "../parts.js";
import { columns } from "../series.js";

const SECONDS = 900;
/** Rows of a list before it is expanded. */
const SHOWN = 12;

// The area between the two lines is estimated.
const POWER = [
  { label: "total", color: "chart-2", dash: "dashed", fill: "hatched", band: true, read: (point) => point.watts },
  { label: "measured", color: "chart-1", fill: "solid", read: (point) => (point.watts === null ? null : point.watts - point.estimatedWatts) },
];
const ATTRIBUTED = [
  { label: "total", color: "chart-2", dash: "dashed", fill: "hatched", band: true, read: (point) => point.joules },
  { label: "measured", color: "chart-1", fill: "solid", read: (point) => point.joules - point.estimatedJoules },
];

function Summary() {
  const { traffic, usage, currency } = useStore("traffic", "usage", "currency");
  const now = traffic.at(-1);
  const total = usageSum(usage?.models ?? []);
  const estimated = total.estimatedJoules > 0;
  const marked = (text) => html`<${Measured} text=${text} estimated=${estimated} />`;
  const source = provenance(total.joules, total.estimatedJoules) ?? "no requests yet";
  return html`
    <ul class="tiles" aria-label="Energy">
      <${Tile} label="Power now" value=${html`<${Measured} text=${watts(now?.watts)} estimated=${(now?.estimatedWatts ?? 0) > 0} why=${ESTIMATED.node} />`}>${provenance(now?.watts, now?.estimatedWatts) ?? "no node has reported it"}<//>
      <${Tile} label="Energy of answers" value=${marked(joules(total.joules))}>${source}<//>
      <${Tile} label="Per output token" value=${marked(perToken(joulesPerToken(total)))}>${count(total.outputTokens)} tokens<//>
      <${Tile} label="Carbon, CO₂e" value=${total.co2Grams === null ? NONE : marked(si(total.co2Grams, "g"))}>${total.co2Grams === null ? "no grid intensity is configured" : "of the electricity used"}<//>
      <${Tile} label="Cost" value=${total.cost === null ? NONE : marked(cost(total.cost, currency))}>${total.cost === null ? "no price is configured" : "of the electricity used"}<//>
    </ul>
    ${usage && html`<p class="since">Energy, carbon and cost of answers are counted since the controller started, ${dateAndTime(usage.since)}.</p>`}
  `;
}

function PowerChart({ title, series, format }) {
  const { traffic } = useStore("traffic");
  const data = useMemo(() => columns(traffic, SECONDS, series), [traffic]);
  return html`<${Panel} title=${title} aside=${html`<span class="hatch-key"><i></i>estimated</span>`}><${Chart} title=${title} series=${series} columns=${data} seconds=${SECONDS} format=${format} /><//>`;
}

function ShowMore({ total, all, onAll }) {
  if (total <= SHOWN) return null;
  return html`<button type="button" class="more" aria-expanded=${all} onClick=${() => onAll(!all)}>${all ? "Show fewer" : `Show more of ${count(total)}`}</button>`;
}

/** Rows of a list after it is expanded. */
const MAX_SHOWN = 200;

/** Rows of `{ name, value, estimated, text, why, extra }` with bars. `stateKey` saves whether all are shown. */
function Bars({ rows, link: Link, stateKey }) {
  const [all, setAll] = useSavedState(stateKey, false);
  const max = rows.reduce((highest, { value }) => Math.max(highest, value), 0);
  return html`
    <ul class="bars">
      ${rows.slice(0, all ? MAX_SHOWN : SHOWN).map(
        ({ name, value, estimated, text, why, extra }) => html`
          <li key=${name}>
            <span class="bars-name"><${Link} name=${name} /></span>
            <${Bar} share=${value / max} estimated=${estimated / max} label=${text} />
            <span class="bars-value"><${Measured} text=${text} estimated=${estimated > 0} why=${why} />${extra && html`<span class="row-note">${extra}</span>`}</span>
          </li>
        `,
      )}
    </ul>
    <${ShowMore} total=${rows.length} all=${all} onAll=${setAll} />
  `;
}

function WattsByNode() {
  const { nodes } = useStore("nodes");
  const reporting = [...nodes.values()].filter((node) => node.status.energy && node.status.phase === "Ready");
  const rows = reporting
    .map((node) => {
      const { watts: value, measured, source } = node.status.energy;
      return { name: node.metadata.name, value, estimated: measured ? 0 : value, text: watts(value), extra: source, why: node.status.energy.hint ?? ESTIMATED.node };
    })
    .sort((a, b) => b.value - a.value);
  const estimatedNodes = rows.filter(({ estimated }) => estimated > 0).length;
  const aside = estimatedNodes > 0 ? `${count(estimatedNodes)} of ${counted(rows.length, "node")} estimated` : counted(rows.length, "node");
  return html`
    <${Panel} title="Power by node" aside=${aside}>
      ${rows.length === 0 ? html`<p class="muted">No node has reported its power.</p>` : html`<${Bars} rows=${rows} link=${NodeLink} stateKey="energy nodes" />`}
    <//>
  `;
}

function JoulesPerToken() {
  const { usage } = useStore("usage");
  const rows = (usage?.models ?? [])
    .filter((row) => row.outputTokens > 0 && row.joules > 0)
    .map((row) => {
      const value = joulesPerToken(row);
      return { name: row.name, value, estimated: row.estimatedJoules / row.outputTokens, text: perToken(value), extra: `${count(row.outputTokens)} tok` };
    })
    .sort((a, b) => b.value - a.value);
  return html`
    <${Panel} title="Joules per output token by model" aside=${counted(rows.length, "model")}>
      ${rows.length === 0 ? html`<p class="muted">No request has been answered yet.</p>` : html`<${Bars} rows=${rows} link=${ModelLink} stateKey="energy models" />`}
    <//>
  `;
}

const KINDS = [["models", "Models"], ["tasks", "Tasks"], ["nodes", "Nodes"]];
const LINKS = { models: ModelLink, nodes: NodeLink, tasks: ({ name }) => name };

function Usage() {
  const { usage, currency } = useStore("usage", "currency");
  const [kind, setKind] = useSavedState("energy usage", "models");
  const [all, setAll] = useSavedState("energy usage all", false);
  const rows = [...(usage?.[kind] ?? [])].sort((a, b) => b.joules - a.joules);
  const Link = LINKS[kind];
  return html`
    <${Panel} title="Usage by answers" aside=${html`<${Segments} label="By" value=${kind} onValue=${setKind} options=${KINDS} />`}>
      ${rows.length === 0
        ? html`<p class="no-items">There have been no requests yet.</p>`
        : html`<div class="scroll-x">
            <table class="table stacked">
              <thead>
                <tr>
                  <th scope="col">${kind === "tasks" ? "Task" : kind === "nodes" ? "Node" : "Model"}</th>
                  ${["Requests", "Errors", "Prompt tokens", "Output tokens", "Energy", "Per output token", "Carbon", "Cost"].map((title) => html`<th scope="col" class="numeric">${title}</th>`)}
                </tr>
              </thead>
              <tbody>
                ${rows.slice(0, all ? MAX_SHOWN : SHOWN).map((row) => {
                  const marked = (text) => html`<${Measured} text=${text} estimated=${row.estimatedJoules > 0} />`;
                  return html`
                    <tr key=${row.name}>
                      <th scope="row"><${Link} name=${row.name} /></th>
                      <td class="numeric" data-label="Requests">${count(row.requests)}</td>
                      <td class="numeric" data-label="Errors">${count(row.errors)}</td>
                      <td class="numeric" data-label="Prompt tokens">${count(row.promptTokens)}</td>
                      <td class="numeric" data-label="Output tokens">${count(row.outputTokens)}</td>
                      <td class="numeric" data-label="Energy">${marked(joules(row.joules))}</td>
                      <td class="numeric" data-label="Per output token">${marked(perToken(joulesPerToken(row)))}</td>
                      <td class="numeric" data-label="Carbon">${row.co2Grams === null ? NONE : marked(grams(row.co2Grams))}</td>
                      <td class="numeric" data-label="Cost">${row.cost === null ? NONE : marked(cost(row.cost, currency))}</td>
                    </tr>
                  `;
                })}
              </tbody>
            </table>
          </div>`}
      <${ShowMore} total=${rows.length} all=${all} onAll=${setAll} />
    <//>
  `;
}

export function Energy() {
  return html`
    <h1>Energy</h1>
    <${Summary} />
    <div class="charts">
      <${PowerChart} title="Power of the fleet" series=${POWER} format=${watts} />
      <${PowerChart} title="Energy of answers, per second" series=${ATTRIBUTED} format=${joules} />
    </div>
    <div class="columns">
      <${WattsByNode} />
      <${JoulesPerToken} />
    </div>
    <${Usage} />
  `;
}
