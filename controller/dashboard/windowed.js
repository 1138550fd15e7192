// Virtual scrolling: only the visible rows of a list are in the document.

import { html, useLayoutEffect, useRef, useState } from "./html.js";

/** Extra rows above and below the visible ones. */
const OVERSCAN = 8;

/** The range of rows to render, `{ first, last }`, of `count` rows in the element of `ref`. */
export function useWindowed(count, rowHeight) {
  const ref = useRef(null);
  const [range, setRange] = useState({ first: 0, last: 40 });
  useLayoutEffect(() => {
    let frame = null;
    const measure = () => {
      frame = null;
      const top = -ref.current.getBoundingClientRect().top;
      const first = Math.max(0, Math.floor(top / rowHeight) - OVERSCAN);
      const last = Math.ceil((top + innerHeight) / rowHeight) + OVERSCAN;
      setRange((current) => (current.first === first && current.last === last ? current : { first, last }));
    };
    const schedule = () => (frame ??= requestAnimationFrame(measure));
    measure();
    addEventListener("scroll", schedule, { passive: true });
    addEventListener("resize", schedule);
    return () => {
      removeEventListener("scroll", schedule);
      removeEventListener("resize", schedule);
      if (frame) cancelAnimationFrame(frame);
    };
  }, [count, rowHeight]);
  const first = Math.min(range.first, Math.max(0, count - 1));
  return { ref, first, last: Math.max(first, Math.min(range.last, count)) };
}

/** The body of a table, with empty space for the rows that are not rendered. */
export function WindowedRows({ items, rowHeight, columns, row }) {
  const { ref, first, last } = useWindowed(items.length, rowHeight);
  const spacer = (rows) =>
    rows > 0 && html`<tr class="spacer" aria-hidden="true"><td colspan=${columns} style=${{ height: `${rows * rowHeight}px` }}></td></tr>`;
  return html`
    <tbody ref=${ref}>
      ${spacer(first)} ${items.slice(first, last).map((item, index) => row(item, first + index))} ${spacer(items.length - last)}
    </tbody>
  `;
}

/** The visible part of a scrolling element, in steps of `step` pixels to limit the updates. */
export function useViewport(step) {
  const ref = useRef(null);
  const [viewport, setViewport] = useState({ left: 0, top: 0, width: 1200, height: 800 });
  useLayoutEffect(() => {
    const element = ref.current;
    let frame = null;
    const measure = () => {
      frame = null;
      const left = Math.floor(element.scrollLeft / step) * step;
      const top = Math.floor(element.scrollTop / step) * step;
      const { clientWidth: width, clientHeight: height } = element;
      setViewport((current) =>
        current.left === left && current.top === top && current.width === width && current.height === height ? current : { left, top, width, height },
      );
    };
    const schedule = () => (frame ??= requestAnimationFrame(measure));
    const observer = new ResizeObserver(schedule);
    observer.observe(element);
    element.addEventListener("scroll", schedule, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", schedule);
      if (frame) cancelAnimationFrame(frame);
    };
  }, [step]);
  return [ref, viewport];
}
