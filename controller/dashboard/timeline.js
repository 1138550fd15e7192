// The phases of a request as parts of one bar.

import { html } from "./html.js";
import { ms } from "./format.js";

/** `[name, kind, milliseconds]` of each phase, in order. */
function phases({ cascade_tiers: tiers = [], outcome }) {
  const { first_token_ms: first, total_ms: total, queued_ms: queued = 0 } = outcome;
  const tiersMs = tiers.filter(({ outcome }) => !outcome.startsWith("accepted")).reduce((sum, tier) => sum + tier.duration_ms, 0);
  if (first === undefined) return [["no token", "queued-phase", total]];
  const tierMs = Math.min(tiersMs, first);
  const queuedMs = Math.min(queued, first - tierMs);
  return [
    ["smaller models", "tier", tierMs],
    ["queued", "queued-phase", queuedMs],
    ["until the first token", "prefill", first - tierMs - queuedMs],
    ["generation", "generation", total - first],
  ].filter(([, , length]) => length > 0);
}

export function Timeline({ record }) {
  const shown = phases(record);
  const total = record.outcome.total_ms;
  const share = (length) => ({ width: `${(length / Math.max(total, 1e-9)) * 100}%` });
  return html`
    <div class="timeline">
      <div class="timeline-track" aria-hidden="true">${shown.map(([name, kind, length]) => html`<span key=${name} class=${kind} style=${share(length)}></span>`)}</div>
      <p class="scale" aria-hidden="true"><span>0</span><span>${ms(total)}</span></p>
      <ul class="timeline-key">
        ${shown.map(([name, kind, length]) => html`<li><span class=${`swatch-part ${kind}`}></span>${name} <b>${ms(length)}</b></li>`)}
      </ul>
    </div>
  `;
}
