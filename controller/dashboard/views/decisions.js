// The decisions as they are made: where requests went and what became of them.

import { html, useMemo, useRef, useState } from "../html.js";
import { useKept, usePhone, useStore } from "../hooks.js";
import { isEstimate } from "../facts.js";
import { count, counted, joules, ms, NONE, timeOfDay, tokens } from "../format.js";
import { Icon } from "../icons.js";
import { href } from "../routes.js";
import { Empty, Measured, Search, Select, State } from "../parts.js";
import { WindowedRows } from "../windowed.js";

const ROW_HEIGHT = 49;
const ROW_HEIGHT_PHONE = 104;
const COLUMNS = 8;

const ENDS = [["all", "all"], ["answered", "answered"], ["failed", "failed"], ["abandoned", "abandoned"]];
const WAYS = [["all", "all"], ["cascade", "cascades"], ["hedged", "hedged"], ["routed", "routed by task"]];

function fits(decision, { text, end, way }) {
  if (end !== "all" && decision.end !== end) return false;
  if (way === "cascade" && !(decision.tiers > 0)) return false;
  if (way === "hedged" && !decision.hedged) return false;
  if (way === "routed" && !decision.task) return false;
  const { id, requested, task, model, node, error } = decision;
  return [id, requested, task, model, node, error].filter(Boolean).join(" ").toLowerCase().includes(text.toLowerCase());
}

function Row({ decision, height }) {
  const { id, at, requested, task, model, node, end, error, firstTokenMs, totalMs, completionTokens, tiers, hedged } = decision;
  return html`
    <tr role="row" style=${{ height: `${height}px` }}>
      <th role="rowheader" scope="row" class="col-time">
        <a class="row-link" href=${href("decisions", id)} aria-label=${`Why: the decision of ${timeOfDay(at)}, ${id}`}>${timeOfDay(at)}</a>
      </th>
      <td role="cell" class="col-asked">
        <span class="mono clip" title=${requested}>${requested}</span>
        ${task && requested !== `task:${task}` && html`<span class="row-note">task ${task}</span>`}
      </td>
      <td role="cell" class="col-went">
        <span class="mono clip" title=${model}>${model ?? "nowhere"}</span>
        ${node && html`<span class="row-note mono">${node}</span>`}
      </td>
      <td role="cell" class="col-end">
        <${State} name=${end} />
        ${error
          ? html`<span class="row-note clip" title=${error}>${error}</span>`
          : (tiers > 0 || hedged) && html`<span class="row-note">${tiers > 0 && html`<b class="chip">cascade</b> `}${hedged && html`<b class="chip">hedged</b>`}</span>`}
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

/** The list, held still while it is paused or pointed at: a row that moves cannot be clicked. */
function useHeld(decisions) {
  const [paused, setPaused] = useState(false);
  const [pointed, setPointed] = useState(false);
  const still = useRef(null);
  const held = paused || pointed;
  if (!held) still.current = null;
  else still.current ??= decisions;
  const shown = still.current ?? decisions;
  const newest = shown[0]?.id;
  const waiting = held ? decisions.findIndex(({ id }) => id === newest) : 0;
  return { shown, paused, setPaused, setPointed, held, waiting: waiting < 0 ? decisions.length : waiting };
}

export function Decisions() {
  const { decisions, omitted } = useStore("decisions", "omitted");
  const phone = usePhone();
  const [filter, setFilter] = useKept("decisions filter", { text: "", end: "all", way: "all" });
  const { shown, paused, setPaused, setPointed, held, waiting } = useHeld(decisions);
  const fitting = useMemo(() => shown.filter((decision) => fits(decision, filter)), [shown, filter]);
  const set = (part) => (value) => setFilter({ ...filter, [part]: value });
  const height = phone ? ROW_HEIGHT_PHONE : ROW_HEIGHT;
  if (decisions.length === 0) {
    return html`
      <h1>Decisions</h1>
      <${Empty} title="Nothing has been asked yet">
        <p>Each request leaves a record of where it went and why. Ask something:</p>
        <pre><code>flotilla chat auto "where is my new card?"</code></pre>
        <p>or in the <a href=${href("playground")}>playground</a>.</p>
      <//>
    `;
  }
  return html`
    <div class="title-row">
      <h1>Decisions</h1>
      <button type="button" class="button" aria-pressed=${paused} onClick=${() => setPaused(!paused)}>
        <${Icon} name=${paused ? "play" : "pause"} />${paused ? "Go on" : "Pause"}
      </button>
    </div>
    <section class="panel flush" aria-label="Decisions">
      <div class="toolbar">
        <${Search} label="Filter by task, model, node, id or error" value=${filter.text} onValue=${set("text")} />
        <${Select} label="End" value=${filter.end} onValue=${set("end")} options=${ENDS} />
        <${Select} label="Way" value=${filter.way} onValue=${set("way")} options=${WAYS} />
        <p class="toolbar-count">
          ${held && waiting > 0
            ? `${paused ? "paused" : "held while you point at it"}, ${count(waiting)} new`
            : `the last ${counted(fitting.length, "decision")}${omitted > 0 ? ", a sample" : ""}`}
        </p>
      </div>
      ${fitting.length === 0
        ? html`<p class="nothing">No decision fits.</p>`
        : html`
            <table class="table decisions" role="table" onMouseEnter=${() => setPointed(true)} onMouseLeave=${() => setPointed(false)}>
              <caption class="sr">The last decisions, the newest first</caption>
              <thead role="rowgroup">
                <tr role="row">
                  ${["Time", "Asked for", "Went to", "End"].map((title) => html`<th role="columnheader" scope="col">${title}</th>`)}
                  ${["First token", "Total", "Output", "Energy"].map((title) => html`<th role="columnheader" scope="col" class="numeric">${title}</th>`)}
                </tr>
              </thead>
              <${WindowedRows} items=${fitting} rowHeight=${height} columns=${COLUMNS} row=${(decision) => html`<${Row} key=${decision.id} decision=${decision} height=${height} />`} />
            </table>
          `}
    </section>
  `;
}
