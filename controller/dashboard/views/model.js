// One model: its spec, its replicas, why some are missing, and its usage.

import { html } from "../html.js";
import { useStore } from "../hooks.js";
import { joulesPerToken, modelLoad, replicaBounds, sourceText } from "../facts.js";
import { bytes, cost, count, counted, grams, joules, joulesPerToken as perToken, NONE, tokens } from "../format.js";
import { Icon } from "../icons.js";
import { Back, Empty, Facts, Labels, loadText, Measured, ModelLink, NodeLink, Panel, State } from "../parts.js";

const PHASES = {
  Updating: "All replicas answer, and a rollout to another revision is in progress.",
  Partial: "Only some of its replicas answer.",
  Asleep: "It has no replica, as there are no requests. The next request starts one.",
  Pending: "No replica answers yet.",
  Fetching: "A controller is fetching its files.",
  Failed: "No replica answers, and fetching or loading it has failed.",
};

/** Nodes that are listed for each reason. */
const MAX_NODES_PER_REASON = 12;

/** Nodes grouped by the reason why they cannot take the model, the largest group first. */
function groupByReason(unschedulableNodes) {
  const reasons = new Map();
  for (const [node, reason] of Object.entries(unschedulableNodes)) {
    // The amount of free memory differs from node to node, but the reason is the same.
    const kind = reason.replace(/, .* free$/, "");
    if (!reasons.has(kind)) reasons.set(kind, []);
    reasons.get(kind).push({ node, reason });
  }
  return [...reasons].sort((a, b) => b[1].length - a[1].length);
}

function Differences({ status }) {
  const reasons = groupByReason(status.unschedulableNodes ?? {});
  const unanswered = status.replicas.filter((replica) => replica.failingRequests);
  const notes = [...unanswered.map((replica) => `${replica.node}: ${replica.failingRequests}`), status.lastError, status.unplacedReason, ...(status.notes ?? [])].filter(Boolean);
  if (notes.length === 0 && !status.rollbackReason && !status.fetch) return null;
  return html`
    <${Panel} title="Differences from the spec">
      ${notes.map((note) => html`<p class="callout warn"><${Icon} name="warning" /><span>${note}</span></p>`)}
      ${status.rollbackReason && html`<p class="callout warn"><${Icon} name="warning" /><span>Rolled back: ${status.rollbackReason}</span></p>`}
      ${status.fetch && html`<p class="callout"><${Icon} name="models" /><span>${status.fetch}</span></p>`}
      ${reasons.length > 0 &&
      html`<ul class="reasons">
        ${reasons.map(
          ([kind, members]) => html`
            <li>
              <b>${kind}</b><span class="muted">${counted(members.length, "node")}</span>
              <span class="reason-nodes">
                ${members.slice(0, MAX_NODES_PER_REASON).map(({ node, reason }) => html`<span title=${reason}><${NodeLink} name=${node} /></span>`)}
                ${members.length > MAX_NODES_PER_REASON && html`<span class="muted">and ${count(members.length - MAX_NODES_PER_REASON)} more</span>`}
              </span>
            </li>
          `,
        )}
      </ul>`}
    <//>
  `;
}

function Replicas({ replicas }) {
  return html`
    <${Panel} title="Replicas" aside=${counted(replicas.length, "replica")}>
      ${replicas.length === 0
        ? html`<p class="no-items">There are no replicas.</p>`
        : html`<div class="scroll-x">
            <table class="table stacked">
              <thead>
                <tr>
                  <th scope="col">Node</th>
                  <th scope="col">State</th>
                  ${["Load", "Requests", "Failed", "Output tokens"].map((title) => html`<th scope="col" class="numeric">${title}</th>`)}
                </tr>
              </thead>
              <tbody>
                ${replicas.map(
                  ({ node, phase, progress, error, remedy, revision, counters }) => html`
                    <tr key=${node}>
                      <th scope="row"><${NodeLink} name=${node} /><span class="row-note mono">${revision}</span></th>
                      <td>
                        <${State} name=${phase} note=${progress} />
                        ${error && html`<p class="problem">${error}${remedy && html`<br /><span>${remedy}</span>`}</p>`}
                      </td>
                      <td class="numeric" data-label="Load">${loadText(counters)}</td>
                      <td class="numeric" data-label="Requests">${count(counters.requests)}</td>
                      <td class="numeric" data-label="Failed">${count(counters.failed + counters.refused)}</td>
                      <td class="numeric" data-label="Output tokens">${count(counters.outputTokens)}</td>
                    </tr>
                  `,
                )}
              </tbody>
            </table>
          </div>`}
    <//>
  `;
}

