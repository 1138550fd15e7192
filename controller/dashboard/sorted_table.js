// A table whose columns sort it, with as many rows as there are.

import { html } from "./html.js";
import { useKept } from "./hooks.js";
import { WindowedRows } from "./windowed.js";

const collator = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(String(a), String(b));
}

/** What is not known comes last, whichever way the rest goes. */
function ordered(items, value, down) {
  const keyed = items.map((item) => [value(item), item]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return down ? compare(b, a) : compare(a, b);
  });
  return keyed.map(([, item]) => item);
}

function Heading({ column, sort, onSort }) {
  const classes = `col-${column.key} ${column.numeric ? "numeric" : ""}`;
  if (!column.value) return html`<th role="columnheader" scope="col" class=${classes}>${column.title}</th>`;
  const sorted = sort.key === column.key;
  const direction = sort.down ? "descending" : "ascending";
  return html`
    <th role="columnheader" scope="col" class=${classes} aria-sort=${sorted ? direction : null}>
      <button type="button" onClick=${() => onSort({ key: column.key, down: sorted ? !sort.down : Boolean(column.numeric) })}>
        ${column.title}<span class="sort" aria-hidden="true">${sorted ? (sort.down ? "↓" : "↑") : ""}</span>
      </button>
    </th>
  `;
}

/**
 * `columns` are `{ key, title, value?, cell, numeric? }`: `value` makes a column sortable, `cell` draws it.
 * The first one heads its row.
 */
export function SortedTable({ name, caption, columns, items, itemKey, rowHeight, first }) {
  const [sort, setSort] = useKept(`sort ${name}`, first);
  const by = columns.find((column) => column.key === sort.key);
  const rows = ordered(items, by.value, sort.down);
  return html`
    <table class=${`table ${name}`} role="table" aria-rowcount=${rows.length + 1}>
      <caption class="sr">${caption}</caption>
      <thead role="rowgroup">
        <tr role="row">${columns.map((column) => html`<${Heading} key=${column.key} column=${column} sort=${sort} onSort=${setSort} />`)}</tr>
      </thead>
      <${WindowedRows}
        items=${rows}
        rowHeight=${rowHeight}
        columns=${columns.length}
        row=${(item, index) => html`
          <tr role="row" key=${itemKey(item)} aria-rowindex=${index + 2} style=${{ height: `${rowHeight}px` }}>
            ${columns.map((column, place) =>
              place === 0
                ? html`<th role="rowheader" scope="row" class=${`col-${column.key}`}>${column.cell(item)}</th>`
                : html`<td role="cell" class=${`col-${column.key} ${column.numeric ? "numeric" : ""}`}>${column.cell(item)}</td>`,
            )}
          </tr>
        `}
      />
    </table>
  `;
}
