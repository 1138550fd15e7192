// One node: its hardware, its power, and its models.

import { html } from "../html.js";
import { useStore } from "../hooks.js";
import { disk, gpus, load, memoryUsed, nodeState } from "../facts.js";
import { bytes, bytesOf, count, joules, ms, NONE, percent, si, watts } from "../format.js";
import { Icon } from "../icons.js";
import { Back, Bar, Empty, ESTIMATED, Facts, Labels, loadText, Measured, ModelLink, Panel, State } from "../parts.js";

const PHASES = {
  Joining: "It has joined and has not sent a status report yet.",
  Suspect: "It has not reported for a while: it gets no new requests until it does.",
  Lost: "It cannot be reached. Its models are placed on other nodes if there is enough memory.",
  Draining: "Its models move to other nodes. Its current requests are finished.",
  Cordoned: "It keeps its models and gets no new ones.",
};

function Power({ energy }) {
  if (!energy) return html`<${Panel} title="Power"><p class="muted">The node has not reported its power.</p><//>`;
  const estimated = !energy.measured;
  const share = energy.maxWatts > 0 ? energy.watts / energy.maxWatts : 0;
  return html`
    <${Panel} title="Power">
      <p class="figure"><${Measured} text=${watts(energy.watts)} estimated=${estimated} why=${ESTIMATED.node} /></p>
      <${Bar} share=${share} estimated=${estimated ? share : 0} label=${`${watts(energy.watts)} of a maximum of ${watts(energy.maxWatts)}`} />
      <p class="scale"><span>idle ${watts(energy.idleWatts)}</span><span>maximum ${watts(energy.maxWatts)}</span></p>
      <${Facts}
        entries=${[
          ["Source", html`<b>${energy.source}</b> – ${energy.measured ? "measured" : "estimated"}`],
          ["Energy since the agent started", html`<${Measured} text=${joules(energy.joules)} estimated=${estimated} why=${ESTIMATED.node} />`],
          ["Resolution", energy.measured && energy.resolutionJoules > 0 && si(energy.resolutionJoules, "J")],
          ["Battery", energy.battery && `${percent(energy.battery.charge)}, ${energy.battery.discharging ? "discharging" : "on mains power"}`],
        ]}
      />
      ${energy.throttleReason && html`<p class="callout warn"><${Icon} name="heat" /><span>Throttled: ${energy.throttleReason}</span></p>`}
      ${energy.hint && html`<p class="callout"><${Icon} name="warning" /><span>${energy.hint}</span></p>`}
    <//>
  `;
}

function Machine({ node }) {
  const { spec, metadata, status } = node;
  const used = memoryUsed(node);
  const labels = metadata.labels ?? {};
  const space = disk(node);
  return html`
    <${Panel} title="Machine">
      <p class="figure">${bytesOf(used, spec.memory)}</p>
      <${Bar} share=${used / spec.memory} label=${`memory for models: ${bytesOf(used, spec.memory)}`} />
      <p class="scale"><span>memory for models</span><span>${bytes(Math.max(0, spec.memory - used))} free</span></p>
      <${Facts}
        entries=${[
          ...gpus(node).map(({ name, used, budget }, index) => [`GPU ${index}`, `${name}, ${bytesOf(used, budget)} for models`]),
          ["Disk for files of models", space && bytesOf(space.used, space.budget)],
          ["Zones", spec.zones?.join(", ") || "none"],
          ["Processor", `${spec.cpu}, ${spec.cores} cores`],
          ["Accelerators", spec.accelerators.join(", ")],
          ["Platform", spec.platform],
          ["Agent", spec.version],
          ["Labels", Object.keys(labels).length > 0 && html`<${Labels} labels=${labels} />`],
          ["Taints", spec.taints?.length > 0 && spec.taints.map(({ key, value }) => (value ? `${key}=${value}` : key)).join(", ")],
          ["Flapping", status.flapping && "it has lost its link too often lately to get new models"],
        ]}
      />
    <//>
  `;
}

function ModelRow({ model }) {
  const { counters, replacement } = model;
  const perRequest = counters.requests > 0 ? counters.busyUs / counters.requests / 1000 : null;
  return html`
    <tr>
      <th scope="row">
        <${ModelLink} name=${model.name} />
        <span class="row-note mono">${model.revision}</span>
      </th>
      <td>
        <${State} name=${model.phase} note=${model.progress} />
        ${replacement && html`<span class="row-note">next revision ${replacement.revision}: ${replacement.phase} ${replacement.progress}</span>`}
        ${[model, replacement ?? {}].map(({ error, remedy }) => error && html`<p class="problem">${error}${remedy && html`<br /><span>${remedy}</span>`}</p>`)}
      </td>
      <td class="numeric" data-label="Memory">${model.memory > 0 ? bytes(model.memory) : NONE}</td>
      <td class="numeric" data-label="Load">${loadText(counters)}</td>
      <td class="numeric" data-label="Requests">${count(counters.requests)}</td>
      <td class="numeric" data-label="Failed">${count(counters.failed + counters.refused)}</td>
      <td class="numeric" data-label="Output tokens">${count(counters.outputTokens)}</td>
      <td class="numeric" data-label="Compute time per request">${ms(perRequest)}</td>
    </tr>
  `;
}

function NodeModels({ node }) {
  const models = [...node.status.models].sort((a, b) => a.name.localeCompare(b.name));
  const notStarted = node.status.assigned.filter((name) => !models.some((model) => model.name === name));
  return html`
    <${Panel} title="Models on this node" aside=${loadText(load(node))}>
      ${models.length + notStarted.length === 0
        ? html`<p class="no-items">No model is placed here.</p>`
        : html`<div class="scroll-x">
            <table class="table stacked">
              <thead>
                <tr>
                  ${["Model", "State"].map((title) => html`<th scope="col">${title}</th>`)}
                  ${["Memory", "Load", "Requests", "Failed", "Output tokens", "Compute time per request"].map((title) => html`<th scope="col" class="numeric">${title}</th>`)}
                </tr>
              </thead>
              <tbody>
                ${models.map((model) => html`<${ModelRow} key=${model.name} model=${model} />`)}
                ${notStarted.map((name) => html`<tr><th scope="row"><${ModelLink} name=${name} /></th><td colspan="7"><${State} name="Absent" note="assigned, not started by the node yet" /></td></tr>`)}
              </tbody>
            </table>
          </div>`}
    <//>
  `;
}

export function NodePage({ id }) {
  const node = useStore("nodes").nodes.get(id);
  if (!node) {
    return html`
      <${Back} view="fleet">Fleet<//>
      <h1 class="mono">${id}</h1>
      <${Empty} title="The fleet has no node of this name"><p>It has never joined, or it was deleted.</p><//>
    `;
  }
  const state = nodeState(node);
  return html`
    <${Back} view="fleet">Fleet<//>
    <header class="title">
      <h1 class="mono">${id}</h1>
      <${State} name=${state} />
      ${PHASES[state] && html`<p class="muted">${PHASES[state]}</p>`}
    </header>
    <div class="columns">
      <${Machine} node=${node} />
      <${Power} energy=${node.status.energy} />
    </div>
    <${NodeModels} node=${node} />
    <p class="commands">
      ${state === "Cordoned" || state === "Draining"
        ? html`<code>flotilla uncordon ${id}</code> allows new models on it again.`
        : html`<code>flotilla cordon ${id}</code> allows no new models on it, <code>flotilla drain ${id}</code> moves its models to other nodes.`}
    </p>
  `;
}
