// The explanation of a routing decision: the task, the candidates, and the phases of the request.

import { html } from "./html.js";
import { isEstimate, outputSpeed } from "./facts.js";
import { counted, joules, ms, NONE, number, percent, tokens, tokensPerSecond, words } from "./format.js";
import { Icon } from "./icons.js";
import { Bar, Facts, Measured, ModelLink, NodeLink, Panel, State } from "./parts.js";
import { Timeline } from "./timeline.js";

const left = (share) => ({ left: `${Math.max(0, Math.min(1, share)) * 100}%` });

/** A confidence from 0 to 1, with a mark at the threshold. */
function Confidence({ name, value, threshold, tone, note }) {
  return html`
    <div class=${`confidence ${tone ?? ""}`}>
      <span class="confidence-name">${name}</span>
      <span class="confidence-track" role="img" aria-label=${`${percent(value)}${threshold === undefined ? "" : `, threshold ${percent(threshold)}`}`}>
        <${Bar} share=${value ?? 0} tone=${tone} />
        ${threshold !== undefined && html`<span class="threshold" style=${left(threshold)}></span>`}
      </span>
      <span class="confidence-value">${percent(value)}</span>
      ${note && html`<span class="confidence-note">${note}</span>`}
    </div>
  `;
}

function Step({ label, children, last = false, tone = "" }) {
  return html`<li class=${`step ${tone}`}><span class="step-label">${label}</span><span class="step-value">${children}</span>${!last && html`<${Icon} name="back" />`}</li>`;
}

