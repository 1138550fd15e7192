// A map with a small square for each node, grouped by zone, which shows failures and load of a large fleet.

import { html, useEffect, useMemo, useRef, useState } from "../html.js";
import { useSavedState, usePhone, useTheme, useWidth } from "../hooks.js";
import { load, memoryUsed, nodeState, zoneText } from "../facts.js";
import { bytesOf, counted, watts } from "../format.js";
import { href } from "../routes.js";
import { loadText, Panel, Segments, stateKind } from "../parts.js";

const CELL = 13;
const GAP = 2;
/** Requests on a node at which its square is darkest. */
const MAX_SHADE_REQUESTS = 12;
const COLORS = { good: "good", busy: "busy", warn: "warn", bad: "bad", idle: "muted" };

/** The shade of a node, 0 to 1, by what the map shows. */
const SHADES = {
  load: (node) => {
    const { active, queued } = load(node);
    return Math.min(1, (active + queued) / MAX_SHADE_REQUESTS);
  },
  memory: (node) => Math.min(1, memoryUsed(node) / node.spec.memory),
  power: (node) => {
    const { energy } = node.status;
    return energy ? Math.min(1, energy.watts / energy.maxWatts) : 0;
  },
};

function byZone(nodes) {
  const zones = new Map();
  for (const node of nodes) {
    const zone = zoneText(node);
    if (!zones.has(zone)) zones.set(zone, []);
    zones.get(zone).push(node);
  }
  return [...zones].sort(([a], [b]) => a.localeCompare(b));
}

function draw(canvas, nodes, perRow, shade) {
  const ratio = devicePixelRatio || 1;
  const step = CELL + GAP;
  const width = perRow * step;
  const height = Math.ceil(nodes.length / perRow) * step;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const styles = getComputedStyle(document.documentElement);
  const color = (name) => styles.getPropertyValue(`--${name}`).trim();
  nodes.forEach((node, index) => {
    const x = (index % perRow) * step;
    const y = Math.floor(index / perRow) * step;
    const kind = stateKind(nodeState(node));
    pen.globalAlpha = 1;
    if (kind === "good") {
      pen.fillStyle = color("line-strong");
      pen.fillRect(x, y, CELL, CELL);
      pen.globalAlpha = 0.12 + 0.88 * SHADES[shade](node);
      pen.fillStyle = color("accent");
      pen.fillRect(x, y, CELL, CELL);
      return;
    }
    pen.strokeStyle = pen.fillStyle = color(COLORS[kind]);
    pen.lineWidth = 1.8;
    pen.strokeRect(x + 1, y + 1, CELL - 2, CELL - 2);
    pen.beginPath();
    if (kind === "bad") {
      pen.moveTo(x + 3.5, y + 3.5);
      pen.lineTo(x + CELL - 3.5, y + CELL - 3.5);
      pen.moveTo(x + CELL - 3.5, y + 3.5);
      pen.lineTo(x + 3.5, y + CELL - 3.5);
      pen.stroke();
    } else if (kind === "warn") {
      pen.moveTo(x + CELL / 2, y + 3);
      pen.lineTo(x + CELL - 3, y + CELL - 3);
      pen.lineTo(x + 3, y + CELL - 3);
      pen.fill();
    }
  });
}

function Zone({ zone, nodes, width, shade, onHover }) {
  const canvas = useRef(null);
  const theme = useTheme();
  const perRow = Math.max(1, Math.floor(width / (CELL + GAP)));
  useEffect(() => draw(canvas.current, nodes, perRow, shade), [nodes, perRow, shade, theme]);
  const nodeAt = ({ offsetX, offsetY }) => {
    const column = Math.floor(offsetX / (CELL + GAP));
    return nodes[Math.floor(offsetY / (CELL + GAP)) * perRow + column];
  };
  const notReady = nodes.filter((node) => node.status.phase !== "Ready").length;
  return html`
    <div class="map-zone">
      <h3>${zone || "no zone"} <span class="muted">${counted(nodes.length, "node")}${notReady > 0 ? `, ${notReady} not ready` : ""}</span></h3>
      <canvas
        ref=${canvas}
        role="img"
        aria-label=${`${zone || "no zone"}: ${counted(nodes.length, "node")}, ${notReady} not ready. The table below lists them.`}
        onMouseMove=${(event) => onHover(nodeAt(event) ?? null)}
        onMouseLeave=${() => onHover(null)}
        onClick=${(event) => {
          const node = nodeAt(event);
          if (node) location.hash = href("fleet", node.metadata.name);
        }}
      ></canvas>
    </div>
  `;
}

function description(node) {
  const { energy } = node.status;
  const power = energy ? `, ${energy.measured ? "" : "≈ "}${watts(energy.watts)}` : "";
  return `${nodeState(node)}, ${loadText(load(node))}, ${bytesOf(memoryUsed(node), node.spec.memory)}${power}`;
}

export function NodeMap({ nodes }) {
  const [box, width] = useWidth();
  const [shade, setShade] = useSavedState("map shade", "load");
  const phone = usePhone();
  const [open, setOpen] = useSavedState("map open", !phone);
  const [hovered, setHovered] = useState(null);
  const zones = useMemo(() => byZone([...nodes].sort((a, b) => a.metadata.name.localeCompare(b.metadata.name, "en", { numeric: true }))), [nodes]);
  const aside = html`
    ${open && html`<${Segments} label="Shade by" value=${shade} onValue=${setShade} options=${[["load", "Load"], ["memory", "Memory"], ["power", "Power"]]} />`}
    <button type="button" class="button small" aria-expanded=${open} onClick=${() => setOpen(!open)}>${open ? "Hide" : "Show"}</button>
  `;
  return html`
    <${Panel} title="Map" aside=${aside}>
      <div ref=${box} class="map" hidden=${!open}>
        ${width > 0 && zones.map(([zone, members]) => html`<${Zone} key=${zone} zone=${zone} nodes=${members} width=${width} shade=${shade} onHover=${setHovered} />`)}
      </div>
      ${open &&
      html`<p class="map-description">
        ${hovered
          ? html`<b class="mono">${hovered.metadata.name}</b> ${description(hovered)}`
          : html`Each square is a node; a darker one has more ${shade}. <span class="map-key"><i class="square bad">×</i> lost</span> <span class="map-key"><i class="square warn">▲</i> suspect or cordoned</span> <span class="map-key"><i class="square busy"></i> joining or draining</span>`}
      </p>`}
    <//>
  `;
}
