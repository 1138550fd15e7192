// Where the time of a request went, as parts of one line.

import { html } from "./html.js";
import { ms } from "./format.js";

/** `[name, kind, milliseconds]` of each part, in order. */
function parts({ cascade_tiers: tiers = [], outcome }) {
  const { first_token_ms: first, total_ms: total, queued_ms: queued = 0 } = outcome;
  const asked = tiers.filter(({ outcome }) => !outcome.startsWith("accepted")).reduce((sum, tier) => sum + tier.duration_ms, 0);
  if (first === undefined) return [["without a token", "waited", total]];
  const before = Math.min(asked, first);
  const waited = Math.min(queued, first - before);
  return [
    ["smaller models", "tier", before],
    ["queued", "waited", waited],
    ["to the first token", "read", first - before - waited],
    ["to the end", "written", total - first],
  ].filter(([, , length]) => length > 0);
}

export function Timeline({ record }) {
  const drawn = parts(record);
  const total = record.outcome.total_ms;
  const share = (length) => ({ width: `${(length / Math.max(total, 1e-9)) * 100}%` });
  return html`
    <div class="timeline">
      <div class="timeline-track" aria-hidden="true">${drawn.map(([name, kind, length]) => html`<span key=${name} class=${kind} style=${share(length)}></span>`)}</div>
      <p class="scale" aria-hidden="true"><span>0</span><span>${ms(total)}</span></p>
      <ul class="timeline-key">
        ${drawn.map(([name, kind, length]) => html`<li><span class=${`swatch-part ${kind}`}></span>${name} <b>${ms(length)}</b></li>`)}
      </ul>
    </div>
  `;
}