function Path({ record }) {
  const { requested_model, task, classification, model, node, outcome } = record;
  const { confidence, abstained } = classification?.encoder?.classification ?? classification ?? {};
  const status = outcome?.status;
  return html`
    <ol class="path" aria-label="Path of the request">
      <${Step} label="Requested"><span class="mono">${requested_model}</span><//>
      ${task && html`<${Step} label=${abstained ? "Default task" : "Task"}>${task}${confidence !== undefined && !abstained && html` <small>${percent(confidence)} confidence</small>`}<//>`}
      <${Step} label="Model">${model ? html`<${ModelLink} name=${model} />` : "none"}<//>
      <${Step} label="Node">${node ? html`<${NodeLink} name=${node} />` : "none"}<//>
      <${Step} label=${status ?? "In progress"} last=${true} tone=${status === "failed" ? "bad" : ""}>${outcome ? ms(outcome.total_ms) : "…"}<//>
    </ol>
  `;
}

/** An n-gram or a word; spaces in n-grams of letters are shown as ␣. */
function EvidenceText({ text, kind }) {
  const shown = kind === "letters" ? text.replaceAll(" ", "␣") : text;
  return html`<span class="mono ngram">${shown}</span>`;
}

function Evidence({ evidence, score, bias, task }) {
  const listed = evidence.reduce((total, { weight }) => total + weight, 0);
  const rest = score - bias - listed;
  const max = Math.max(...evidence.map(({ weight }) => Math.abs(weight)), 1e-9);
  const signed = (weight) => `${weight < 0 ? "−" : "+"}${Math.abs(weight).toFixed(2)}`;
  return html`
    <h3>Evidence for and against ${task}</h3>
    <table class="signed">
      <caption class="sr">N-grams and words with their weights</caption>
      <thead class="sr"><tr><th scope="col">evidence</th><th scope="col">weight</th><th scope="col">value</th></tr></thead>
      <tbody>
        ${evidence.map(
          ({ text, kind, weight }) => html`
            <tr>
              <th scope="row"><${EvidenceText} text=${text} kind=${kind} /> <span class="row-note inline">${kind === "meaning" ? "near in meaning" : kind}</span></th>
              <td class="signed-track" aria-hidden="true">
                <span class=${weight < 0 ? "against" : "for"} style=${{ width: `${(Math.abs(weight) / max) * 50}%` }}></span>
              </td>
              <td class="numeric">${signed(weight)}</td>
            </tr>
          `,
        )}
      </tbody>
      <tfoot>
        ${[["these", listed], ["all other n-grams and words, each with a smaller weight", rest], ["bias of the task", bias], ["score", score]].map(
          ([name, value]) => html`<tr><th scope="row" colspan="2">${name}</th><td class="numeric">${signed(value)}</td></tr>`,
        )}
      </tfoot>
    </table>
    <p class="legend-line"><span class="swatch-for"></span>for <span class="swatch-against"></span>against <span class="muted">␣ is the end of a word, ^ and $ are the ends of the text</span></p>
  `;
}

/** Why the encoder did not classify a request that the classifier was unsure of. */
const NOT_USED = {
  timeout: "did not answer in time",
  busy: "was busy",
  unavailable: "has no replica that was ready",
  zone: "has no replica in the zones that the text may enter",
  not_trained: "is not trained on the tasks as they are",
  failed: "failed",
};

/** What the encoder made of a request that the classifier was unsure of. */
function Encoder({ encoder }) {
  const { model, node, outcome, duration_ms, detail, classification } = encoder;
  const facts = [node && `on ${node}`, ms(duration_ms), encoder.joules && joules(encoder.joules)].filter(Boolean).join(", ");
  return html`
    <h3>Encoder</h3>
    ${classification
      ? html`<p>The classifier was unsure. By the vector that <${ModelLink} name=${model} /> made (${facts}) it is <b>${classification.best_task}</b> with a confidence of ${percent(classification.confidence)}; the threshold is ${percent(classification.threshold)}.</p>
          <${Confidence} name=${classification.best_task} value=${classification.confidence} threshold=${classification.threshold} tone=${classification.abstained ? "warn" : ""} />
          ${classification.nearest && html`<p>Its nearest example is “${classification.nearest.text}” (cosine ${classification.nearest.similarity.toFixed(2)}).</p>`}`
      : html`<p>The classifier was unsure, but <${ModelLink} name=${model} /> ${NOT_USED[outcome] ?? outcome} (${facts}${detail ? `: ${detail}` : ""}). The classifier decided.</p>`}
  `;
}

function Task({ record }) {
  const { classification, task, requested_model } = record;
  if (!classification) {
    return html`<${Panel} title="Which task"><p>${task ? `The request named the task ${task}.` : html`The request named the model <b class="mono">${requested_model}</b>: the classifier was not used.`}</p><//>`;
  }
  const { best_task, confidence, runner_up, threshold, abstained, nearest, encoder } = classification;
  return html`
    <${Panel} title="Which task">
      <p class="sentence">
        ${abstained && encoder?.classification
          ? html`<b>${best_task}</b> has the highest confidence by words and letters, but its ${percent(confidence)} is below the threshold of ${percent(threshold)}: the encoder decided.`
          : abstained
          ? html`<b>${best_task}</b> has the highest confidence, but its ${percent(confidence)} is below the threshold of ${percent(threshold)}: ${task ? html`the default task <b>${task}</b> was used.` : "there is no default task."}`
          : html`<b>${best_task}</b> with a confidence of ${percent(confidence)}; the threshold is ${percent(threshold)}.`}
      </p>
      <${Confidence} name=${best_task} value=${confidence} threshold=${threshold} tone=${abstained ? "warn" : ""} />
      ${runner_up && html`<${Confidence} name=${runner_up.task} value=${runner_up.confidence} threshold=${threshold} tone="quiet" />`}
      <p class="legend-line"><span class="swatch-threshold"></span>threshold</p>
      ${nearest && html`<p>The nearest example of ${best_task} is “${nearest.text}” (similarity ${nearest.similarity.toFixed(2)}).</p>`}
      ${encoder && html`<${Encoder} encoder=${encoder} />`}
      <${Evidence} ...${classification} task=${best_task} />
    <//>
  `;
}

/** A table cell: a number with a bar relative to the maximum of its column. */
function Compared({ label, value, max, text, tone = "" }) {
  return html`
    <td class="compared" data-label=${label}>
      <span>${value === null || value === undefined ? html`<span class="muted">${NONE}</span>` : text}</span>
      <${Bar} share=${value ? value / max : 0} tone=${tone} label=${text} />
    </td>
  `;
}

