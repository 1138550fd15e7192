// The tasks: how well the classifier distinguishes them.

import { html, useEffect, useState } from "../html.js";
import { count, NONE, percent } from "../format.js";
import { Empty, Panel, Tile } from "../parts.js";

/** Interval between loads. */
const POLL_MS = 5000;
/** The most tasks that are shown as a matrix. */
const MAX_MATRIX = 20;

async function load(signal) {
  const response = await fetch("../api/v1/classifier", { signal, cache: "no-store" });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error?.message ?? `HTTP ${response.status}`);
  return body;
}

/** The state of the classifier, loaded again every few seconds. */
function useClassifier() {
  const [state, setState] = useState({ classifier: null, problem: null });
  useEffect(() => {
    const abort = new AbortController();
    let timer;
    const poll = async () => {
      try {
        setState({ classifier: await load(abort.signal), problem: null });
      } catch (error) {
        if (abort.signal.aborted) return;
        setState((current) => ({ ...current, problem: error.message }));
      }
      timer = setTimeout(poll, POLL_MS);
    };
    poll();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, []);
  return state;
}

const share = (part, whole) => (whole > 0 ? percent(part / whole) : NONE);

function Summary({ separation, threshold, trained }) {
  const { heldOut, correct, abstained, heldOutOfNoTask, abstainedFromNoTask, calibrated } = separation;
  return html`
    <ul class="tiles" aria-label="Classifier">
      <${Tile} label="Classified rightly" value=${share(correct, heldOut)}>${heldOut > 0 ? `${count(correct)} of ${count(heldOut)} examples that were held out of training` : "a task needs two examples at least"}<//>
      <${Tile} label="Held back" value=${share(abstained, heldOut)}>of the tasks' own examples<//>
      <${Tile} label="Held back of no task" value=${share(abstainedFromNoTask, heldOutOfNoTask)}>${heldOutOfNoTask > 0 ? `of ${count(heldOutOfNoTask)} examples of no task` : "the router has no examples of no task"}<//>
      <${Tile} label="Threshold" value=${percent(threshold)} tone=${calibrated ? "" : "warn"}>${calibrated ? (trained ? "below this confidence the default task is used" : "being trained on the newest tasks") : "typical values: too few examples to calibrate"}<//>
    </ul>
  `;
}

/** How far the router's encoder is. */
function Encoder({ encoder }) {
  const { model, examples, embedded, trained, problem, report } = encoder;
  const { heldOut = 0, unsure, correct, correctWithout } = report ?? {};
  return html`
    <p><b class="mono">${model}</b> classifies requests that the classifier is unsure of. ${problem ? html`It is not trained: ${problem}.` : trained ? "It is trained." : "It is being trained."} It has embedded ${count(embedded)} of ${count(examples)} examples.</p>
    ${heldOut > 0 && html`<p>It classifies ${share(unsure, heldOut)} of the held-out examples. ${share(correct, heldOut)} of all are right with it, ${share(correctWithout, heldOut)} without it.</p>`}
  `;
}

/** Held-out examples by their task (rows) and the task that they were classified as (columns). */
function Matrix({ separation }) {
  const { tasks, confusions } = separation;
  const learnt = tasks.filter(({ examples }) => examples > 0);
  const cells = new Map(confusions.map((one) => [`${one.task} ${one.classifiedAs}`, one]));
  const cell = (task, other) => {
    const confusion = cells.get(`${task.task} ${other.task}`);
    const number = task === other ? task.correct : (confusion?.count ?? 0);
    const part = task.heldOut > 0 ? number / task.heldOut : 0;
    return html`
      <td class=${`numeric ${number > 0 ? (task === other ? "confusion-right" : "confusion-wrong") : "muted"}`} style=${{ "--part": part.toFixed(3) }} title=${confusion && task !== other ? `such as “${confusion.example}”` : null}>
        ${number}
      </td>
    `;
  };
  return html`
    <div class="confusion-scroll" tabindex="0" role="region" aria-label="Confusion matrix">
      <table class="confusion">
        <caption class="sr">Held-out examples by their task and the task that they were classified as</caption>
        <thead><tr><th scope="col">Task</th>${learnt.map(({ task }) => html`<th scope="col">${task}</th>`)}</tr></thead>
        <tbody>${learnt.map((task) => html`<tr key=${task.task}><th scope="row">${task.task}</th>${learnt.map((other) => cell(task, other))}</tr>`)}</tbody>
      </table>
    </div>
    <p class="muted">Rows are the tasks that the examples belong to, columns those that they were classified as.</p>
  `;
}

function TaskList({ tasks }) {
  const missing = ({ examples, wantedExamples }) => {
    if (examples === 0) return "no examples: reached by its name or as the default task only";
    return wantedExamples ? `${wantedExamples} examples would do` : "";
  };
  return html`
    <div class="confusion-scroll" tabindex="0" role="region" aria-label="Tasks">
      <table class="confusion">
        <thead><tr><th scope="col">Task</th><th scope="col">Examples</th><th scope="col">Right</th><th scope="col">Held back</th><th scope="col">Missing</th></tr></thead>
        <tbody>
          ${tasks.map(
            (task) => html`
              <tr key=${task.task}>
                <th scope="row">${task.task}</th>
                <td class="numeric">${count(task.examples)}</td>
                <td class="numeric">${share(task.correct, task.heldOut)}</td>
                <td class="numeric">${share(task.abstained, task.heldOut)}</td>
                <td>${missing(task)}</td>
              </tr>
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}

function Confusions({ confusions }) {
  if (confusions.length === 0) return html`<p class="muted">No held-out example was taken for another task.</p>`;
  return html`
    <ul class="plain-list">
      ${confusions.slice(0, MAX_MATRIX).map(({ task, classifiedAs, count: number, example }) => html`<li key=${`${task} ${classifiedAs}`}><b>${task}</b> taken for <b>${classifiedAs}</b>: ${count(number)}, such as “${example}”</li>`)}
    </ul>
  `;
}

function Doubtful({ doubtful }) {
  const why = ({ reason, other, confidence }) =>
    reason === "sameText" ? html`the same text is in <b>${other ?? "the examples of no task"}</b>` : html`classified as <b>${other}</b> with ${percent(confidence)}`;
  return html`
    <ul class="plain-list">
      ${doubtful.map((example, index) => html`<li key=${index}>“${example.text}” in <b>${example.task ?? "the examples of no task"}</b>: ${why(example)}</li>`)}
    </ul>
  `;
}

export function Tasks() {
  const { classifier, problem } = useClassifier();
  const separation = classifier?.separation;
  const learnt = separation?.tasks.filter(({ examples }) => examples > 0).length ?? 0;
  return html`
    <h1>Tasks</h1>
    ${problem && html`<p role="alert">${problem}</p>`}
    ${classifier && !separation && html`<${Empty} title="No tasks"><p>Apply resources of the kind Task; the model <b class="mono">auto</b> then finds the task of a request by their examples.</p><//>`}
    ${separation &&
    html`
      <${Summary} separation=${separation} threshold=${classifier.threshold} trained=${classifier.trained} />
      ${classifier.encoder && html`<${Panel} title="Encoder"><${Encoder} encoder=${classifier.encoder} /><//>`}
      ${learnt > 1 && learnt <= MAX_MATRIX && html`<${Panel} title="Confusion matrix"><${Matrix} separation=${separation} /><//>`}
      <${Panel} title="Confused most"><${Confusions} confusions=${separation.confusions} /><//>
      ${separation.doubtful.length > 0 && html`<${Panel} title="Doubtful examples"><${Doubtful} doubtful=${separation.doubtful} /><//>`}
      <${Panel} title="Each task"><${TaskList} tasks=${separation.tasks} /><//>
    `}
  `;
}
