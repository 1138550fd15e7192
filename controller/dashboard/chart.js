// Line charts over time, drawn by uPlot, with a legend that shows the values under the pointer.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { html, useEffect, useRef, useState } from "./html.js";
import { useTheme, useWidth } from "./hooks.js";
import { hourMinute, timeOfDay } from "./format.js";

const HEIGHT = 190;
/** Top of the y axis when all values are zero. */
const MIN_TOP = 10;
const DASHES = { solid: [], dashed: [7, 4], dotted: [2, 3] };

const cssColor = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Slanted lines, which mark estimated values everywhere on the page. */
function hatching(color) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = tile.getContext("2d");
  pen.strokeStyle = color;
  pen.lineWidth = 1.6;
  pen.beginPath();
  for (const shift of [-8, 0, 8]) {
    pen.moveTo(shift, 8);
    pen.lineTo(shift + 8, 0);
  }
  pen.stroke();
  return pen.createPattern(tile, "repeat");
}

const FILLS = {
  soft: (color) => `${color}26`,
  solid: (color) => `${color}b3`,
  hatched: hatching,
};

function axis(extra) {
  return {
    stroke: cssColor("muted"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: cssColor("line"), width: 1 },
    ticks: { show: false },
    ...extra,
  };
}

function options({ series, format, width, seconds, span, onIndex }) {
  const clock = seconds > 300 ? hourMinute : timeOfDay;
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    padding: [10, 16, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: "time" }, points: { size: 7 } },
    scales: {
      x: { time: true, range: () => span.current },
      y: { range: (_, __, max) => [0, max > 0 ? max * 1.12 : MIN_TOP] },
    },
    axes: [
      axis({ values: (_, splits) => splits.map((seconds) => clock(seconds * 1000)), space: 76, size: 28 }),
      axis({ values: (_, splits) => splits.map(format), size: 68, space: 34, gap: 6 }),
    ],
    series: [
      {},
      ...series.map(({ label, color, dash = "solid", fill }) => {
        const value = cssColor(color);
        return { label, stroke: value, width: 1.6, dash: DASHES[dash], fill: fill && FILLS[fill](value), points: { size: 4 } };
      }),
    ],
    bands: series.flatMap(({ band }, position) => (band ? [{ series: [position + 1, position + 2] }] : [])),
    hooks: { setCursor: [(chart) => onIndex(chart.cursor.idx ?? null)] },
  };
}

function Legend({ series, columns, index, format }) {
  const point = index ?? columns[0].length - 1;
  return html`
    <dl class="legend">
      ${series.map(
        ({ label, color, dash = "solid", fill }, position) => html`
          <div key=${label}>
            <dt><span class=${`swatch ${dash} ${fill ?? ""}`} style=${{ "--swatch": `var(--${color})` }}></span>${label}</dt>
            <dd>${format(columns[position + 1][point] ?? null)}</dd>
          </div>
        `,
      )}
      <div class="legend-time">${index !== null && columns[0][index] ? timeOfDay(columns[0][index] * 1000) : "now"}</div>
    </dl>
  `;
}

/**
 * `columns` are uPlot's: seconds, then a column for each of `series` (`{ label, color, dash?, fill?, band? }`),
 * drawn in this order. The fill of a series with `band` ends at the next series. `seconds` is the length of the x axis.
 */
export function Chart({ title, series, columns, seconds, format }) {
  const [box, width] = useWidth();
  const chart = useRef(null);
  const container = useRef(null);
  const span = useRef([0, 1]);
  const theme = useTheme();
  const [index, setIndex] = useState(null);

  useEffect(() => {
    if (width === 0) return;
    chart.current = new uPlot(options({ series, format, width, seconds, span, onIndex: setIndex }), null, container.current);
    return () => {
      chart.current.destroy();
      chart.current = null;
    };
  }, [width, theme, seconds]);

  useEffect(() => {
    const plot = chart.current;
    if (!plot) return;
    const newest = columns[0].at(-1) ?? Date.now() / 1000;
    span.current = [newest - seconds, newest];
    plot.setData(columns);
  }, [columns, width, theme, seconds]);

  const empty = columns.slice(1).every((column) => column.every((value) => value === null));
  const newest = series.map(({ label }, position) => `${label} ${format(columns[position + 1].at(-1) ?? null)}`);
  return html`
    <figure class="chart">
      <${Legend} series=${series} columns=${columns} index=${index} format=${format} />
      <div ref=${box} class="chart-box" style=${{ height: `${HEIGHT}px` }} role="img" aria-label=${`${title}, now: ${newest.join(", ")}`}>
        <div ref=${container}></div>
        ${empty && html`<p class="chart-empty">No data yet.</p>`}
      </div>
    </figure>
  `;
}