function ScoreCell({ score, max }) {
  const parts = [["quality", score.quality], ["latency", score.latency], ["energy", score.energy]];
  const title = parts.map(([name, value]) => `${name} ${number(value)}`).join(", ");
  return html`
    <td class="compared" data-label="Score" title=${title}>
      <span>${score.total.toFixed(2)}</span>
      <${Bar} share=${score.total / max} tone="strong" label=${`score ${score.total.toFixed(2)}`} />
      <span class="score-parts">${parts.map(([name, value]) => html`<span>${name} ${value.toFixed(2)}</span>`)}</span>
    </td>
  `;
}

function Candidates({ record }) {
  const { candidates, model, node } = record;
  const scored = candidates.some(({ score }) => score);
  const maxOf = (read) => Math.max(...candidates.map((candidate) => read(candidate) ?? 0), 1e-9);
  const maxMs = maxOf(({ predicted_ms }) => predicted_ms);
  const maxFirst = maxOf(({ predicted_first_token_ms }) => predicted_first_token_ms);
  const maxJoules = maxOf(({ predicted_joules }) => predicted_joules);
  const isChosen = (candidate) => candidate.model === model && candidate.node === node;
  const winningHedge = (record.hedges ?? []).find((hedge) => hedge.won && hedge.node === node);
  const selection = (candidate) => (winningHedge && isChosen(candidate) ? `sent as a hedge for ${winningHedge.slow_node}, and answered first` : candidate.selection?.text);
  const hasObjective = candidates.some(({ selection }) => ["best_score", "lower_score", "slower"].includes(selection?.reason));
  const sorted = [...candidates].sort((a, b) => Number(isChosen(b)) - Number(isChosen(a)) || (a.predicted_ms ?? Infinity) - (b.predicted_ms ?? Infinity));
  return html`
    <${Panel} title="Which replica" aside=${counted(candidates.length, "candidate")}>
      ${candidates.length === 0
        ? html`<p class="no-items">No replica was able to answer.</p>`
        : html`
            <div class="scroll-x">
              <table class="table stacked candidates">
                <thead>
                  <tr>
                    <th scope="col">Replica</th>
                    ${["Load", "First token", "Total time", "Energy", "Quality", scored && "Score"].filter(Boolean).map((title) => html`<th scope="col">${title}</th>`)}
                  </tr>
                </thead>
                <tbody>
                  ${sorted.map((candidate) => {
                    const requests = candidate.in_flight + candidate.external_in_flight;
                    return html`
                      <tr key=${`${candidate.model} ${candidate.node}`} class=${isChosen(candidate) ? "chosen" : ""}>
                        <th scope="row">
                          <${ModelLink} name=${candidate.model} />${isChosen(candidate) && html`<span class="chosen-mark"><${Icon} name="chosen" />chosen</span>`}
                          <span class="row-note">on <${NodeLink} name=${candidate.node} /></span>
                          ${selection(candidate) && html`<span class="row-note">${selection(candidate)}</span>`}
                          ${candidate.pressure && html`<span class="row-note"><b class="chip">under pressure</b> ${candidate.pressure}</span>`}
                        </th>
                        <${Compared} label="Load" value=${requests} max=${Math.max(candidate.concurrency, requests)} tone=${requests >= candidate.concurrency ? "tight" : ""} text=${`${requests} of ${candidate.concurrency} concurrent`} />
                        <${Compared} label="First token" value=${candidate.predicted_first_token_ms} max=${maxFirst} text=${`≈ ${ms(candidate.predicted_first_token_ms)}`} />
                        <${Compared} label="Total time" value=${candidate.predicted_ms} max=${maxMs} text=${`≈ ${ms(candidate.predicted_ms)}`} />
                        <${Compared} label="Energy" value=${candidate.predicted_joules} max=${maxJoules} text=${`≈ ${joules(candidate.predicted_joules)}`} />
                        <${Compared} label="Quality" value=${candidate.quality} max=${1} text=${percent(candidate.quality)} />
                        ${scored && (candidate.score ? html`<${ScoreCell} score=${candidate.score} max=${1} />` : html`<td class="muted" data-label="Score">${NONE}</td>`)}
                      </tr>
                    `;
                  })}
                </tbody>
              </table>
            </div>
            <p class="legend-line muted">Times and energy were predicted before the request was sent. ${NONE} means not known yet${scored ? "; the score is the weighted mean of its parts, each of which is 1 for the best candidate" : ""}. ${hasObjective ? "Of a model's replicas the one with the best score by the task's weights is chosen" : "Of a model's replicas that have a free slot and are nearly as fast as the fastest one, the one with the least time × √joules is chosen"}. Cached prompts, node pressure and the age of the estimates are included.</p>
          `}
    <//>
  `;
}