function Usage({ name }) {
  const { usage, currency } = useStore("usage", "currency");
  const row = usage?.models.find((model) => model.name === name);
  if (!row) return html`<${Panel} title="Since the controller started"><p class="muted">There have been no requests for it yet.</p><//>`;
  const estimated = row.estimatedJoules > 0;
  const marked = (text) => html`<${Measured} text=${text} estimated=${estimated} />`;
  return html`
    <${Panel} title="Since the controller started">
      <p class="figure">${marked(perToken(joulesPerToken(row)))}</p>
      <p class="scale"><span>energy per output token</span></p>
      <${Facts}
        entries=${[
          ["Requests", `${count(row.requests)}, ${counted(row.errors, "error")}`],
          ["Tokens", `${tokens(row.promptTokens)} in, ${tokens(row.outputTokens)} out`],
          ["Energy", marked(joules(row.joules))],
          ["Carbon", row.co2Grams !== null && marked(grams(row.co2Grams))],
          ["Cost", row.cost !== null && marked(cost(row.cost, currency))],
        ]}
      />
    <//>
  `;
}

export function ModelPage({ id }) {
  const model = useStore("models").models.get(id);
  if (!model) {
    return html`
      <${Back} view="models">Models<//>
      <h1 class="mono">${id}</h1>
      <${Empty} title="The fleet has no model of this name"><p>It was never applied, or it was deleted.</p><//>
    `;
  }
  const { spec, status } = model;
  const { min, max } = replicaBounds(model);
  return html`
    <${Back} view="models">Models<//>
    <header class="title">
      <h1 class="mono">${id}</h1>
      <${State} name=${status.phase} />
      ${PHASES[status.phase] && html`<p class="muted">${PHASES[status.phase]}</p>`}
    </header>
    <div class="columns">
      <${Panel} title="Spec">
        ${spec.description && html`<p class="described">${spec.description}</p>`}
        <${Facts}
          entries=${[
            ["Replicas", `${status.ready} ready, ${status.assigned} assigned, ${min === max ? `${max} specified` : `${min} to ${max} specified`}`],
            ["Load", loadText(modelLoad(model))],
            ["Pending requests", status.waiting > 0 && count(status.waiting)],
            ["Memory per replica", typeof status.memory === "number" ? bytes(status.memory) : NONE],
            ["Engine", spec.engine],
            ["Adapter of", spec.base && html`<${ModelLink} name=${spec.base} />`],
            ["Adapters", status.adapters && html`<span class="reason-nodes">${status.adapters.map((name) => html`<${ModelLink} name=${name} />`)}</span>`],
            ["Source", sourceText(spec.source)],
            ["Revision", html`<span class="mono">${status.revision}</span>`],
            ["Accelerator", spec.accelerator],
            ["Zones", spec.zones?.join(", ")],
            ["Node labels", spec.nodeSelector && html`<${Labels} labels=${spec.nodeSelector} />`],
            ["Spread by", spec.spreadBy],
            ["Concurrency per replica", `${spec.concurrency}, and a queue of ${spec.queue}`],
          ]}
        />
      <//>
      <${Usage} name=${id} />
    </div>
    <${Differences} status=${status} />
    <${Replicas} replicas=${status.replicas} />
  `;
}
