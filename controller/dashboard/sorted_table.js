// A table that is sorted by the column whose heading is clicked, for any number of rows.

import { html } from "./html.js";
import { useSavedState } from "./hooks.js";
import { WindowedRows } from "./windowed.js";

const collator = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(String(a), String(b));
}

/** Items sorted by `value`. Those without a value come last in both directions. */
function sorted(items, value, down) {
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
  const isSorted = sort.key === column.key;
  const direction = sort.down ? "descending" : "ascending";
  return html`
    <th role="columnheader" scope="col" class=${classes} aria-sort=${isSorted ? direction : null}>
      <button type="button" onClick=${() => onSort({ key: column.key, down: isSorted ? !sort.down : Boolean(column.numeric) })}>
        ${column.title}<span class="sort" aria-hidden="true">${isSorted ? (sort.down ? "↓" : "↑") : ""}</span>
      </button>
    </th>
  `;
}

/**
 * `columns` are `{ key, title, value?, cell, numeric? }`: `value` makes a column sortable, `cell` renders it.
 * The first column holds the row headers. `defaultSort` is `{ key, down }`.
 */
export function SortedTable({ name, caption, columns, items, itemKey, rowHeight, defaultSort }) {
  const [sort, setSort] = useSavedState(`sort ${name}`, defaultSort);
  const sortColumn = columns.find((column) => column.key === sort.key);
  const rows = sorted(items, sortColumn.value, sort.down);
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
            ${columns.map((column, position) =>
              position === 0
                ? html`<th role="rowheader" scope="row" class=${`col-${column.key}`}>${column.cell(item)}</th>`
                : html`<td role="cell" class=${`col-${column.key} ${column.numeric ? "numeric" : ""}`}>${column.cell(item)}</td>`,
            )}
          </tr>
        `}
      />
    </table>
  `;
}