const REASONS = {
  unknown_model: "the fleet has no such model",
  not_loaded: "the model is not loaded on the node",
  loading: "the model is being loaded on the node",
  load_failed: "the model could not be loaded on the node",
  draining: "the replica is about to be removed from the node",
  node_disconnected: "the node is not connected",
  zone: "the node is in no zone that the request may enter",
  full: "the replica accepts no more requests",
  queued: "other requests are waiting for the model already",
  circuit_open: "the replica's circuit breaker is open after repeated failures",
  attempt_failed: "the replica received the request and failed",
  memory: "the node has not enough memory for the model",
  quality: "the model's quality is below the limit, or was not measured",
  latency: "the predicted time is above the limit",
  energy: "the predicted energy is above the limit",
  deadline: "the predicted time is past the deadline",
};

function Rejected({ rejected }) {
  if (rejected.length === 0) return null;
  return html`
    <${Panel} title="Rejected candidates" aside=${String(rejected.length)}>
      <ul class="rejected">
        ${rejected.map(
          ({ model, node, reason, detail }) => html`
            <li>
              <span><${ModelLink} name=${model} />${node && html`<span class="row-note inline"> on <${NodeLink} name=${node} /></span>`}</span>
              <span><b class="chip">${words(reason)}</b> ${REASONS[reason]}${detail && html`<span class="row-note">${detail}</span>`}</span>
            </li>
          `,
        )}
      </ul>
    <//>
  `;
}

const TIER_OUTCOMES = {
  accepted: "the confidence reached the threshold: the answer was returned",
  low_confidence: "the confidence was below the threshold: the next model was tried",
  stopped_early: "the confidence could no longer reach the threshold: the attempt was cancelled early",
  schema_mismatch: "the answer does not match the schema: the next model was tried",
  failed: "no replica was available, or the attempt failed",
  accepted_as_fallback: "the confidence was below the threshold, but no larger model could answer",
};
const MEASURES = {
  mean: "mean probability of its tokens",
  min: "smallest probability of a token",
  margin: "smallest margin of a token over the next best one",
};

function Cascade({ record }) {
  const { cascade_tiers: tiers, model, node } = record;
  if (!tiers?.length) return null;
  const tierAnswered = tiers.some(({ outcome }) => outcome.startsWith("accepted"));
  return html`
    <${Panel} title="Cascade" aside="smaller models first">
      <ol class="tiers">
        ${tiers.map(
          (tier) => html`
            <li>
              <div class="tier-head">
                <${ModelLink} name=${tier.model} />${tier.node && html`<span class="row-note inline">on <${NodeLink} name=${tier.node} /></span>`}
                <${State} name=${tier.outcome} />
              </div>
              <${Confidence} name=${html`<span title=${MEASURES[tier.measure]}>confidence</span>`} value=${tier.confidence} threshold=${tier.threshold} tone=${tier.outcome === "accepted" ? "" : "warn"} note=${`threshold ${percent(tier.threshold)}; ${MEASURES[tier.measure]}`} />
              <p class="row-note">${TIER_OUTCOMES[tier.outcome]}${tier.error ? `: ${tier.error}` : ""}. ${ms(tier.duration_ms)}, ${tokens(tier.completion_tokens)}, ${joules(tier.joules)}</p>
            </li>
          `,
        )}
        ${!tierAnswered && model && html`<li><div class="tier-head"><${ModelLink} name=${model} />${node && html`<span class="row-note inline">on <${NodeLink} name=${node} /></span>`}<span class="chosen-mark"><${Icon} name="chosen" />tried last</span></div></li>`}
      </ol>
      <p class="legend-line"><span class="swatch-threshold"></span>threshold</p>
    <//>
  `;
}

