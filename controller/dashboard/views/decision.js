// The page of one decision: loads its record and shows the explanation.

import { html, useEffect, useState } from "../html.js";
import { dateAndTime } from "../format.js";
import { Back, Empty, State } from "../parts.js";
import { Explanation } from "../explain.js";

/** Interval between loads while the request is in progress. */
const POLL_MS = 1000;

async function load(id, signal) {
  const response = await fetch(`../v1/decisions/${encodeURIComponent(id)}`, { signal });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error?.message ?? `HTTP ${response.status}`);
  return body;
}

/** The record of a decision, loaded again until the request has ended. */
function useRecord(id) {
  const [state, setState] = useState({ record: null, problem: null });
  useEffect(() => {
    const abort = new AbortController();
    let timer;
    const poll = async () => {
      try {
        const record = await load(id, abort.signal);
        setState({ record, problem: null });
        if (!record.outcome) timer = setTimeout(poll, POLL_MS);
      } catch (error) {
        if (!abort.signal.aborted) setState((current) => ({ ...current, problem: error.message }));
      }
    };
    poll();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [id]);
  return state;
}

export function DecisionPage({ id }) {
  const { record, problem } = useRecord(id);
  return html`
    <${Back} view="decisions">Decisions<//>
    <header class="title">
      <h1>Decision <span class="mono">${id}</span></h1>
      ${record && html`<${State} name=${record.outcome?.status ?? "in progress"} /><p class="muted">${dateAndTime(record.at)}</p>`}
    </header>
    ${record && html`<${Explanation} record=${record} />`}
    ${!record && problem && html`<${Empty} title="This decision cannot be shown"><p>${problem}</p><p class="muted">A controller keeps the last 100,000 decisions, until it stops.</p><//>`}
    ${!record && !problem && html`<p class="muted" role="status">Loading…</p>`}
  `;
}
