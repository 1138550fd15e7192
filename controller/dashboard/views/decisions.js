// Recent routing decisions: which replica each request was sent to, and how it ended.

import { html, useMemo, useRef, useState } from "../html.js";
import { useSavedState, usePhone, useStore } from "../hooks.js";
import { isEstimate } from "../facts.js";
import { count, counted, joules, ms, NONE, timeOfDay, tokens } from "../format.js";
import { Icon } from "../icons.js";
import { href } from "../routes.js";
import { Empty, Measured, Search, Select, State } from "../parts.js";
import { WindowedRows } from "../windowed.js";

const ROW_HEIGHT = 49;
const ROW_HEIGHT_PHONE = 104;
const COLUMNS = 8;

const STATUSES = [["all", "all"], ["answered", "answered"], ["failed", "failed"], ["cancelled", "cancelled"]];
const ROUTING = [["all", "all"], ["cascade", "cascades"], ["hedged", "hedged"], ["routed", "routed by task"]];

function matches(decision, { text, status, routing }) {
  if (status !== "all" && decision.status !== status) return false;
  if (routing === "cascade" && !(decision.cascadeTiers > 0)) return false;
  if (routing === "hedged" && !decision.hedged) return false;
  if (routing === "routed" && !decision.task) return false;
  const { id, requestedModel, task, model, node, error } = decision;
  return [id, requestedModel, task, model, node, error].filter(Boolean).join(" ").toLowerCase().includes(text.toLowerCase());
}

function Row({ decision, height }) {
  const { id, at, requestedModel, task, model, node, status, error, firstTokenMs, totalMs, completionTokens, cascadeTiers, hedged } = decision;
  return html`
    <tr role="row" style=${{ height: `${height}px` }}>
      <th role="rowheader" scope="row" class="col-time">
        <a class="row-link" href=${href("decisions", id)} aria-label=${`Explain the decision at ${timeOfDay(at)}, ${id}`}>${timeOfDay(at)}</a>
      </th>
      <td role="cell" class="col-requested">
        <span class="mono clip" title=${requestedModel}>${requestedModel}</span>
        ${task && requestedModel !== `task:${task}` && html`<span class="row-note">task ${task}</span>`}
      </td>
      <td role="cell" class="col-replica">
        <span class="mono clip" title=${model}>${model ?? "none"}</span>
        ${node && html`<span class="row-note mono">${node}</span>`}
      </td>
      <td role="cell" class="col-status">
        <${State} name=${status} />
        ${error
          ? html`<span class="row-note clip" title=${error}>${error}</span>`
          : (cascadeTiers > 0 || hedged) && html`<span class="row-note">${cascadeTiers > 0 && html`<b class="chip">cascade</b> `}${hedged && html`<b class="chip">hedged</b>`}</span>`}
      </td>
      <td role="cell" class="numeric col-first" data-label="first token">${ms(firstTokenMs)}</td>
      <td role="cell" class="numeric col-total" data-label="total">${ms(totalMs)}</td>
      <td role="cell" class="numeric col-tokens">${tokens(completionTokens)}</td>
      <td role="cell" class="numeric col-joules">
        ${decision.joules === undefined ? NONE : html`<${Measured} text=${joules(decision.joules)} estimated=${isEstimate(decision.joulesSource)} />`}
      </td>
    </tr>
  `;
}

/** The list, frozen while it is paused or under the pointer, as a moving row cannot be clicked. */
function useFrozen(decisions) {
  const [paused, setPaused] = useState(false);
  const [hovered, setHovered] = useState(false);
  const frozen = useRef(null);
  const isFrozen = paused || hovered;
  if (!isFrozen) frozen.current = null;
  else frozen.current ??= decisions;
  const shown = frozen.current ?? decisions;
  const newest = shown[0]?.id;
  const unseen = isFrozen ? decisions.findIndex(({ id }) => id === newest) : 0;
  return { shown, paused, setPaused, setHovered, isFrozen, unseen: unseen < 0 ? decisions.length : unseen };
}

export function Decisions() {
  const { decisions, omitted } = useStore("decisions", "omitted");
  const phone = usePhone();
  const [filter, setFilter] = useSavedState("decisions filter", { text: "", status: "all", routing: "all" });
  const { shown, paused, setPaused, setHovered, isFrozen, unseen } = useFrozen(decisions);
  const matching = useMemo(() => shown.filter((decision) => matches(decision, filter)), [shown, filter]);
  const set = (part) => (value) => setFilter({ ...filter, [part]: value });
  const height = phone ? ROW_HEIGHT_PHONE : ROW_HEIGHT;
  if (decisions.length === 0) {
    return html`
      <h1>Decisions</h1>
      <${Empty} title="There have been no requests yet">
        <p>Each request leaves a record of the replica that answered it, and why. Send one:</p>
        <pre><code>flotilla chat auto "where is my new card?"</code></pre>
        <p>or use the <a href=${href("playground")}>playground</a>.</p>
      <//>
    `;
  }
  return html`
    <div class="title-row">
      <h1>Decisions</h1>
      <button type="button" class="button" aria-pressed=${paused} onClick=${() => setPaused(!paused)}>
        <${Icon} name=${paused ? "play" : "pause"} />${paused ? "Resume" : "Pause"}
      </button>
    </div>
    <section class="panel flush" aria-label="Decisions">
      <div class="toolbar">
        <${Search} label="Filter by task, model, node, id or error" value=${filter.text} onValue=${set("text")} />
        <${Select} label="Status" value=${filter.status} onValue=${set("status")} options=${STATUSES} />
        <${Select} label="Routing" value=${filter.routing} onValue=${set("routing")} options=${ROUTING} />
        <p class="toolbar-count">
          ${isFrozen && unseen > 0
            ? `${paused ? "paused" : "frozen under the pointer"}, ${count(unseen)} new`
            : `the last ${counted(matching.length, "decision")}${omitted > 0 ? ", sampled" : ""}`}
        </p>
      </div>
      ${matching.length === 0
        ? html`<p class="no-items">No decision matches.</p>`
        : html`
            <table class="table decisions" role="table" onMouseEnter=${() => setHovered(true)} onMouseLeave=${() => setHovered(false)}>
              <caption class="sr">The last decisions, newest first</caption>
              <thead role="rowgroup">
                <tr role="row">
                  ${["Time", "Requested", "Replica", "Status"].map((title) => html`<th role="columnheader" scope="col">${title}</th>`)}
                  ${["First token", "Total", "Output", "Energy"].map((title) => html`<th role="columnheader" scope="col" class="numeric">${title}</th>`)}
                </tr>
              </thead>
              <${WindowedRows} items=${matching} rowHeight=${height} columns=${COLUMNS} row=${(decision) => html`<${Row} key=${decision.id} decision=${decision} height=${height} />`} />
            </table>
          `}
    </section>
  `;
}