function Hedges({ hedges }) {
  if (!hedges?.length) return null;
  return html`
    <${Panel} title="Hedges">
      <ul class="rejected">
        ${hedges.map(
          ({ slow_node, node, delay_ms, won }) => html`
            <li>
              <span><${NodeLink} name=${node} /> <span class="row-note inline">hedge for <${NodeLink} name=${slow_node} /></span></span>
              <span>after ${ms(delay_ms)} without a first token; ${won ? html`<b>it answered first</b>` : html`the first replica answered first`}</span>
            </li>
          `,
        )}
      </ul>
    <//>
  `;
}

function Constraints({ record }) {
  const { zones, priority, deadline_ms, limits = {}, affinity, prompt } = record;
  return html`
    <${Panel} title="Constraints">
      <${Facts}
        entries=${[
          ["Zones", zones?.length > 0 ? zones.join(", ") : "any node"],
          ["Priority", priority],
          ["Deadline", deadline_ms !== undefined && `${ms(deadline_ms)} after arrival`],
          ["Minimum quality", limits.minQuality !== undefined && percent(limits.minQuality)],
          ["Maximum latency", limits.maxLatency],
          ["Maximum energy", limits.maxJoules !== undefined && joules(limits.maxJoules)],
          ["Prompt cache", affinity && html`<${NodeLink} name=${affinity.node} /> ${affinity.cached_bytes > 0 ? `has ${affinity.cached_bytes} bytes of the conversation in memory` : "served the session before"}, ${affinity.chosen ? "and was chosen" : "but another replica was faster"}`],
          ["Prompt", prompt && html`<q class="prompt">${prompt}</q>`],
        ]}
      />
    <//>
  `;
}

function Outcome({ record }) {
  const { outcome } = record;
  if (!outcome) return html`<${Panel} title="Outcome"><p role="status">The request is in progress.</p><//>`;
  const perSecond = outputSpeed(outcome.completion_tokens, outcome.first_token_ms, outcome.total_ms);
  return html`
    <${Panel} title="Outcome">
      ${outcome.error && html`<p class="callout bad"><${Icon} name="warning" /><span>${outcome.error}</span></p>`}
      <${Timeline} record=${record} />
      <${Facts}
        entries=${[
          ["Time to first token", outcome.first_token_ms !== undefined && ms(outcome.first_token_ms)],
          ["Total", ms(outcome.total_ms)],
          ["Tokens", outcome.completion_tokens !== undefined && `${tokens(outcome.prompt_tokens)} in, ${tokens(outcome.completion_tokens)} out`],
          ["Output speed", perSecond !== null && tokensPerSecond(perSecond)],
          ["Energy", outcome.joules !== undefined && html`<${Measured} text=${joules(outcome.joules)} estimated=${isEstimate(outcome.joules_source)} /> <span class="muted">(${outcome.joules_source})</span>`],
        ]}
      />
    <//>
  `;
}

export function Explanation({ record }) {
  return html`
    <${Path} record=${record} />
    <div class="columns">
      <${Task} record=${record} />
      <div class="column">
        <${Outcome} record=${record} />
        <${Constraints} record=${record} />
      </div>
    </div>
    <${Candidates} record=${record} />
    <${Rejected} rejected=${record.rejected} />
    <${Cascade} record=${record} />
    <${Hedges} hedges=${record.hedges} />
  `;
}
