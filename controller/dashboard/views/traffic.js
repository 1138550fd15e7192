// Request rates and latencies.

import { html, useMemo } from "../html.js";
import { Chart } from "../chart.js";
import { useSavedState, useStore } from "../hooks.js";
import { count, ms, number, percent, perSecond, tokensPerSecond } from "../format.js";
import { Panel, Segments, Tile } from "../parts.js";
import { columns, highest, stepOf } from "../series.js";

const RANGES = [[60, "1 min"], [300, "5 min"], [900, "15 min"]];

const percentiles = (field) => [
  { label: "p50", color: "chart-1", aggregate: highest, read: (point) => point[field]?.p50 },
  { label: "p95", color: "chart-2", dash: "dashed", aggregate: highest, read: (point) => point[field]?.p95 },
  { label: "p99", color: "chart-3", dash: "dotted", aggregate: highest, read: (point) => point[field]?.p99 },
];

const CHARTS = [
  {
    title: "Requests",
    format: perSecond,
    series: [
      { label: "ended", color: "chart-1", fill: "soft", read: (point) => point.requests },
      { label: "errors", color: "bad", dash: "dashed", read: (point) => point.errors },
    ],
  },
  {
    title: "In flight and queued",
    format: number,
    series: [
      { label: "in flight", color: "chart-1", fill: "soft", read: (point) => point.inFlight },
      { label: "queued", color: "chart-2", dash: "dashed", read: (point) => point.queued },
    ],
  },
  { title: "Time to first token", format: ms, series: percentiles("firstTokenMs") },
  { title: "Time per output token", format: ms, series: percentiles("perTokenMs") },
  {
    title: "Tokens",
    format: tokensPerSecond,
    series: [
      { label: "output", color: "chart-1", fill: "soft", read: (point) => point.outputTokens },
      { label: "prompt", color: "chart-2", dash: "dashed", read: (point) => point.promptTokens },
    ],
  },
  { title: "Total time", format: ms, series: percentiles("totalMs") },
];

function TrafficChart({ title, format, series, points, seconds }) {
  const data = useMemo(() => columns(points, seconds, series), [points, seconds]);
  const step = stepOf(seconds);
  const aggregation = series[0].aggregate === highest ? `maximum of each ${step} s` : `mean of each ${step} s`;
  return html`<${Panel} title=${title} aside=${step > 1 ? aggregation : null}><${Chart} title=${title} series=${series} columns=${data} seconds=${seconds} format=${format} /><//>`;
}

function Summary({ points, seconds }) {
  const newest = points.at(-1)?.at ?? 0;
  const inRange = points.filter((point) => point.at > newest - seconds * 1000);
  const sum = (read) => inRange.reduce((total, point) => total + read(point), 0);
  const requests = sum((point) => point.requests);
  const errors = sum((point) => point.errors);
  const duration = Math.max(1, inRange.length);
  const maxFirstToken = inRange.reduce((max, point) => Math.max(max, point.firstTokenMs?.p99 ?? 0), 0);
  return html`
    <ul class="tiles" aria-label="Totals of the time range">
      <${Tile} label="Requests" value=${count(requests)}>${perSecond(requests / duration)} on average<//>
      <${Tile} label="Errors" value=${count(errors)} tone=${errors > 0 ? "bad" : ""}>${requests > 0 ? `${percent(errors / requests)} of the requests` : "no requests"}<//>
      <${Tile} label="Output tokens" value=${count(sum((point) => point.outputTokens))}>${tokensPerSecond(sum((point) => point.outputTokens) / duration)} on average<//>
      <${Tile} label="Time to first token, p99" value=${maxFirstToken > 0 ? ms(maxFirstToken) : "–"}>of the slowest second<//>
    </ul>
  `;
}

export function Traffic() {
  const { traffic } = useStore("traffic");
  const [seconds, setSeconds] = useSavedState("traffic range", 900);
  return html`
    <div class="title-row"><h1>Traffic</h1><${Segments} label="Time range" value=${seconds} onValue=${setSeconds} options=${RANGES} /></div>
    <${Summary} points=${traffic} seconds=${seconds} />
    <div class="charts">${CHARTS.map((chart) => html`<${TrafficChart} key=${chart.title} ...${chart} points=${traffic} seconds=${seconds} />`)}</div>
  `;
}
